{# Users and items have the same profile tables; these macros write them once. `entity` is user or item. #}

{# Every profile ever written about an id that still exists, parsed and scored. #}
{% macro profile_history(entity) %}
with landed as (
  select
    {{ entity }}_id,
    snapshot,
    as_of,
    version,
    engine,
    engine_version,
    profile,
    prompt_hash,
    parse_status,
    flag,
    seed,
    tokens,
    latency_ms,
    regexp_extract(
      profile,
      '^\s*(?:User|Item) identity:\s*([^;:]*);\s*(?:User|Item) interests:\s*([^;:]*)$',
      ['identity', 'interests'],
      'i'
    ) as parts,
  from {{ source('artifacts', entity ~ '_profiles') }}
  where {{ entity }}_id in (select {{ entity }}_id from {{ ref('dim_' ~ entity ~ 's') }})
  qualify row_number() over (partition by {{ entity }}_id, as_of, version order by snapshot) = 1
),

split_up as (
  select
    *,
    string_split(parts.identity, ',') || string_split(parts.interests, ',') as pieces,
    {{ phrases('parts.identity') }} as identity,
    {{ phrases('parts.interests') }} as interests,
    identity || interests as all_phrases,
  from landed
),

encoded as (
  select distinct text_hash
  from {{ ref('stg_embeddings') }}
)

select
  split_up.{{ entity }}_id,
  split_up.snapshot,
  split_up.as_of,
  split_up.version,
  split_up.engine,
  split_up.engine_version,
  split_up.profile,
  sha256(split_up.profile) as text_hash,
  split_up.prompt_hash,
  split_up.parse_status,
  split_up.flag,
  split_up.seed::bigint as seed,
  split_up.tokens::bigint as tokens,
  split_up.latency_ms::double as latency_ms,
  split_up.identity,
  split_up.interests,
  case
    when len(identity) = 0 or len(interests) = 0 then 0.0
    else (
      len(all_phrases) / len(pieces)
      + len(list_distinct(list_transform(all_phrases, lambda p: lower(p)))) / len(all_phrases)
    ) / 2
  end::double as quality,
  encoded.text_hash is not null as has_embedding,
from split_up
left join encoded on encoded.text_hash = sha256(split_up.profile)
{% endmacro %}

{% macro phrases(text) -%}
  list_filter(list_transform(string_split({{ text }}, ','), lambda p: trim(p)), lambda p: p <> '')
{%- endmacro %}

{# The current profile of each id: the current version's newest that is not ahead of what the warehouse knows. #}
{% macro current_profiles(entity, per_snapshot) %}
select
  profiles.*,
from {{ ref('fct_' ~ entity ~ '_profiles') }} as profiles
inner join {{ ref('stg_current_artifacts') }} as current
  on current.kind = 'profiles'
  and current.version = profiles.version
where profiles.as_of <= (select max(as_of) from {{ ref('int_snapshots') }})
qualify row_number() over (
  partition by profiles.{{ entity }}_id {{ ', profiles.as_of' if per_snapshot }}
  order by profiles.as_of desc, profiles.snapshot
) = 1
{% endmacro %}

{# Profile features of Feast: the current version's profiles that have a vector. #}
{% macro profile_features(entity) %}
with current_profiles as (
  {{ current_profiles(entity, true) }}
)

select
  profiles.{{ entity }}_id,
  profiles.as_of,
  {{ build_time() }} as created_at,
  profiles.profile,
  embeddings.embedding,
  profiles.quality::float as quality,
  profiles.engine,
  profiles.flag,
from current_profiles as profiles
inner join {{ ref('stg_embeddings') }} as embeddings on embeddings.text_hash = profiles.text_hash
{% endmacro %}
