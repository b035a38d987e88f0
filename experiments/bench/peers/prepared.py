"""The tasks: a decoder with texts to calibrate on, and starts of a population with their images."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.peers.task import Task
from experiments.lottery.rounds import RULES, VALIDATION
from experiments.pruning.texts import stories, wikitext
from wlab import data, initializers, models
from wlab.pruning import tickets


class Size(NamedTuple):
    """How much is done; the defaults are what is promised of.

    Attributes:
        rows: Windows to calibrate on.
        context: Tokens of a window; 0: 256 of stories, 512 of WikiText-2.
        batch: Windows at once.
        blocks: The first blocks of the decoder; 0: all.
        by_block: Block by block, each calibrated behind those already changed; else all at once.
        members: Networks of the population.
        steps: Steps of each.
        level: Rounds of pruning that the population has behind it.
    """

    rows: int = 128
    context: int = 0
    batch: int = 16
    blocks: int = 0
    by_block: bool = False
    members: int = 10
    steps: int = 2000
    level: int = 7


def decoder(name: str, size: Size, directory: Path) -> Task:
    """A pretrained decoder and texts; stories that it has told are kept in the directory."""
    context = size.context or (256 if name.startswith("stories") else 512)
    if name.startswith("stories"):
        place = directory / f"{name}-{context}"
        place.mkdir(parents=True, exist_ok=True)
        reading = stories(name, place, rows=size.rows, test=1, context=context)
    else:
        reading = wikitext(name, rows=size.rows, test=1, context=context)
    config = reading.network.config
    blocks = size.blocks or config.layers
    gone = tuple(f"block_{i}" for i in range(blocks, config.layers))
    weights = {name: part for name, part in reading.network.params.items() if name not in gone}
    settings = {
        "config": asdict(replace(config, layers=blocks)),
        "batch": size.batch,
        "by_block": size.by_block,
    }
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), weights)
    return Task(settings, weights, {"tokens": reading.calibration(0)})


def population(size: Size, *, dataset: str = "mnist", batch: int = 60) -> Task:
    """Starts of which the smallest weights are zero, images, and the first member's order of them.

    The order is the one that the experiment's data reader gives a member of seed 0.
    """
    found = data.load_or_digits(dataset)
    flat = {
        f"{part}_{name}": array.reshape(len(array), -1) if name == "image" else array
        for part, arrays in (("train", found.train), ("test", found.test))
        for name, array in arrays.items()
    }
    held = min(VALIDATION, len(flat["train_label"]) // 10)
    shown = {
        "held_image": flat["train_image"][-held:],
        "held_label": flat["train_label"][-held:],
        "train_image": flat["train_image"][:-held],
        "train_label": flat["train_label"][:-held],
        "test_image": flat["test_image"],
        "test_label": flat["test_label"],
    }
    pixels, rows = shown["train_image"].shape[1], len(shown["train_label"])
    settings = {"steps": size.steps, "members": size.members, "batch": batch, "peak": found.peak}
    seed = int(jax.random.bits(jax.random.split(jax.random.key(0))[0]))
    order = [data.batch_indices(i, size=rows, batch=batch, seed=seed) for i in range(size.steps)]
    shown = {
        name: np.array(array) for name, array in shown.items()
    }  # torch writes to none but asks
    return Task(settings, _starts(pixels, found.classes, size), shown | {"order": np.stack(order)})


def _starts(pixels: int, classes: int, size: Size) -> dict[str, dict[str, np.ndarray]]:
    model = models.lenet_300_100(pixels, classes, kernel_init=initializers.glorot_normal())

    @jax.vmap
    def start(seed: jax.Array) -> dict[str, dict[str, jax.Array]]:
        params = model.init(jax.random.key(seed))
        every = tickets.all_kept(params, RULES)
        masks = tickets.next_masks(params, every, 0.8**size.level, RULES)
        return tickets.rewound(params, masks)

    return jax.tree.map(np.asarray, jax.jit(start)(jnp.arange(size.members, dtype=jnp.uint32)))
