with views as (
  select *
  from {{ ref('int_user_dialogue_views') }}
),

user_neighbours as (
  select *
  from {{ ref('int_user_neighbours') }}
),

held_out_users as (
  select distinct user_id
  from views
  where fold = 'held_out'
)

-- A held-out user does not appear in training, not even as a neighbour.
select
  views.dialogue_id,
  user_neighbours.neighbour_id,
  user_neighbours.score,
  row_number() over (partition by views.dialogue_id order by user_neighbours.rank) as rank,
from views
inner join user_neighbours
  on user_neighbours.snapshot = views.snapshot
  and user_neighbours.user_id = views.user_id
  and user_neighbours.dialogue_id = case when views.is_folded then views.dialogue_id else '' end
left join held_out_users on held_out_users.user_id = user_neighbours.neighbour_id
where views.fold = 'held_out' or held_out_users.user_id is null
