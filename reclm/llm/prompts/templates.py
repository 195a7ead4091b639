"""Apply chat templates.

In: messages. Out: the text or the tokens that a model of any family reads. The template is the tokenizer's own.
Differences between models are levelled here: some refuse or drop a system turn, which is then put before the first user
turn; some close an answer with another token than the tokenizer's end token; some write earlier answers differently
from the one being written. `training_texts` therefore puts every answer behind exactly the prompt that asks for it when
the model is served, and a dialogue whose template rewrites earlier turns becomes several texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from reclm.errors import ModelError
from reclm.llm.prompts.messages import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
_PROBE = "quince medlar"
# For a tokenizer without a template. Text from a log never opens a line, so that it cannot forge a turn.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ 'Assistant: ' }}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['role'].capitalize() + ': ' + message['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)


@dataclass(frozen=True)
class Example:
    """One training sequence: tokens, and the same with IGNORED where a token carries no loss; equally long."""

    input_ids: list[int]
    labels: list[int]


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generation: bool) -> str:
    """Render messages with the tokenizer's chat template, ready for an answer when `generation`; thinking is off."""
    turns = [dict(message) for message in messages]
    if turns and turns[0]["role"] == "system" and not takes_system(tokenizer):
        turns = _without_system(turns)
    return _apply(tokenizer, turns, generation)


def _apply(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]], generation: bool) -> str:
    rendered = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=generation, enable_thinking=False
    )
    return str(rendered)


@lru_cache(maxsize=8)
def takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the template shows a system turn; some (Gemma) refuse it, some leave it out."""
    turns = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "x"}]
    try:
        return _PROBE in _apply(tokenizer, turns, True)
    except TemplateError:
        return False


def _without_system(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    system, first, *rest = turns
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def encode(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generation: bool = True) -> list[int]:
    """Return the tokens of `render`; the template writes the first token itself, so none is added."""
    return list(tokenizer(render(tokenizer, messages, generation=generation), add_special_tokens=False)["input_ids"])


def decode(tokenizer: PreTrainedTokenizerBase, answers: Sequence[Sequence[int]], ended: Sequence[bool]) -> list[str]:
    """Return the text of each answer; where it `ended`, the last token is the end token and left out."""
    tokens = [list(ids)[: -1 if end else None] for ids, end in zip(answers, ended, strict=True)]
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def token_counter(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[Message]], int]:
    """Return a function that counts the tokens of a prompt, template included."""

    def count(messages: list[Message]) -> int:
        return len(encode(tokenizer, messages))

    return count


def end_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the special token with which the template closes an answer; None when there is none."""
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PROBE}]
    closed = _apply(tokenizer, turns, False)
    if _PROBE not in closed:
        raise ModelError("the model's chat template drops the assistant's words; choose another llm.base_model")
    tail = closed[closed.rindex(_PROBE) + len(_PROBE) :].strip()
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return str(tokenizer.convert_ids_to_tokens(ids[0])) if ids and ids[0] in special else None


def prompt_and_answer(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], content: str) -> tuple[str, str]:
    """Return (prompt, prompt + `content` + end token), with the prompt exactly as it is served."""
    prompt = render(tokenizer, messages, generation=True)
    whole = render(tokenizer, [*messages, {"role": "assistant", "content": content}], generation=False)
    end = str(tokenizer.eos_token)
    if not whole.startswith(prompt) or not whole[len(prompt) :].lstrip().startswith(content):
        return prompt, prompt + content + end
    stop = whole.index(content, len(prompt)) + len(content)
    space = len(whole[stop:]) - len(whole[stop:].lstrip())
    closed = stop + space + len(end) if whole[stop + space :].startswith(end) else 0
    return prompt, whole[:closed] if closed else whole[:stop] + end


def training_texts(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> list[tuple[str, list[tuple[int, int]]]]:
    """Return texts to train on, each with the (start, end) characters of its answers, end token included.

    There is one text, unless the template writes an earlier answer differently from how it was served.
    """
    texts: list[tuple[str, list[tuple[int, int]]]] = []
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, whole = prompt_and_answer(tokenizer, messages[:turn], message["content"])
        span = (len(prompt), len(whole))
        if texts and prompt.startswith(texts[-1][0]):
            texts[-1] = (whole, [*texts[-1][1], span])
        else:
            texts.append((whole, [span]))
    return texts


def examples(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]]) -> list[Example]:
    """Return training sequences whose loss is on the assistant's turns only, end tokens included."""
    texts = [text for messages in conversations for text in training_texts(tokenizer, messages)]
    if not texts:
        return []
    encoded = tokenizer([text for text, _ in texts], add_special_tokens=False, return_offsets_mapping=True)
    found = []
    for ids, offsets, (_, spans) in zip(encoded["input_ids"], encoded["offset_mapping"], texts, strict=True):
        labels = [
            token if any(start < last and end > first for first, last in spans) else IGNORED
            for token, (start, end) in zip(ids, offsets, strict=True)
        ]
        found.append(Example(list(ids), labels))
    return found
