select
  known.snapshot,
  known.user_id,
  list(
    {
      'item_id': cards.item_id,
      'title': cards.title,
      'categories': cards.categories,
      'line': cards.line,
    }
    order by known.prompt_rank
  ) as items,
from {{ ref('fct_known_interactions') }} as known
inner join {{ ref('int_item_cards') }} as cards on cards.item_id = known.item_id
cross join {{ ref('stg_parameters') }} as parameters
where known.prompt_rank <= parameters.prompt_history
group by known.snapshot, known.user_id
