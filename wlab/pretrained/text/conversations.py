"""Conversations as tokens, by the template that a vocabulary carries."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from wlab.pretrained.text.tokenizer import Tokenizer, library


def apply_chat_template(
    words: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    **variables: Any,
) -> list[int]:
    """The tokens of a conversation, as the network was taught to read them (extra `text`).

    A template comes with a network's files and runs here, in Jinja's sandbox: it reaches what it is
    given and nothing else of Python, but may compute for as long as it likes.

    Args:
        words: With a `chat_template`.
        messages: Each with its `role` and `content`: what "system", "user", "assistant" said.
        add_generation_prompt: Whether the answer's beginning is added, so that one is drawn next.
        variables: What else the template asks for, such as `enable_thinking`.

    Raises:
        ImportError: If Jinja is not installed, naming the extra.
        ValueError: If there is no template, or it refuses the conversation, or is damaged.
    """
    if words.chat_template is None or words.inner is None:
        raise ValueError(
            "apply_chat_template: no chat template came with this vocabulary. The network may not "
            "have been taught to converse; if it was, `replace(words, chat_template=...)` sets one."
        )
    special = {
        f"{name}_token": words.inner.id_to_token(number)
        for name, number in (("bos", words.bos), ("eos", words.eos))
        if number is not None
    }
    said = {"messages": messages, "add_generation_prompt": add_generation_prompt}
    unsaid = {"tools": None, "documents": None}  # which templates compare with none
    text = _rendered(words.chat_template, unsaid | special | said | variables)
    return list(words.inner.encode(text, add_special_tokens=False).ids)


def _rendered(template: str, variables: Mapping[str, Any]) -> str:
    jinja2, sandbox = library("jinja2"), library("jinja2.sandbox")

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    try:
        return environment.from_string(template).render(variables)
    except (jinja2.TemplateError, ArithmeticError, LookupError, RecursionError, TypeError) as error:
        raise ValueError(f"The chat template refuses the conversation: {error}.") from None


def _json(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:
    """As it is: Jinja's own filter writes for web pages."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)


def _refuse(message: str) -> NoReturn:
    raise library("jinja2").TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
