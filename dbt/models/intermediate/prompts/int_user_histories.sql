with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

known_interactions as (
  select *
  from {{ ref('int_known_interactions') }}
),

cards as (
  select *
  from {{ ref('int_item_cards') }}
)

select
  known_interactions.snapshot,
  known_interactions.user_id,
  list(
    {
      'item_id': cards.item_id,
      'title': cards.title,
      'categories': cards.categories,
      'line': cards.line,
    }
    order by known_interactions.prompt_rank
  ) as items,
from known_interactions
inner join cards on cards.item_id = known_interactions.item_id
cross join parameters
where known_interactions.prompt_rank <= parameters.prompt_history
group by known_interactions.snapshot, known_interactions.user_id
