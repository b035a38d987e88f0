"""An LSTM language model from PyTorch's state dict: its sizes are those of its arrays."""

from pathlib import Path
from typing import Any

from wlab.checkpoint import Source, open_source
from wlab.models import LSTMConfig, lstm
from wlab.pretrained import maps
from wlab.pretrained.networks.network import Network, filled


def from_torch_lstm(path: str | Path, *, dtype: Any = None, **options: Any) -> Network:
    """The language model in a file of PyTorch's word-level example, whole module or state dict.

    Where encoder and decoder are tied, as in Press & Wolf 2017 (arXiv:1608.05859), the file
    repeats the array; `wlab.tying.tie` makes it one again.

    Args:
        path: The file.
        dtype: Of floating leaves; None keeps the file's.
        options: As of `load`.

    Raises:
        ValueError: If it is no such model.
    """
    source = open_source(path)
    config = _config(source)
    name_map = maps.lstm_torch(config.layers)
    return filled(lstm(config), config, source, name_map, dtype=dtype, **options)


def _config(source: Source) -> LSTMConfig:
    table = source.arrays.get("encoder.weight")
    layers = sum(name.startswith("rnn.weight_hh_l") for name in source.arrays)
    if table is None or not layers or len(table.shape) != 2:
        raise ValueError(
            f"{source.path} holds no LSTM language model: it needs `encoder.weight` (vocab, "
            f"width) and `rnn.weight_hh_l0`, and has {list(source.arrays)[:8]}."
        )
    vocab, width = table.shape
    return LSTMConfig(layers, width, vocab, hidden_biases=True)
