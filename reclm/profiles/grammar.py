"""The one text form of a profile: `User identity: a, b, c; User interests: x, y, z` (after RecLM, arXiv 2412.19302).

Phrases go in and text comes out (`render`), or text comes in and phrases plus a verdict go out (`parse`). The same
rules serve prompts, structured decoding (`pattern`), rewards and quality metrics: a phrase is up to 6 words of up to
24 characters with no comma, semicolon, colon, control character, or character that chat templates build tokens from.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

IDENTITY_LABEL = "User identity:"
INTERESTS_LABEL = "User interests:"
MAX_WORDS = 6
MAX_WORD_LENGTH = 24
MAX_PHRASES = 20

OK = "ok"
EMPTY = "empty"
MALFORMED = "malformed"
DUPLICATED = "duplicated"
TOO_LONG = "too_long"
STATUSES = (OK, EMPTY, MALFORMED, DUPLICATED, TOO_LONG)

# A word of a phrase. ASCII escapes only, so that decoders with their own regex dialect read it as Python's `re` does.
_WORD = rf"[^\s,;:<>|\[\]{{}}\x00-\x1f\x7f]{{1,{MAX_WORD_LENGTH}}}"
PHRASE_PATTERN = rf"{_WORD}(?: {_WORD}){{0,{MAX_WORDS - 1}}}"

_MARKUP = re.compile(
    r"<\|[^<>|]{0,64}\|>"  # <|im_start|>, <|eot_id|>
    r"|<<?/?[A-Za-z_][\w-]{0,31}(?:\s[^<>]{0,200})?/?>>?"  # <s>, </s>, <start_of_turn>, <<SYS>>, HTML tags
    r"|\[/?[A-Z_]{2,31}\]"  # [INST], [/INST], [AVAILABLE_TOOLS]
)
_FORBIDDEN = re.compile(r"[,;:<>|\[\]{}]")
_EDGES = " .!?'\"`-_*/\\~=&()…–—•·“”‘’"
_ZERO_WIDTH = {"Cc", "Cf", "Cs", "Co", "Cn"}
_FORM = re.compile(
    rf"\s*{re.escape(IDENTITY_LABEL)}(?P<identity>[^;:]*);\s*{re.escape(INTERESTS_LABEL)}(?P<interests>[^;:]*)\s*"
)


@dataclass(frozen=True)
class Profile:
    """Who a user is and what interests them; for an item, who it is for and what interests those people."""

    identity: tuple[str, ...]
    interests: tuple[str, ...]


@dataclass(frozen=True)
class Parsed:
    """The result of parsing: one of STATUSES, the profile when the status is `ok`, and else what was wrong."""

    status: str
    profile: Profile | None = None
    reason: str = ""

    @property
    def ok(self) -> bool:
        return self.status == OK


def strip_markup(text: str) -> str:
    """Remove control characters, tags and chat-template tokens from a text; its words stay.

    Compatibility forms are normalised first (NFKC), so that look-alike brackets cannot hide a token.
    """
    text = unicodedata.normalize("NFKC", text)
    if not text.isprintable():
        text = "".join(_visible(character) for character in text)
    return _MARKUP.sub(" ", text)


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Zs", "Zl", "Zp") or character in "\t\n\r\v\f":
        return " "
    return "" if category in _ZERO_WIDTH else character


def clean_phrase(text: str) -> str:
    """Turn a text into a phrase of the grammar, '' when nothing is left. Cleaning it again changes nothing."""
    cleaned = _clean_once(text)
    while cleaned != text:
        text, cleaned = cleaned, _clean_once(cleaned)
    return cleaned


def _clean_once(text: str) -> str:
    words = _FORBIDDEN.sub(" ", strip_markup(text)).replace("_", " ").split()
    phrase = " ".join(word[:MAX_WORD_LENGTH] for word in words[:MAX_WORDS]).strip(_EDGES)
    return phrase if any(map(str.isalnum, phrase)) else ""


def clean_phrases(texts: Iterable[str], limit: int = MAX_PHRASES) -> tuple[str, ...]:
    """Return the first `limit` distinct phrases of `texts`, cleaned, in order; case is ignored in comparisons."""
    phrases: dict[str, str] = {}
    for text in texts:
        phrase = clean_phrase(text)
        if phrase and len(phrases) < limit:
            phrases.setdefault(phrase.casefold(), phrase)
    return tuple(phrases.values())


def render(profile: Profile) -> str:
    """Return the profile as text. Raises ValueError with the first fault that `validate` finds."""
    if faults := validate(profile):
        raise ValueError(f"not a valid profile: {faults[0]}")
    return f"{IDENTITY_LABEL} {', '.join(profile.identity)}; {INTERESTS_LABEL} {', '.join(profile.interests)}"


_PHRASE = re.compile(PHRASE_PATTERN)


def validate(profile: Profile) -> list[str]:
    """Return the faults of a profile, one sentence each; empty for a valid profile."""
    faults: list[str] = []
    for part, phrases in (("identity", profile.identity), ("interests", profile.interests)):
        if not phrases:
            faults.append(f"{part} has no phrase")
        if len(phrases) > MAX_PHRASES:
            faults.append(f"{part} has {len(phrases)} phrases; {MAX_PHRASES} are allowed")
        if len({phrase.casefold() for phrase in phrases}) < len(phrases):
            faults.append(f"{part} names a phrase twice")
        faults += [f"{part} holds {phrase!r}, which is no phrase" for phrase in phrases if not _is_phrase(phrase)]
    return faults


@lru_cache(maxsize=100_000)
def _is_phrase(phrase: str) -> bool:
    return _PHRASE.fullmatch(phrase) is not None


def parse(text: str | None) -> Parsed:
    """Parse a profile text. White space around phrases and one full stop at the end are accepted, nothing else."""
    if text is None or not text.strip():
        return Parsed(EMPTY, reason="no text")
    form = _form_of(text)
    if form is None:
        return Parsed(MALFORMED, reason=f"not of the form `{IDENTITY_LABEL} …; {INTERESTS_LABEL} …`")
    profile = Profile(_phrases(form["identity"]), _phrases(form["interests"]))
    return Parsed(*_verdict(profile))


def phrases_of(text: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the identity phrases and the interest phrases of a text of the form; both are empty for any other text.

    The phrases are not validated: one that is empty stays as ''.
    """
    form = _form_of(text)
    return ((), ()) if form is None else (_phrases(form["identity"]), _phrases(form["interests"]))


def _form_of(text: str | None) -> re.Match[str] | None:
    return _FORM.fullmatch((text or "").rstrip().removesuffix("."))


def _phrases(part: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in part.split(","))


def _verdict(profile: Profile) -> tuple[str, Profile | None, str]:
    for part in (profile.identity, profile.interests):
        if "" in part:
            return (EMPTY if not any(part) else MALFORMED), None, "a phrase is empty"
    faults = validate(profile)
    if not faults:
        return OK, profile, ""
    both = (profile.identity, profile.interests)
    if any(len(part) > MAX_PHRASES or any(map(_is_too_long, part)) for part in both):
        return TOO_LONG, None, faults[0]
    if all(_is_phrase(phrase) for part in both for phrase in part):
        return DUPLICATED, None, faults[0]
    return MALFORMED, None, faults[0]


def _is_too_long(phrase: str) -> bool:
    words = phrase.split(" ")
    return len(words) > MAX_WORDS or any(len(word) > MAX_WORD_LENGTH for word in words)


def pattern(identities: int | None = None, interests: int | None = None) -> str:
    """Return a regular expression that every rendered profile matches in full, for structured decoding.

    With `identities` and `interests`, a part holds exactly so many phrases; otherwise 1 to MAX_PHRASES.
    """

    def phrases(count: int | None) -> str:
        more = f"{{0,{MAX_PHRASES - 1}}}" if count is None else f"{{{count - 1}}}"
        return f"{PHRASE_PATTERN}(?:, {PHRASE_PATTERN}){more}"

    return f"{IDENTITY_LABEL} {phrases(identities)}; {INTERESTS_LABEL} {phrases(interests)}"
