"""LSTM language models as PyTorch names them, into `wlab.models.lstm`."""

from collections.abc import Iterator

from wlab.pretrained.name_map import Move, NameMap, for_layers, move
from wlab.pretrained.ops import Transpose


def lstm_torch(layers: int) -> NameMap:
    """PyTorch's word-level language model: an `nn.LSTM` between `encoder` and `decoder`.

    Kernels stand as (out, in), the gates in the same order as here. The tree needs
    `hidden_biases=True`.
    """
    return NameMap(
        (
            move("encoder.weight", "embed/embedding"),
            *for_layers(layers, _layer()),
            move("decoder.weight", "head/kernel", Transpose()),
            move("decoder.bias", "head/bias"),
        ),
        verified="tests/pretrained/test_lstm_map.py: outputs of an independent forward pass",
    )


def _layer() -> Iterator[Move]:
    for theirs, ours in (("ih", "input"), ("hh", "hidden")):
        yield move(f"rnn.weight_{theirs}_l{{i}}", f"lstm_{{i}}/{ours}/kernel", Transpose())
        yield move(f"rnn.bias_{theirs}_l{{i}}", f"lstm_{{i}}/{ours}/bias")
