{# Users and items have the same profile tables; these macros write the shared part. `entity` is user or item. #}

{# All profiles of ids that still exist, with their quality. Reads three CTEs: `landed_profiles` (the rows of the
   artifacts), the dimension `users` or `items`, and `embeddings`. #}
{% macro scored_profiles(entity) -%}
existing as (
  select *
  from landed_profiles
  where {{ entity }}_id in (select {{ entity }}_id from {{ entity }}s)
  qualify row_number() over (partition by {{ entity }}_id, as_of, version order by snapshot) = 1
),

phrases as (
  select
    * exclude (identity, interests),
    {{ filled_phrases('identity') }} as identity,
    {{ filled_phrases('interests') }} as interests,
    coalesce(len(existing.identity) + len(existing.interests), 0) as n_phrases,
  from existing
),

encoded as (
  select distinct text_hash
  from embeddings
)

select
  phrases.{{ entity }}_id,
  phrases.snapshot,
  phrases.as_of,
  phrases.version,
  phrases.engine,
  phrases.engine_version,
  phrases.profile,
  sha256(phrases.profile) as text_hash,
  phrases.prompt_hash,
  phrases.parse_status,
  phrases.flag,
  phrases.seed::bigint as seed,
  phrases.tokens::bigint as tokens,
  phrases.latency_ms::double as latency_ms,
  phrases.identity,
  phrases.interests,
  {{ profile_quality('phrases.identity', 'phrases.interests', 'phrases.n_phrases') }}::double as quality,
  encoded.text_hash is not null as has_embedding,
from phrases
left join encoded on encoded.text_hash = sha256(phrases.profile)
{%- endmacro %}

{% macro filled_phrases(phrases) -%}
  list_filter(coalesce({{ phrases }}, []), lambda phrase: phrase <> '')
{%- endmacro %}

{# The mean of two shares: phrases that are filled, and filled phrases that are distinct; 0 where a part has none. #}
{% macro profile_quality(identity, interests, n_phrases) -%}
  case
    when len({{ identity }}) = 0 or len({{ interests }}) = 0 then 0.0
    else (
      (len({{ identity }}) + len({{ interests }})) / {{ n_phrases }}
      + len(list_distinct(list_transform({{ identity }} || {{ interests }}, lambda phrase: lower(phrase))))
      / (len({{ identity }}) + len({{ interests }}))
    ) / 2
  end
{%- endmacro %}

{# The newest profile of the current versions for each combination of `keys`, none later than the newest snapshot. Reads
   the CTEs `profiles`, `current_artifacts` and `snapshots`. #}
{% macro current_profiles(keys) -%}
select profiles.*
from profiles
inner join current_artifacts
  on current_artifacts.kind = 'profiles'
  and current_artifacts.version = profiles.version
where profiles.as_of <= (select max(as_of) from snapshots)
qualify row_number() over (
  partition by {% for key in keys %}profiles.{{ key }}{{ ', ' if not loop.last }}{% endfor %}
  order by profiles.as_of desc, current_artifacts.position desc, profiles.snapshot
) = 1
{%- endmacro %}

{# The current profiles of a feature view: one row for each id and as_of, with the embedding of its text. Reads the CTEs
   of `current_profiles` and `embeddings`. #}
{% macro profile_features(entity) -%}
current_profiles as (
  {{ current_profiles([entity ~ '_id', 'as_of']) }}
)

select
  current_profiles.{{ entity }}_id,
  current_profiles.as_of,
  {{ build_time() }} as created_at,
  current_profiles.profile,
  embeddings.embedding,
  current_profiles.quality::float as quality,
  current_profiles.engine,
  current_profiles.flag,
from current_profiles
inner join embeddings on embeddings.text_hash = current_profiles.text_hash
{%- endmacro %}
