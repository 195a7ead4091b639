{# CTEs that end in `knn_scores` (dialogue_id, knn_score). They read two CTEs before them: `asked` (dialogue_id, user_id,
   item_id, shown_id: the item asked about with each item that is shown) and `parameters`. Co-occurrence is that of
   fct_item_neighbours, without the user the dialogue is about: their own pairs would give the answer away.
   Summed as decimals, whose sum does not depend on the order. #}
{% macro knn_scores() -%}
recent as (
  select
    user_id,
    item_id,
  from {{ ref('fct_known_interactions') }}
  where snapshot = 'select' and history_rank <= (select recent_items from parameters)
),

readers as (
  select
    item_id,
    count(*) as n,
  from recent
  group by item_id
),

pairs as (
  select distinct
    item_id,
    shown_id,
  from asked
),

met as (
  select
    pairs.item_id,
    pairs.shown_id,
    count(*) as n,
  from pairs
  inner join recent as a on a.item_id = pairs.item_id
  inner join recent as b
    on b.item_id = pairs.shown_id
    and b.user_id = a.user_id
  group by pairs.item_id, pairs.shown_id
),

others as (
  select
    asked.dialogue_id,
    (own_item.user_id is not null)::int as has_item,
    (own_shown.user_id is not null)::int as has_shown,
    met.n - has_item * has_shown as n,
    item_readers.n - has_item as n_item,
    shown_readers.n - has_shown as n_shown,
  from asked
  left join met
    on met.item_id = asked.item_id
    and met.shown_id = asked.shown_id
  left join readers as item_readers on item_readers.item_id = asked.item_id
  left join readers as shown_readers on shown_readers.item_id = asked.shown_id
  left join recent as own_item
    on own_item.user_id = asked.user_id
    and own_item.item_id = asked.item_id
  left join recent as own_shown
    on own_shown.user_id = asked.user_id
    and own_shown.item_id = asked.shown_id
),

knn_scores as (
  select
    dialogue_id,
    sum(case when n_item > 0 and n_shown > 0 then coalesce(n, 0) / sqrt(n_item * n_shown) else 0 end::decimal(18, 6)) as knn_score,
  from others
  group by dialogue_id
)
{%- endmacro %}
