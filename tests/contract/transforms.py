"""The table of weight transforms: a new transform is tested by adding a row."""

import re
from collections.abc import Callable

from frameworks import Framework
from toys import scaled

import wlab
from wlab import WeightTransform, chain, tree
from wlab.pruning import (
    Blocks,
    Choice,
    Neighbours,
    alternating,
    cubic,
    erk,
    evolutionary,
    globally,
    magnitude,
    movement,
    oneshot,
    rigl,
    soft_threshold,
    static,
    straight_through,
)
from wlab.quantization import dequantize, fake_quant, int4, int8, lsq, quantize
from wlab.transfer import Adapter, Base, dora, freeze, gaussian, lora, pissa
from wlab.tying import Tie, tie


def kernels(f: Framework) -> tree.Rules[bool]:
    """Every kernel, nothing else."""
    return [(f.kernels, True), (".*", False)]


def _pruned(f: Framework) -> WeightTransform:
    return magnitude(cubic(1.0, 0.3, end=2), kernels(f), every=1)


def _patterns(f: Framework) -> tree.Rules[Choice]:
    """Groups along one kernel, tiles in another, a share of the third."""
    first, second = map(re.escape, f.tie)
    return [(first, Neighbours(1, 4)), (second, Blocks(0.3, (4, 2))), *kernels(f)]


def _moving(f: Framework) -> WeightTransform:
    # Sparser, and adam(eps=0) would divide 0 by 0 where a unit has lost all it was made of.
    return rigl(0.7, kernels(f), every=2, end=9, fraction=0.8)


def _quantized(f: Framework) -> WeightTransform:
    return fake_quant(int4(group_size=12), kernels(f))


def _tied(f: Framework) -> WeightTransform:
    return tie([Tie(*f.tie)])


def _frozen(f: Framework) -> WeightTransform:
    return freeze([(re.escape(f.tie[1]), True), (".*", False)])


def _packed() -> Base:
    return Base(lambda kernel: quantize(kernel, int4(group_size=12)), dequantize)


TRANSFORMS: dict[str, Callable[[Framework], WeightTransform]] = {
    "identity": lambda f: wlab.identity(),
    "magnitude": _pruned,
    "magnitude globally, int8": lambda f: magnitude(
        oneshot(0.2, at=1), kernels(f), allocation=globally, storage="int8"
    ),
    "magnitude erk": lambda f: magnitude(0.25, kernels(f), allocation=erk),
    "static": lambda f: static(0.3, kernels(f)),
    "rigl": _moving,
    "rigl in tiles": lambda f: rigl(
        0.7,
        [(re.escape(f.tie[1]), Blocks(0.6, (4, 2))), *kernels(f)],
        every=2,
        end=9,
        fraction=0.8,
    ),
    "evolutionary, int8": lambda f: evolutionary(
        0.3, kernels(f), every=1, end=9, allocation=globally, storage="int8"
    ),
    # Half: a unit that lost all its weights gets no gradient when they come back at zero, and Adam
    # without epsilon makes 0/0 of a first gradient of zero, whoever trains.
    "dense and sparse in turn": lambda f: alternating(
        0.5, kernels(f), warmup=1, sparse=1, dense=1, end=9
    ),
    "patterns": lambda f: magnitude(cubic(1.0, 0.3, end=2), _patterns(f), every=1),
    "patterns straight through": lambda f: straight_through(
        cubic(1.0, 0.3, end=2), _patterns(f), storage="int8"
    ),
    "straight through": lambda f: straight_through(cubic(1.0, 0.3, end=2), kernels(f)),
    "movement": lambda f: movement(cubic(1.0, 0.3, end=2), kernels(f)),
    "soft threshold": lambda f: soft_threshold(kernels(f), start=-3.0),
    "fake_quant int4": _quantized,
    "fake_quant int8 clipped, late": lambda f: fake_quant(
        int8(), kernels(f), gradient="clipped", begin=2
    ),
    "fake_quant stochastic": lambda f: fake_quant(int4(group_size=12), kernels(f), stochastic=True),
    "lsq int4 groups": lambda f: lsq(int4(group_size=12), kernels(f)),
    "lsq asymmetric, late": lambda f: lsq(
        int4(symmetric=False), kernels(f), begin=2, stages=[(8, 3)]
    ),
    "prune + lsq": lambda f: chain(prune=_pruned(f), quant=lsq(int4(), kernels(f), begin=3)),
    "tie": _tied,
    "scaled": lambda f: scaled(kernels(f)),
    "prune + quant + tie": lambda f: chain(prune=_pruned(f), quant=_quantized(f), tie=_tied(f)),
    "rigl + quant + tie": lambda f: chain(
        prune=_moving(f), inner=chain(quant=_quantized(f), tie=_tied(f))
    ),
    "freeze": _frozen,
    "lora": lambda f: lora(Adapter(2, alpha=6), [(f.kernels, True), (".*", None)]),
    "dora": lambda f: lora(
        dora(2, scaling="rank_stabilized", start=gaussian), [(f.kernels, True), (".*", "train")]
    ),
    "pissa on int4": lambda f: lora(
        Adapter(2, alpha=3, start=pissa), [(f.kernels, True), (".*", None)], base=_packed()
    ),
    "lora + tie": lambda f: chain(
        lora=lora(Adapter(2, alpha=6), [(f.kernels, True), (".*", "train")]), tie=_tied(f)
    ),
    "prune + freeze + tie": lambda f: chain(
        prune=_pruned(f), inner=chain(freeze=_frozen(f), tie=_tied(f))
    ),
}
