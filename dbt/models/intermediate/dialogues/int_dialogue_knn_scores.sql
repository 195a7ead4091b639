with parameters as (
  select *
  from {{ ref('stg_parameters') }}
),

dialogue_pairs as (
  select *
  from {{ ref('int_dialogue_pairs') }}
),

recent as (
  select
    user_id,
    item_id,
  from {{ ref('int_known_interactions') }}
  where snapshot = 'select' and history_rank <= (select recent_items from parameters)
),

item_counts as (
  select
    item_id,
    count(*) as n_users,
  from recent
  group by item_id
),

item_pairs as (
  select distinct
    item_id,
    shown_id,
  from dialogue_pairs
),

pair_counts as (
  select
    item_pairs.item_id,
    item_pairs.shown_id,
    count(*) as n_users,
  from item_pairs
  inner join recent as own on own.item_id = item_pairs.item_id
  inner join recent as other
    on other.item_id = item_pairs.shown_id
    and other.user_id = own.user_id
  group by item_pairs.item_id, item_pairs.shown_id
),

-- Counts without the user of the dialogue: the user's own pair of items would give the answer away.
counts_without_user as (
  select
    dialogue_pairs.dialogue_id,
    (user_item.user_id is not null)::int as has_item,
    (user_shown.user_id is not null)::int as has_shown,
    pair_counts.n_users - has_item * has_shown as n_both,
    item_counts.n_users - has_item as n_item,
    shown_counts.n_users - has_shown as n_shown,
  from dialogue_pairs
  left join pair_counts
    on pair_counts.item_id = dialogue_pairs.item_id
    and pair_counts.shown_id = dialogue_pairs.shown_id
  left join item_counts on item_counts.item_id = dialogue_pairs.item_id
  left join item_counts as shown_counts on shown_counts.item_id = dialogue_pairs.shown_id
  left join recent as user_item
    on user_item.user_id = dialogue_pairs.user_id
    and user_item.item_id = dialogue_pairs.item_id
  left join recent as user_shown
    on user_shown.user_id = dialogue_pairs.user_id
    and user_shown.item_id = dialogue_pairs.shown_id
),

cosines as (
  select
    dialogue_id,
    case
      when n_item > 0 and n_shown > 0 then coalesce(n_both, 0) / sqrt(n_item * n_shown)
      else 0
    end as cosine,
  from counts_without_user
)

-- Summed as decimals, whose sum does not depend on the order.
select
  dialogue_id,
  sum(cosine::decimal(18, 6)) as knn_score,
from cosines
group by dialogue_id
