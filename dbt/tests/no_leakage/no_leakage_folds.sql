-- What a held-out dialogue shows, no other that is trained on shows: not the items of a user, not the text of an item; and no
-- held-out user stands in one, be it as a neighbour or as the person that turn 2 asks about.
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
),

held_out as (
  select distinct user_id
  from {{ ref('fct_user_dialogues') }}
  where fold = 'held_out'
),

met as (
  select unnest(json_extract_string(neighbours, '$[*].user_id')) as user_id
  from {{ ref('fct_user_dialogues') }}
  where fold = 'train'
  union all
  select withheld_user_id
  from {{ ref('fct_item_dialogues') }}
  where fold = 'train'
)

select what
from shown
group by what
having count(distinct fold) > 1
union all
select distinct met.user_id
from met
inner join held_out on held_out.user_id = met.user_id
