{{ config(tags=['features', 'items', 'profiles', 'item_profiles']) }}

with snapshots as (
  select *
  from {{ ref('int_snapshots') }}
),

items as (
  select *
  from {{ ref('dim_items') }}
),

embeddings as (
  select *
  from {{ ref('stg_embeddings') }}
)

select
  items.item_id,
  snapshots.as_of,
  {{ build_time() }} as created_at,
  coalesce(items.title, '') as title,
  embeddings.embedding,
from items
cross join snapshots
inner join embeddings on embeddings.text_hash = sha256(items.full_text)
