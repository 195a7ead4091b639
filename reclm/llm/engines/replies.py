"""Read the replies of OpenAI-compatible endpoints, and adapt requests to what a model accepts.

In: a chat completion or an error. Out: its text and why it may be unusable, or the request field that the model
refuses. Models differ in what they accept: some want `max_completion_tokens` in place of `max_tokens`, some their own
temperature, some no seed. Such a refusal (HTTP 400 or 422 that names the field) is answered by changing the field for
the rest of the run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from reclm.errors import ModelError
from reclm.profiles import grammar
from reclm.profiles.extraction import profile_in
from reclm.progress import say

if TYPE_CHECKING:
    from openai import APIStatusError
    from openai.types.chat.chat_completion import Choice

ADAPTED = {"max_tokens": "max_completion_tokens", "temperature": None, "seed": None}
"""{request field: the field in its place, or None for none}."""
REFUSING_STATUSES = (400, 422)
EXAMPLE = "User identity: home cook; User interests: herbs, knives"
_REFUSED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|forbidden|deprecated|"
    r"only the default|instead",
    re.IGNORECASE,
)
_THOUGHT_FIELDS = ("reasoning_content", "reasoning")
FIRST_ANSWERS = 20
"""Answers after which a run ends if none of them held a profile; the others would be paid for in vain."""


class RequestFields:
    """The fields of every request, adapted to what the model turned out to refuse."""

    def __init__(self, extra: Mapping[str, Any], describe: Callable[[Exception], str]) -> None:
        self.extra, self._describe = extra, describe
        self._changed: dict[str, str | None] = {}

    def of(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return `fields` as the model accepts them, with those of the settings; a field of null is left out."""
        accepted = {self._changed.get(name, name): value for name, value in fields.items()}
        return {name: value for name, value in (accepted | dict(self.extra)).items() if name and value is not None}

    def adapt(self, error: APIStatusError, sent: Mapping[str, Any]) -> bool:
        """Return whether the error refuses a field that can be changed, and change it for all further requests."""
        field = _refused_field(error, [name for name in sent if name in ADAPTED and name not in self.extra])
        if field is None:
            return False
        if field not in self._changed:
            self._changed[field] = other = ADAPTED[field]
            does = f"it is sent as {other!r}" if other else "it is left out"
            say(f"the model refuses the request field {field!r}; {does} from now on ({self._describe(error)})")
        return True


def _refused_field(error: APIStatusError, sent: list[str]) -> str | None:
    if error.status_code not in REFUSING_STATUSES or not _REFUSED.search(str(error)):
        return None
    body = error.body if isinstance(error.body, Mapping) else {}
    named = body.get("param")
    if named in sent:
        return str(named)
    return next((name for name in sent if re.search(rf"\b{name}\b", str(error))), None)


def message_of(error: Exception) -> str:
    """Return an error in one line. A page of HTML is called one."""
    page = getattr(error, "doc", None) or getattr(getattr(error, "response", None), "text", None)
    if isinstance(page, str) and is_page(page):
        return f"an HTML page and no JSON: {in_one_line(page)}"
    return in_one_line(f"{type(error).__name__}: {error}")


class FirstAnswers:
    """Watches the first answers of a run until one holds a profile."""

    def __init__(self, who: str) -> None:
        self.who = who
        self._obeyed = False
        self._causes: list[str] = []

    def see(self, choice: Choice) -> None:
        """Look at an answer. Raises ModelError, which shows it, when FIRST_ANSWERS of them held no profile."""
        text = choice.message.content or ""
        self._obeyed = self._obeyed or grammar.parse(profile_in(text)).ok
        if self._obeyed:
            return
        self._causes.append(why_unusable(choice))
        if len(self._causes) == FIRST_ANSWERS:
            cause, _ = Counter(filter(None, self._causes)).most_common(1)[0] if any(self._causes) else ("", 0)
            cause = f"; the likely cause: {cause}" if cause else "; try another model, or openai.extra"
            raise ModelError(
                f"none of the first {FIRST_ANSWERS} answers of {self.who} holds a profile, a line such as `"
                f"{EXAMPLE}`{cause}. The run ends before more are paid for. The last answer: {in_one_line(text)!r}"
            )


def is_page(text: str) -> bool:
    """Return whether a reply is a page of HTML: that of a proxy, or of a site at the address."""
    return text.lstrip()[:15].lower().startswith(("<!doctype", "<html", "<head", "<body"))


def in_one_line(text: str, longest: int = 200) -> str:
    """Return a text on one line, cut to `longest` characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def why_unusable(choice: Choice) -> str:
    """Return why an answer that is no profile may be none, as far as the reply says; '' when it does not."""
    message = choice.message
    thought = next((value for name in _THOUGHT_FIELDS if (value := getattr(message, name, None))), None)
    if getattr(message, "refusal", None) or choice.finish_reason == "content_filter":
        return f"the model refuses to answer: {in_one_line(getattr(message, 'refusal', None) or 'content filter')}"
    if not (message.content or "").strip() and thought:
        return (
            "the content is empty and the reasoning is not: raise openai.max_tokens, or turn reasoning off with "
            "openai.extra"
        )
    if choice.finish_reason == "length":
        return "it was cut off: raise openai.max_tokens"
    if is_page(message.content or ""):
        return "it is an HTML page: check openai.base_url"
    return "" if (message.content or "").strip() else "it is empty"
