"""The vocabulary in a folder of the hub, out of it and into it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wlab.checkpoint.atomic import written_whole
from wlab.checkpoint.formats.json_text import json_object
from wlab.pretrained.text.tokenizer import Tokenizer, library, wrapped

_SETTINGS = "tokenizer_config.json"


def from_hub(path: str | Path, *, longest: int | None = None) -> Tokenizer:
    """Reads a `tokenizer.json`; texts get the special tokens that it prescribes.

    Args:
        path: The file.
        longest: Where texts are cut off, tokens; None for the whole text, whatever the file says.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ImportError: If the extra `text` is missing.
        ValueError: If the file cannot be read.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"Nothing at {path}.")
    try:
        inner = library().Tokenizer.from_file(str(path))
    except ImportError:
        raise
    except Exception as error:  # the package raises plain Exceptions
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from None
    inner.no_padding()
    if longest is None:
        inner.no_truncation()
    else:
        inner.enable_truncation(longest)
    return wrapped(inner)


def with_settings(words: Tokenizer, folder: Path, sizes: Mapping[str, Any]) -> Tokenizer:
    """With the special tokens and the template that a folder's other files state.

    Args:
        words: From the folder's `tokenizer.json`.
        folder: With `tokenizer_config.json` and `chat_template.jinja`, or without.
        sizes: Its `config.json`, which numbers special tokens as well.

    Raises:
        ValueError: If a file is damaged.
    """
    own, apart = folder / _SETTINGS, folder / "chat_template.jinja"
    said = json_object(own) if own.exists() else {}
    bos, eos = (_special(name, words, said, sizes) for name in ("bos", "eos"))
    template = apart.read_text(encoding="utf-8") if apart.exists() else _template(said)
    return replace(words, bos=bos, eos=eos, chat_template=template)


def _template(said: Mapping[str, Any]) -> str | None:
    """The template of conversations; of several by name, the default."""
    found = said.get("chat_template")
    if isinstance(found, list):
        named = {one["name"]: one["template"] for one in found if {"name", "template"} <= {*one}}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _special(
    name: str, words: Tokenizer, said: Mapping[str, Any], sizes: Mapping[str, Any]
) -> int | None:
    """The number of a special token: what the tokenizer calls it, or else the network."""
    token = said.get(f"{name}_token")
    token = token.get("content") if isinstance(token, dict) else token
    if isinstance(token, str):
        return words.inner.token_to_id(token)
    number = sizes.get(f"{name}_token_id")
    return number[0] if isinstance(number, list) else number


def save_hub(folder: str | Path, words: Tokenizer) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`, by which others make the same tokens.

    Raises:
        ValueError: If the tokenizer is not of the `tokenizers` package.
    """
    if words.inner is None:
        raise ValueError("save_hub: this tokenizer is not of the `tokenizers` package.")
    inner = library().Tokenizer.from_str(words.inner.to_str())
    if inner.encode("").ids != words.encode(""):  # the first token is put there by `wrapped`
        first = inner.id_to_token(words.bos)
        template = library().processors.TemplateProcessing
        inner.post_processor = template(
            single=f"{first} $A", pair=f"{first} $A $B", special_tokens=[(first, words.bos)]
        )
    said = {"tokenizer_class": "PreTrainedTokenizerFast"} | {
        name: inner.id_to_token(number)
        for name, number in (("bos_token", words.bos), ("eos_token", words.eos))
        if number is not None
    }
    if words.chat_template is not None:
        said["chat_template"] = words.chat_template
    for name, written in (
        ("tokenizer.json", inner.to_str(pretty=True)),
        (_SETTINGS, json.dumps(said, indent=2)),
    ):
        with written_whole(Path(folder) / name) as file:
            file.write(written.encode())
