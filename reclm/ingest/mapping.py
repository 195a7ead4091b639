"""Find out which column of a file has which role.

In: the columns of a file, and what the settings say. Out: {role: column}. A column is the one a setting names, else the
first synonym the file has (case, `_`, `-`, blanks and RecBole's `:token` do not matter). No column has two roles. A
missing one raises InputError that lists the columns found and the settings key that would say it, with an example only
where a column without a role looks the part.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from reclm.errors import InputError
from reclm.ingest.files import LogFile
from reclm.ingest.looks import look_of, samples

SYNONYMS: Mapping[str, str] = {
    "user": "user_id user uid customer_id customer member_id visitor_id account_id client_id reviewer_id person_id "
    "member visitor client reader_id listener_id buyer_id shopper_id subscriber_id player_id student_id learner_id "
    "viewer_id profile_id household_id household_key cust_id customer_no customer_number user_no user_idx user_index "
    "user_name username user_hash steam_id msno reviewer review_profile_name device_id cookie_id anonymous_id guest_id "
    "session_id session",
    "item": "item_id item iid movie_id movie product_id product sku asin parent_asin article_id news_id book_id "
    "track_id song_id business_id place_id game_id anime_id content_id "
    "isbn isbn13 video_id show_id film_id title_id artist_id album_id podcast_id episode_id recipe_id beer_id wine_id "
    "course_id job_id poi_id venue_id location_id gmap_id restaurant_id hotel_id listing_id property_id app_id "
    "goods_id offer_id ad_id post_id document_id doc_id media_id photo_id pin_id joke_id manga_id work_id service_id "
    "sku_id product_code item_code stock_code article_no item_no item_idx item_index beer_beer_id track_uri song track "
    "artist artist_mbid film book recipe beer business venue app game article content video",
    "timestamp": "event_ts timestamp ts time when event_time datetime date event_timestamp created_at unix_review_time "
    "event_date dt ds day t_dat time_stamp timestamp_ms time_ms unix_time unixtime epoch utc_time "
    "interaction_time occurred_at rating_timestamp rating_date rated_at review_time review_date order_date "
    "ordered_at order_purchase_timestamp order_timestamp order_time purchase_date purchased_at "
    "transaction_date transaction_dt transaction_time invoice_date visit_date visit_time view_date viewed_at "
    "watch_date watched_at click_time clicked_at played_at play_time listened_at last_played log_time "
    "server_time start_time date_time created creation_date added_at submitted_at updated_at",
    "weight": "weight rating score stars overall strength value "
    "book_rating user_rating ratings review_rating review_score review_overall review_stars star_rating rating_score "
    "plays play_count playcount listen_count listens count counts quantity qty frequency playtime_forever watch_ratio",
    "event": "event_type event event_name action action_type behavior behavior_type behaviour behaviour_type "
    "interaction interaction_type activity activity_type feedback_type type",
    "title": "title name item_name item_title product_title product_name movie_title headline "
    "book_title track_name track_title song_title song_name article_title recipe_name prod_name anime_name game_name "
    "app_name business_name course_title job_title original_title primary_title display_name artist_name",
    "categories": "categories category genres genre tags main_category "
    "category_name category_path category_code product_category product_category_name item_category category_list "
    "listed_in product_type_name department_name section_name topics topic subjects cuisine",
    "created": "created_ts created_at created release_date published_at published date_added "
    "publish_date publish_time publication_date date_published pub_date launch_date date_first_available",
}
"""{role: names of columns that have it, the most usual first}."""
SETTINGS_KEYS: Mapping[str, str] = {role: f"data.{role}_column" for role in SYNONYMS}
SHOWN_SYNONYMS = 8
_EPOCH_OR_DAY = re.compile(r"(?:1\d{9}|1\d{12}|(?:19|20)\d{6})(?:\.\d+)?")
NEAR = 0.75
"""Similarity (difflib's ratio) from which one name is a misspelling of another."""
ENOUGH = 20
"""Values from which their repeats tell an id of people or things from the number of a row."""


def plain_name(name: str) -> str:
    """Return the letters and digits of a column's name, in lower case, without RecBole's type."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r":(?:token|float)(?:_seq)?$", "", name.lower()))


def candidates(file: LogFile, role: str, also: Sequence[str] = ()) -> list[str]:
    """Return the columns of a file that are called like `role`, the most usual name first."""
    by_plain = {plain_name(column): column for column in reversed(file.columns)}
    found = (by_plain.get(plain_name(name), "") for name in (*SYNONYMS[role].split(), *also))
    return [column for column in dict.fromkeys(found) if column]


def find_roles(
    file: LogFile,
    named: Mapping[str, str],
    required: Sequence[str] = (),
    *,
    prefer: Mapping[str, str] | None = None,
    also: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, str]:
    """Return {role: column of the file, or ''} for the roles of `named`, which maps each to the settings' column or ''.

    `prefer` names columns that come before synonyms, `also` further synonyms of a role for this file alone. Raises
    InputError when a column that the settings name is not there, when they give one column two roles, and when none is
    found for a role of `required`.
    """
    roles: dict[str, str] = {}
    for role, name in named.items():
        if name:
            roles[role] = _named_column(file, role, name, roles)
    for role in named:
        if role in roles:
            continue
        preferred = [name for name in [(prefer or {}).get(role, "")] if name in file.columns]
        names = [*preferred, *candidates(file, role, (also or {}).get(role, ()))]
        roles[role] = next((name for name in names if name not in roles.values()), "")
    for role in required:
        if not roles[role]:
            raise _missing(file, role, "", roles)
    return {role: roles[role] for role in named}


def _named_column(file: LogFile, role: str, name: str, roles: Mapping[str, str]) -> str:
    found = next((c for c in file.columns if c == name), "") or next(
        (c for c in file.columns if c.lower() == name.lower()), ""
    )
    if not found:
        raise _missing(file, role, name, roles)
    other = next((other for other, column in roles.items() if column == found), "")
    if other:
        raise InputError(
            f"{file.path}: {SETTINGS_KEYS[other]} and {SETTINGS_KEYS[role]} both name {found!r}; a column has one "
            f"role, so give one of them another column of {_listed(file, {})}"
        )
    return found


def _missing(file: LogFile, role: str, named: str, roles: Mapping[str, str]) -> InputError:
    """Return the error of a role without a column, with an example only where a column looks the part."""
    key, synonyms = SETTINGS_KEYS[role], SYNONYMS[role].split()
    more = ", …" if len(synonyms) > SHOWN_SYNONYMS else ""
    problem = (
        f"no column {named!r}"
        if named
        else f"no column for the {role} (looked for {', '.join(synonyms[:SHOWN_SYNONYMS])}{more})"
    )
    free = [column for column in file.columns if column not in roles.values()]
    near = _nearest([named] if named else synonyms, free)
    values = samples(file, free)
    fitting = [column for column in free if looks_like(role, column, values[column])]
    hint = f"; the nearest is {near!r}" if near else ""
    best = near if near in fitting or named else next(iter(fitting), "") if len(fitting) == 1 else ""
    if best:
        remedy = f"Set {key} to the right one, for example --set {key}={best}"
    elif fitting:
        remedy = f"Set {key} to the right one: {', '.join(fitting)} could be it"
    else:
        remedy = f"No column without a role looks like one: set {key} if one is, or add it to the file"
    return InputError(f"{file.path} has {problem}: its columns are {_listed(file, roles)}{hint}. {remedy}")


def _nearest(wanted: Sequence[str], free: Sequence[str]) -> str:
    by_plain = {plain_name(column): column for column in free}
    for name in wanted:
        found = difflib.get_close_matches(plain_name(name), list(by_plain), n=1, cutoff=NEAR)
        if found:
            return by_plain[found[0]]
    return ""


def _listed(file: LogFile, roles: Mapping[str, str]) -> str:
    role_of = {column: f" ({role})" for role, column in roles.items()}
    return ", ".join(f"{column!r}{role_of.get(column, '')}" for column in file.columns)


def looks_like(role: str, column: str, values: Sequence[str]) -> bool:
    """Return whether the values of a column could be those of a role; without values its name decides elsewhere."""
    if not re.search(r"[^\W\d]", column):  # a number as a name: the first line is no header
        return False
    if not values:
        return role not in ("user", "item", "timestamp")
    look = look_of(values)
    if role == "timestamp":
        return _are_times(values, look)
    if role in ("user", "item"):
        return _are_ids(values, look)
    return True


def _are_times(values: Sequence[str], look: str) -> bool:
    return look == "dates" or all(_EPOCH_OR_DAY.fullmatch(value.strip()) for value in values)


def _are_ids(values: Sequence[str], look: str) -> bool:
    if look in ("flags", "links", "dates") or _are_times(values, look):
        return False
    if any(len(value) > 100 or len(value.split()) > 3 for value in values):
        return False
    if any(re.fullmatch(r"[+-]?\d*[.,]\d*[1-9]\d*", value.strip()) for value in values):  # fractions
        return False
    distinct = len(set(values))
    return len(values) < ENOUGH or max(2, len(values) // 200) < distinct < len(values)
