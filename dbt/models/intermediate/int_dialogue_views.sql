with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

known as (
  select
    known.user_id,
    known.item_id,
    known.history_rank,
    items.categories,
  from {{ ref('fct_known_interactions') }} as known
  inner join {{ ref('dim_items') }} as items on items.item_id = known.item_id
  where known.snapshot = 'select'
),

users as (
  select
    user_id,
    count(*) as n_known,
    string_agg(item_id, chr(31) order by item_id) as history,
  from known
  group by user_id
),

views as (
  select
    users.user_id,
    users.n_known >= 2 as asks,
    unnest(case when users.n_known >= 5 then range(0, parameters.sparse_views + 1) else [0] end)::bigint as view,
    case when {{ hash_unit('parameters.seed', 'fold', 'users.history') }} < 0.1 then 'held_out' else 'train' end as fold,
    parameters.seed,
  from users
  cross join parameters
),

dialogues as (
  select
    *,
    concat('user:', user_id, ':', view) as dialogue_id,
    asks and {{ hash_unit('seed', 'answer', "concat('user:', user_id, ':', view)") }} < 0.5 as answer,
    1 + floor({{ hash_unit('seed', 'sparse', "concat('user:', user_id, ':', view)") }} * 3) as n_if_sparse,
  from views
),

drawn as (
  select
    dialogues.*,
    known.item_id,
    known.history_rank,
    known.categories,
    row_number() over lots as draw,
    first_value(known.item_id) over lots as drawn_item_id,
  from dialogues
  inner join known on known.user_id = dialogues.user_id
  window lots as (
    partition by dialogues.dialogue_id
    order by {{ hash_text('dialogues.seed', 'withheld', 'dialogues.dialogue_id || chr(31) || known.item_id') }}
  )
),

-- A prompt shows first what tells most of a user: judged by what the dialogue knows alone, since the order would tell of
-- the withheld item otherwise.
seen as (
  select *
  from drawn
  where
    case
      when view > 0 then draw between 2 and n_if_sparse + 1
      else not answer or draw > 1
    end
),

{{ prompt_ranks('seen', ['dialogue_id']) }},

told as (
  select
    dialogue_id,
    user_id,
    view,
    fold,
    asks,
    answer,
    drawn_item_id,
    list(item_id order by prompt_rank) as known_items,
  from prompt_ranked
  group by all
),

-- Few items are soon the same few. What is shown by dialogues of both folds stays with the fold that shows it more often,
-- so that nothing a held-out dialogue shows is trained on, and as little as possible is lost.
compared as (
  select
    told.*,
    avg((fold = 'held_out')::int) over (partition by list_sort(known_items[1:parameters.prompt_history])) as held_out_share,
  from told
  cross join parameters
)

select
  dialogue_id,
  'select' as snapshot,
  user_id,
  view,
  fold,
  asks,
  answer,
  drawn_item_id,
  known_items,
  view > 0 or answer as is_folded,
from compared
where (fold = 'held_out') = (held_out_share >= 0.5)
