-- The sparse regime uses only rows marked in_sparse_train; a log without such rows leaves nothing to train on.
-- Remedy: mark the rows, or set data.regime=dense.
{{ config(tags=['features']) }}

select parameters.regime
from {{ ref('stg_parameters') }} as parameters
where
  parameters.regime = 'sparse'
  and exists (select 1 from {{ ref('stg_interactions') }})
  and not exists (select 1 from {{ ref('stg_interactions') }} where in_sparse_train)
