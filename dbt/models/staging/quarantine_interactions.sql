{{ config(materialized='table') }}

select
  base.reason,
  reasons.field,
  left(base.faulty_value, 200) as value,
  reasons.remedy,
  base.source_file,
  base.source_row,
  base.raw,
from {{ ref('base_interactions') }} as base
left join {{ ref('quarantine_reasons') }} as reasons
  on reasons.table_name = 'interactions'
  and reasons.reason = base.reason
where base.status = 'quarantined'
