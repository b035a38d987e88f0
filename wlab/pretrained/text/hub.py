"""The `tokenizer.json` of the hub."""

from pathlib import Path

from wlab.pretrained.text.tokenizer import Tokenizer, library, wrapped


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
