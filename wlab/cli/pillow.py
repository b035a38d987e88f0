"""Pillow, or how to get it."""

from typing import Any


def image_module() -> Any:
    """`PIL.Image`.

    Raises:
        ImportError: If it is not installed, naming the extra.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError('Pillow is not installed: pip install "weightlab[images]".') from None
    return Image
