-- No dialogue of the train fold shows what a held-out dialogue shows: the same items of a user, or the same text of an
-- item. And no held-out user appears in the train fold, as a neighbour or as the user that turn 2 is about.
{{ config(tags=['features', 'no_leakage']) }}

with shown as (
  select
    list_sort(json_extract_string(history, '$[*].item_id'))::varchar as content,
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

appearing as (
  select unnest(json_extract_string(neighbours, '$[*].user_id')) as user_id
  from {{ ref('fct_user_dialogues') }}
  where fold = 'train'
  union all
  select withheld_user_id
  from {{ ref('fct_item_dialogues') }}
  where fold = 'train'
)

select content
from shown
group by content
having count(distinct fold) > 1
union all
select distinct appearing.user_id
from appearing
inner join held_out on held_out.user_id = appearing.user_id
