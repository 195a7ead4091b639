{# CTEs that end in `prompt_ranked`: `relation` (whose rows are told apart by `keys` and item_id, and have history_rank and
   categories) with prompt_rank, the order in which items stand for a user in a prompt: in turn the latest and the most
   typical, whose categories are the commonest among the rows of the same keys. Nothing but those rows has a say. #}
{% macro prompt_ranks(relation, keys) -%}
{% set keys = keys | join(', ') -%}
labelled as (
  select
    {{ keys }},
    item_id,
    unnest(categories) as category,
  from {{ relation }}
),

tastes as (
  select
    {{ keys }},
    category,
    count(*) as n_items,
  from labelled
  group by {{ keys }}, category
),

typicality as (
  select
    {{ keys }},
    item_id,
    avg(n_items) as typicality,
  from labelled
  inner join tastes using ({{ keys }}, category)
  group by {{ keys }}, item_id
),

placed as (
  select
    *,
    row_number() over (partition by {{ keys }} order by history_rank) as place,
    row_number() over (partition by {{ keys }} order by coalesce(typicality, 0) desc, history_rank) as typical_place,
  from {{ relation }}
  left join typicality using ({{ keys }}, item_id)
),

prompt_ranked as (
  select
    * exclude (place, typical_place, typicality),
    row_number() over (partition by {{ keys }} order by least(2 * place - 1, 2 * typical_place), place) as prompt_rank,
  from placed
)
{%- endmacro %}

{# A user's neighbour as prompts and dialogues tell it, with the first three of the items that stand for them. #}
{% macro neighbour_entry(user_id, score, items) -%}
  {
    'user_id': {{ user_id }},
    'score': round({{ score }}, 4),
    'items': list_transform({{ items }}[1:3], lambda item: {'item_id': item.item_id, 'line': item.line}),
  }
{%- endmacro %}
