"""How few bits do weights and inputs need when the steps of their grids are learned?

LeNet-5 on MNIST and ResNet-20 on CIFAR-10, each trained in float32 first, then trained on with
every kernel, and every input of a kernel, on a grid of 2, 3, 4 or 8 bits whose step is learned:
one step for a kernel, one for its inputs, as in the paper. The first layer and the last have 8
bits. Beside it the same grids without training, each step where the squared error is least on the
kernel, or on inputs of 256 images; and a twin in float32 that is trained on equally long.

Run     python -m experiments.quantization.lsq_bits --networks lenet-5
Cost    LeNet-5 20 core minutes, a third of that a seed. ResNet-20 is not measured and wants a GPU.
        A run that is cut off goes on with the next figure
Paper   Esser et al. 2020 (arXiv:1902.08153), table 1: ResNet-18 on ImageNet 70.5 % right in
        float32; 2, 3, 4, 8 bits 67.6, 70.2, 71.1, 71.1
Expect  8 and 4 bits: nothing lost; 2 bits: less than the paper's 2.9 points
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments import resnet56, runner
from experiments.kept import kept
from experiments.resnet56 import Net, Tuning
from wlab import data, graph, models, quantization, training, tree
from wlab.checkpoint import load_npz, save_npz
from wlab.models.resnet import cifar
from wlab.quantization import Format, integer
from wlab.table import Table
from wlab.transform import Params, WeightTransform, identity

BEGUN, NEAREST, LEARNED = "float32", "to nearest", "learned steps"
CONTROL = "float32, trained on"
PAPER = {32: 70.5, 2: 67.6, 3: 70.2, 4: 71.1, 8: 71.1}  # % right, ResNet-18
_BATCH, _SHOWN = 128, 256  # images a step; images from which steps of inputs are taken
_FRACTIONS = np.linspace(0.01, 1, 100, dtype=np.float32)  # of the step that reaches the largest
_LEAST = np.float32(2.0**-20)  # a step that is smaller is used as this


@dataclass(frozen=True)
class Config:
    """Settings."""

    networks: str = field(default="lenet-5,resnet-20", metadata={"help": "with commas"})
    bits: str = field(default="2,3,4,8", metadata={"help": "of all layers but two, with commas"})
    seeds: int = field(default=3, metadata={"help": "networks of each kind"})
    begin: str = field(default="1200,31200", metadata={"help": "steps in float32 before"})
    begin_rates: str = field(default="0.02,0.1", metadata={"help": "then, at the peak"})
    steps: str = field(default="600,11700", metadata={"help": "trained on, of 128 images"})
    rates: str = field(default="0.005,0.01", metadata={"help": "then, at the peak"})


class Subject(NamedTuple):
    """A network and its task.

    Attributes:
        begin: The network of a seed, before any training.
        fit: Trains it, seen through a transform.
        train: Images and labels.
        test: Others, to judge on.
        ends: Paths of the first and the last kernel.
    """

    begin: Callable[[int], Net]
    fit: Callable[[Net, WeightTransform, data.Arrays, Tuning], Net]
    train: data.Arrays
    test: data.Arrays
    ends: tuple[str, str]


class Codes(NamedTuple):
    """The lowest and the highest code of an input: from −Q_N to Q_P."""

    low: int
    high: int


class Cell(NamedTuple):
    """A figure of the page."""

    network: str
    method: str
    bits: int
    seed: int

    def path(self, directory: Path) -> Path:
        """Where it is kept."""
        name = "-".join(map(str, self)).replace(" ", "-").replace(",", "")
        return directory / f"{name}.json"


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Every figure of the page; what is in the directory already is not computed again."""
    subject_of = cache(lambda name: SUBJECTS[name]())

    def measure(cell: Cell) -> float:
        subject, at = subject_of(cell.network), list(SUBJECTS).index(cell.network)
        path = directory / f"{cell.network}-{cell.seed}.npz"
        net = _begun(subject, _tuning(config.begin, config.begin_rates, at, cell.seed), path)
        tuned = in_few_bits(subject, net, cell, _tuning(config.steps, config.rates, at, cell.seed))
        return 100 * (1 - resnet56.error(tuned, subject.test))

    cells = _cells(config)
    figures = [kept(cell.path(directory), partial(measure, cell)) for cell in cells]
    return {"cells": [c._asdict() | {"figure": f} for c, f in zip(cells, figures, strict=True)]}


def in_few_bits(subject: Subject, net: Net, cell: Cell, tuning: Tuning) -> Net:
    """The network after one method."""
    if cell.method == BEGUN:
        return net
    if cell.method == CONTROL:
        return subject.fit(net, identity(), subject.train, tuning)
    shown = jnp.asarray(subject.train["image"][:_SHOWN], jnp.float32) / 255
    start = nearest_step if cell.method == NEAREST else learned_start
    stepped_net, rules = stepped_inputs(net, cell.bits, subject.ends, shown, start)
    if cell.method == LEARNED:
        weights = quantization.lsq(_format(cell.bits), rules)
        return subject.fit(stepped_net, weights, subject.train, tuning)
    params = quantization.quantize_tree(
        stepped_net.leaves["params"], rules, range_fn=quantization.mse(tuple(_FRACTIONS.tolist()))
    )
    params = quantization.dequantize_tree(params)
    return stepped_net._replace(leaves=stepped_net.leaves | {"params": params})


def stepped_inputs(
    net: Net, bits: int, ends: tuple[str, str], shown: Any, start: Callable[[Array, Codes], Array]
) -> tuple[Net, tree.Rules[Format | None]]:
    """The network with its inputs on grids whose steps are parameters, and formats of its kernels.

    Its parameters are `net/...` as before and `steps/...`, one for the inputs of each kernel.

    Args:
        net: In float32.
        bits: Of every kernel and its inputs, but for the first and the last, which have 8.
        ends: The paths of those.
        shown: Images, from which the steps and the signs of inputs are taken.
        start: The step of an input to begin with.
    """
    inputs = inputs_of(net, shown)
    bits_of = {path: 8 if path in ends else bits for path in inputs}
    codes = {path: codes_of(x, bits_of[path]) for path, x in inputs.items()}
    begin = jax.jit(start, static_argnums=1)
    steps = {_named(path): begin(x, codes[path]) for path, x in inputs.items()}

    def stepped_in(fn: Callable[..., Any]) -> Callable[..., Any]:
        def run(leaves: Params, images: Any) -> Any:
            inner = leaves | {"params": leaves["params"]["net"]}
            steps = leaves["params"]["steps"]
            operations: list[tuple[str, graph.Operation | None]] = [
                (re.escape(f"params/{path}"), graph.before(_stepper(steps[_named(path)], each)))
                for path, each in codes.items()
            ]
            read = graph.read(fn, inner, images)
            return graph.replace(read, [*operations, (".*", None)])(inner, images)

        return run

    leaves = net.leaves | {"params": {"net": net.leaves["params"], "steps": steps}}
    rules: list[tuple[str, Format | None]] = [
        (re.escape(f"net/{path}"), _format(n)) for path, n in bits_of.items()
    ]
    return Net(leaves, stepped_in(net.train), stepped_in(net.use)), [*rules, (".*", None)]


def inputs_of(net: Net, images: Any) -> dict[str, Array]:
    """What each kernel is multiplied with, by the kernel's path among the parameters."""
    kernels = [p for p in tree.paths(net.leaves["params"]) if re.fullmatch("(.*/)?kernel", p)]
    read = graph.read(net.use, net.leaves, images)

    def run(leaves: Params, images: Any) -> dict[str, Array]:
        found: dict[str, Array] = {}

        def noting(path: str) -> graph.Operation:
            return graph.before(lambda x: found.setdefault(path, x))

        rules = [(re.escape(f"params/{path}"), noting(path)) for path in kernels]
        graph.replace(read, [*rules, (".*", None)])(leaves, images)
        return found

    return jax.jit(run)(net.leaves, images)


def codes_of(x: Float[Array, "*shape"], bits: int) -> Codes:
    """0 to 2^bits − 1, or −2^(bits − 1) to 2^(bits − 1) − 1 if some inputs are negative."""
    if bool(jnp.min(x) < 0):
        return Codes(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return Codes(0, 2**bits - 1)


def learned_start(x: Float[Array, "*shape"], codes: Codes) -> Float[Array, ""]:
    r"""Where a learned step starts: $2 \, \mathrm{mean}|x| / \sqrt{Q_P}$."""
    return 2 * jnp.mean(jnp.abs(x)) / np.float32(np.sqrt(codes.high))


def nearest_step(x: Float[Array, "*shape"], codes: Codes) -> Float[Array, ""]:
    """The step whose squared error is least, of a hundred up to that which reaches every input."""
    reach = jnp.maximum(jnp.max(x) / codes.high, jnp.min(x) / min(codes.low, -1))
    steps = jnp.maximum(reach, _LEAST) * _FRACTIONS
    errors = jax.lax.map(lambda step: jnp.mean((stepped(x, step, codes) - x) ** 2), steps)
    return steps[jnp.argmin(errors)]


def stepped(
    x: Float[Array, "batch *shape"], step: Float[Array, ""], codes: Codes
) -> Float[Array, "batch *shape"]:
    r"""Rounds inputs to a grid, with the gradients of LSQ for them and for its step.

    $\mathrm{clip}(\lfloor x/s \rceil, -Q_N, Q_P) \cdot s$, straight through for x within the
    grid; the gradient for s is scaled by $1/\sqrt{n Q_P}$, n the inputs of one image. A step that
    has fallen to zero rounds everything to next to nothing, and can still rise.
    """
    share = np.float32(1 / np.sqrt(x.size / len(x) * codes.high))
    step = step * share + jax.lax.stop_gradient(jnp.maximum(step, _LEAST) - step * share)
    clipped = jnp.clip(x / step, codes.low, codes.high)
    return (clipped + jax.lax.stop_gradient(jnp.round(clipped) - clipped)) * step


def show(results: dict[str, Any]) -> str:
    """A table a network: what is right in how many bits, and lost, here and in the paper."""
    found: dict[str, dict[tuple[str, int], list[float]]] = {}
    for one in results["cells"]:
        cells = found.setdefault(one["network"], {})
        cells.setdefault((one["method"], one["bits"]), []).append(one["figure"])
    return "\n\n".join(_show(name, cells) for name, cells in found.items())


def _show(name: str, cells: dict[tuple[str, int], list[float]]) -> str:
    control = float(np.mean(cells[CONTROL, 32]))
    rows = []
    for (method, bits), figures in cells.items():
        mean = float(np.mean(figures))
        spread = f"{min(figures):.2f} to {max(figures):.2f}"
        lost = f"{control - mean:.2f}"
        paper = f"{PAPER[32] - PAPER[bits]:.1f}" if method == LEARNED and bits in PAPER else ""
        rows.append((method, bits, round(mean, 2), spread, lost, paper))
    columns = (name, "bits", "% right", "", "lost, of float32 trained on", "paper, ResNet-18")
    return str(Table(columns, tuple(rows)))


def _cells(config: Config) -> list[Cell]:
    bits = [int(each) for each in config.bits.split(",")]
    few = [(method, n) for method in (NEAREST, LEARNED) for n in bits]
    return [
        Cell(network, method, n, seed)
        for network in config.networks.split(",")
        for method, n in ((BEGUN, 32), (CONTROL, 32), *few)
        for seed in range(config.seeds)
    ]


def _begun(subject: Subject, tuning: Tuning, path: Path) -> Net:
    """The network trained in float32, from its file if it is there."""
    net = subject.begin(tuning.seed)
    if not path.exists():
        leaves = subject.fit(net, identity(), subject.train, tuning).leaves
        save_npz(path, jax.tree.map(np.asarray, leaves))
    leaves = net.leaves | jax.tree.map(jnp.asarray, load_npz(path))
    return net._replace(leaves=leaves)


def _tuning(steps: str, rates: str, network: int, seed: int) -> Tuning:
    return Tuning(int(steps.split(",")[network]), _BATCH, float(rates.split(",")[network]), seed)


def _format(bits: int) -> Format:
    """The paper's: codes −2^(bits − 1) to 2^(bits − 1) − 1 and one step for the kernel."""
    return integer(bits, axis=None, bound="full")


def _named(path: str) -> str:
    return path.replace("/", ".")


def _stepper(step: Array, codes: Codes) -> Callable[[Array], Array]:
    return lambda x: stepped(x, step, codes)


def _digits() -> Subject:
    sets, model = data.mnist(), models.lenet5()

    def apply(leaves: Params, images: Any) -> Any:
        return model.apply(leaves["params"], images), leaves["state"]

    def begin(seed: int) -> Net:
        leaves = {"params": model.init(jax.random.key(seed)), "state": {}}
        return Net(leaves, apply, apply)

    return Subject(begin, fitted, sets.train, sets.test, ("conv1/kernel", "fc2/kernel"))


def _photographs() -> Subject:
    sets, model = data.cifar10(), models.resnet(cifar(20))

    def apply(leaves: Params, images: Any, *, train: bool) -> Any:
        return model.apply(leaves["params"], images, leaves["state"], train=train)

    def begin(seed: int) -> Net:
        params, state = model.init(jax.random.key(seed))
        leaves = {"params": params, "state": state}
        return Net(leaves, partial(apply, train=True), partial(apply, train=False))

    ends = ("stem/kernel", "head/kernel")
    return Subject(begin, resnet56.trained, sets.train, sets.test, ends)


def fitted(net: Net, weights: WeightTransform, train: data.Arrays, tuning: Tuning) -> Net:
    """After steps of momentum SGD on images as they are, seen through a transform."""

    def loss(params: Params, state: Any, batch: Any, key: Any) -> Any:
        del key
        images = batch["image"].astype(jnp.float32) / 255
        logits, state = net.train({"params": params, "state": state}, images)
        sums = training.cross_entropy_sums(logits, batch["label"], jnp.ones(len(logits)))
        return sums["loss"], (jnp.float32(len(logits)), state, {})

    rates = training.warmup_cosine(tuning.rate, warmup=tuning.steps // 20, steps=tuning.steps)
    tx = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(rates, 0.9, nesterov=True))
    params, key = net.leaves["params"], jax.random.key(tuning.seed)
    state = training.init_state(params, weights, tx, key=key, model_state=net.leaves["state"])
    step = training.compile_step(training.make_step(loss, weights, tx), state)
    read = data.reader(train, tuning.batch, seed=tuning.seed)
    state = training.fit(step, state, read, steps=tuning.steps)
    seen = training.params_of(state, weights)
    return net._replace(leaves={"params": seen, "state": state.model_state})


SUBJECTS: dict[str, Callable[[], Subject]] = {"lenet-5": _digits, "resnet-20": _photographs}


if __name__ == "__main__":
    runner.main(run, Config, name="lsq-bits", show=show)
