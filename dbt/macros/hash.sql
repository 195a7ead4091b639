{# Choices that look random but depend on the seed and the id alone, so that they hold across DuckDB versions. #}

{% macro hash_text(seed, purpose, id) -%}
  md5(concat({{ seed }}, ':{{ purpose }}:', {{ id }}))
{%- endmacro %}

{# A number in [0, 1), uniform over ids. #}
{% macro hash_unit(seed, purpose, id) -%}
  (cast('0x' || left({{ hash_text(seed, purpose, id) }}, 8) as bigint) / 4294967296.0)
{%- endmacro %}
