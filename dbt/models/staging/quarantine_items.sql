{{ config(materialized='table') }}

select
  base.reason,
  reasons.field,
  left(base.faulty_value, 200) as value,
  reasons.remedy,
  base.source_file,
  base.source_row,
  base.raw,
from {{ ref('base_items') }} as base
left join {{ ref('quarantine_reasons') }} as reasons
  on reasons.table_name = 'items'
  and reasons.reason = base.reason
where base.status = 'quarantined'
