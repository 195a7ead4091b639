{# A delivery is a build that only adds items which no interaction names. `reclm build` says so by RECLM_DELIVERY and
   lists the items in `delivered_items.parquet`. Incremental models then write the rows of these items alone; in any
   other build they write all rows. Both ways give the same table. #}
{% macro is_delivery() -%}
  {{ return(is_incremental() and env_var('RECLM_DELIVERY', '') == '1') }}
{%- endmacro %}

{# Before an incremental model writes: its rows of the delivered items are removed, or all of them. #}
{% macro make_room() -%}
  {%- if is_incremental() -%}
    delete from {{ this }}
    {%- if is_delivery() %}
    where item_id in (select item_id from {{ source('workspace', 'delivered_items') }})
    {%- endif %}
  {%- endif -%}
{%- endmacro %}
