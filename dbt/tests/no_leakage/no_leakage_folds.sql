-- What a held-out dialogue shows, no other that is trained on shows: not the items of a user, not the text of an item.
{{ config(tags=['features', 'no_leakage']) }}

with shown as (
  select
    list_sort(json_extract_string(history, '$[*].item_id'))::varchar as what,
    fold,
  from {{ ref('fct_user_dialogues') }}
  union all
  select
    line || chr(31) || text,
    fold,
  from {{ ref('fct_item_dialogues') }}
)

select what
from shown
group by what
having count(distinct fold) > 1
