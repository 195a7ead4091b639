{# An end of the 95 % interval of a share, `-` the lower and `+` the upper one: Wilson 1927, "Probable inference, the
   law of succession, and statistical inference". It is never empty, also where nobody or everybody answered. #}
{% macro wilson(successes, n, end) -%}
  {%- set z2 = 3.841458820694124 -%}
  {%- set spread = 'sqrt(' ~ z2 ~ ' * (' ~ successes ~ ' * (1 - ' ~ successes ~ ' / ' ~ n ~ ') + ' ~ z2 ~ ' / 4))' -%}
  greatest(0.0, least(1.0, ({{ successes }} + {{ z2 }} / 2 {{ end }} {{ spread }}) / ({{ n }} + {{ z2 }})))
{%- endmacro %}
