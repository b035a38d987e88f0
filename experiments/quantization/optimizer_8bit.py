"""Does Adam learn as well if it remembers its moments in 8 bits, or in 4?

LeNet-300-100 on MNIST, the same starts and the same order of images under each: moments in
float32; in 8 and in 4 bits as `quantized_moments` keeps them; in 8 bits of the dynamic codebook
of the paper; and, for a control, in 8 bits of evenly spaced codes, which lose what is small.
All seeds of a method train side by side as one program.

Run     python -m experiments.quantization.optimizer_8bit
Cost    25 minutes on two cores busy with other work; not measured on idle ones; a run that is cut
        off goes on with the next method
Paper   Dettmers et al. 2021 (arXiv:2110.02861): 8-bit Adam as good as 32-bit Adam on language,
        translation and vision; Li et al. 2023 (arXiv:2309.01507): 4-bit AdamW nearly so
Expect  8 and 4 bits within one standard deviation over seeds of float32, in loss; evenly spaced
        codes too: this network does not tell codes apart
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from experiments.lottery import starts
from experiments.lottery.rounds import Training, images, trainer
from wlab import data, models, tree
from wlab.checkpoint import load_npz, save_npz
from wlab.quantization import Format, int8
from wlab.quantization.moment_grids import FIRST, SECOND, Moment, dynamic
from wlab.quantization.moments import quantized_moments
from wlab.table import Table
from wlab.transform import identity

Wrap: TypeAlias = Callable[[optax.GradientTransformation], optax.GradientTransformation]


@dataclass(frozen=True)
class Config:
    """Settings."""

    dataset: str = field(default="mnist", metadata={"help": "mnist or digits"})
    methods: str = field(
        default="float32,8 bits,4 bits,8 bits dynamic,8 bits evenly",
        metadata={"help": "with commas, float32 among them"},
    )
    seeds: int = field(default=3, metadata={"help": "networks of each"})
    steps: int = field(default=1_500, metadata={"help": "of 60 images"})
    rate: float = field(default=1.2e-3, metadata={"help": "of Adam, falling to 0 as a cosine"})
    min_size: int = field(default=4096, metadata={"help": "smaller moments stay in float32"})


def methods(min_size: int) -> dict[str, Wrap]:
    """What is done to an optimizer, by name."""
    blocks: dict[str, Any] = {"axis": -1, "group_size": 256}
    listed = (Moment(Format(dynamic(8, signed=s), **blocks)) for s in (True, False))
    evenly = (Moment(int8(symmetric=s, **blocks)) for s in (True, False))
    keep = partial(quantized_moments, min_size=min_size)
    return {
        "float32": lambda optimizer: optimizer,
        "8 bits": partial(keep, bits=8),
        "4 bits": partial(keep, bits=4),
        "8 bits dynamic": partial(keep, parts=_parts(*listed)),
        "8 bits evenly": partial(keep, parts=_parts(*evenly)),
    }


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Losses and errors of each network; methods that are in the directory stay."""
    dataset = data.load_or_digits(config.dataset)
    found = {}
    known = methods(config.min_size)
    for name in config.methods.split(","):
        path = directory / f"{name.replace(' ', '-')}.npz"
        found[name] = _measured(config, dataset, known[name], path)
        print(name, " ".join(f"{loss:.4f}" for loss in found[name]["loss"]), flush=True)
    return {"methods": found}


def show(results: dict[str, Any]) -> str:
    """A row a method: mean ± standard deviation over seeds, and bits of state a weight."""
    found = results["methods"]
    usual = np.asarray(found["float32"]["loss"])
    rows = []
    for name, each in found.items():
        apart = abs(np.mean(each["loss"]) - usual.mean()) / max(float(usual.std(ddof=1)), 1e-12)
        cells = (_cell(each["loss"], 4), _cell(each["error"], 2))
        rows.append((name, *cells, f"{apart:.2f}", each["bits"]))
    columns = ("Adam's moments", "validation loss", "% test error", "deviations apart", "bits")
    return str(Table(columns, tuple(rows)))


def _measured(config: Config, dataset: data.Dataset, wrap: Wrap, path: Path) -> dict[str, Any]:
    shown = images(dataset)
    model = models.lenet_300_100(shown.validation[0].shape[1], dataset.classes)
    tx = wrap(optax.adam(optax.cosine_decay_schedule(config.rate, config.steps)))
    if not path.exists():
        settings = Training(config.steps, look=max(1, config.steps // 20), tx=tx)
        seeds = jnp.arange(config.seeds, dtype=jnp.uint32)
        train = trainer(
            *(model, shown, settings, config.seeds), peak=dataset.peak, method=lambda _: identity()
        )
        outcome = train(starts.networks(model.init, seeds), seeds)
        save_npz(path, {"loss": outcome.loss, "error": 100 * outcome.final_error})
    found = load_npz(path)
    params = jax.eval_shape(model.init, jax.random.key(0))
    nbytes = tree.nbytes(jax.eval_shape(tx.init, params))
    return {
        "loss": np.asarray(found["loss"]).tolist(),
        "error": np.asarray(found["error"]).tolist(),
        "bits": 8 * nbytes / tree.count(params),
    }


def _parts(first: Moment, second: Moment) -> dict[str, Moment]:
    return dict.fromkeys(FIRST, first) | dict.fromkeys(SECOND, second)


def _cell(figures: list[float], digits: int) -> str:
    spread = np.std(figures, ddof=1) if len(figures) > 1 else 0.0
    return f"{np.mean(figures):.{digits}f} ± {spread:.{digits}f}"


if __name__ == "__main__":
    runner.spread_over_cores()
    runner.main(run, Config, name="optimizer-8bit", show=show)
