{# Cold-start severity of a user or an item, by known interactions. #}
{% macro interaction_band(n) -%}
  case
    when {{ n }} = 0 then '0'
    when {{ n }} <= 3 then '1-3'
    when {{ n }} <= 10 then '4-10'
    when {{ n }} <= 50 then '11-50'
    else '51+'
  end
{%- endmacro %}
