"""Published parameter counts, by the generic walker over shapes: nothing is allocated."""

import jax
import pytest

from wlab import tree
from wlab.models import (
    EncoderConfig,
    LSTMConfig,
    Model,
    TransformerConfig,
    encoder,
    lenet5,
    lenet_300_100,
    lstm,
    transformer,
)
from wlab.transform import Params
from wlab.tying import Tie, share, tie_leaves

GPT2 = TransformerConfig(layers=12, width=768, heads=12, vocab=50257, context=1024)
GPT3 = TransformerConfig(layers=96, width=12288, heads=96, vocab=50257, context=2048)
BERT = EncoderConfig(layers=12, width=768, heads=12, vocab=30522, context=512)
ALBERT = EncoderConfig(layers=12, width=768, heads=12, vocab=30000, context=512, embed_width=128)


def shapes(model: Model) -> Params:
    return jax.eval_shape(model.init, jax.random.key(0))


def tied(params: Params) -> Params:
    """What is stored when the head is the transpose of the embedding."""
    return tie_leaves(params, [Tie("head/kernel", "embed/embedding", transpose=True)])


def test_gpt2_small():
    params = shapes(transformer(GPT2))
    assert tree.count(params) == 163_037_184
    assert tree.count(tied(params)) == 124_439_808


@pytest.mark.long
def test_gpt3_175b():
    assert tree.count(tied(shapes(transformer(GPT3)))) == 174_604_259_328


def test_bert_base():
    assert tree.count(shapes(encoder(BERT))) == 109_482_240


def test_albert_base_shares_every_block():
    params = shapes(encoder(ALBERT))
    assert tree.count(tie_leaves(params, share(params, r"block_(\d+)/.*"))) == 11_683_584


@pytest.mark.parametrize(
    ("width", "untied", "stored"), [(200, 4_651_600, 2_651_600), (1500, 66_022_000, 51_022_000)]
)
def test_press_and_wolf_on_ptb(width: int, untied: int, stored: int):
    params = shapes(lstm(LSTMConfig(layers=2, width=width, vocab=10_000)))
    assert tree.count(params) == untied
    assert tree.count(tied(params)) == stored


def test_lenets():
    assert tree.count(shapes(lenet_300_100())) == 266_610
    assert tree.count(shapes(lenet5())) == 431_080
