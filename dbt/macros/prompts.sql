{# CTEs that end in `prompt_ranked`: the rows of `relation` with prompt_rank, the order in which a prompt shows the
   items of a user. It takes in turn the latest item and the most typical one, whose categories are the most frequent
   among the rows with the same `keys`. The rows of `relation` are identified by `keys` and item_id, and have
   history_rank and categories. #}
{% macro prompt_ranks(relation, keys) -%}
{% set keys = keys | join(', ') -%}
item_categories as (
  select
    {{ keys }},
    item_id,
    unnest(categories) as category,
  from {{ relation }}
),

category_counts as (
  select
    {{ keys }},
    category,
    count(*) as n_items,
  from item_categories
  group by {{ keys }}, category
),

typicality as (
  select
    {{ keys }},
    item_id,
    avg(n_items) as typicality,
  from item_categories
  inner join category_counts using ({{ keys }}, category)
  group by {{ keys }}, item_id
),

positioned as (
  select
    *,
    row_number() over (partition by {{ keys }} order by history_rank) as position,
    row_number() over (
      partition by {{ keys }}
      order by coalesce(typicality, 0) desc, history_rank
    ) as typical_position,
  from {{ relation }}
  left join typicality using ({{ keys }}, item_id)
),

prompt_ranked as (
  select
    * exclude (position, typical_position, typicality),
    row_number() over (
      partition by {{ keys }}
      order by least(2 * position - 1, 2 * typical_position), position
    ) as prompt_rank,
  from positioned
)
{%- endmacro %}

{# A neighbour of a user as prompts and dialogues show it: the id, the score and up to three items of the neighbour. #}
{% macro neighbour_entry(user_id, score, items) -%}
  {
    'user_id': {{ user_id }},
    'score': round({{ score }}, 4),
    'items': list_transform({{ items }}[1:3], lambda item: {'item_id': item.item_id, 'line': item.line}),
  }
{%- endmacro %}
