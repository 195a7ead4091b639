select
  items.item_id,
  snapshots.as_of,
  {{ build_time() }} as created_at,
  coalesce(items.title, '') as title,
  embeddings.embedding,
from {{ ref('dim_items') }} as items
cross join {{ ref('int_snapshots') }} as snapshots
inner join {{ ref('stg_embeddings') }} as embeddings on embeddings.text_hash = sha256(items.full_text)
