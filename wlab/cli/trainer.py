"""Places the parts of a run on devices, trains, saves and measures."""

import argparse
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from wlab import checkpoint, data, training, tree
from wlab.checkpoint.atomic import written_whole
from wlab.cli.recipe import KERNELS, Parts, build, recipe
from wlab.training.writers import Writer

_EVAL_ROWS = 1000

_log = logging.getLogger("wlab.cli")


def train(flags: argparse.Namespace) -> dict[str, Any]:
    """Trains as the flags of `wlab train` say, and measures what the model sees at the end."""
    training.keep_pages()
    if not flags.coordinator:
        return _train(flags)
    host = None if flags.coordinator == "auto" else flags.coordinator
    with _stdout_as_stderr():
        training.initialize(host, processes=flags.processes, index=flags.process)
        return _train(flags)


def _train(flags: argparse.Namespace) -> dict[str, Any]:
    dataset, mesh = data.load(flags.data, file=flags.file), training.mesh_from(flags.mesh)
    parts = build(flags, dataset)
    read = data.reader(dataset.train, flags.batch, seed=flags.seed, **_share())
    state = _placed(flags, parts, mesh)
    compiled = training.compile_step(parts.step, state, mode=flags.mode, mesh=mesh)
    measure = partial(_measure, training.make_evaluate(parts.metric_fn), parts, mesh, flags.batch)
    started = time.perf_counter()
    with _saver(flags) as saver:
        state = state if saver is None else _resumed(flags, saver, state)
        writers = _writers(flags)
        state = training.fit(
            compiled,
            state,
            read,
            steps=flags.steps,
            save=None if saver is None else training.Every(flags.save_every, saver.save),
            hooks=_evaluations(flags.eval_every, writers, partial(measure, dataset.test)),
            writers=writers,
            log_every=max(1, min(100, flags.steps // 10)),
            guard=parts.guard,
            progress=not flags.no_progress and sys.stderr.isatty(),
        )
    seconds = time.perf_counter() - started
    found = {"train": measure(dataset.train, state), "test": measure(dataset.test, state)}
    if flags.ema is not None:
        found["test_ema"] = measure(dataset.test, state, average=True)
    return {
        "data": dataset.name,
        "model": flags.model,
        "steps": int(state.step),
        "steps_skipped": int(state.health.skipped),
        **{f"{part}_{name}": value for part, all_ in found.items() for name, value in all_.items()},
        **_kept(state.stored),
        "seconds": round(seconds, 3),
        "checkpoint": None if flags.out is None else str(flags.out / str(flags.steps)),
    }


def _placed(flags: argparse.Namespace, parts: Parts, mesh: Mesh) -> training.TrainState:
    """Every mesh axis but `data` splits the weights; with --fsdp, that one too."""
    axes = [name for name in mesh.axis_names if name != "data" or flags.fsdp]
    return training.init_state(
        parts.init,
        parts.weights,
        parts.tx,
        key=jax.random.key(flags.seed),
        ema=flags.ema is not None,
        mesh=mesh,
        rules=[(".*", partial(_split, axes))],
    )


def _split(axes: Sequence[str], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Gives each axis the largest dimension that is left and that it divides."""
    taken: dict[int, str] = {}
    for axis in axes:
        fits = [i for i in range(len(shape)) if i not in taken and not shape[i] % mesh.shape[axis]]
        if fits:
            taken[max(fits, key=lambda i: shape[i])] = axis
    return PartitionSpec(*(taken.get(i) for i in range(len(shape))))


def _saver(flags: argparse.Namespace) -> Any:
    """The saver of --out, or a context of None."""
    if flags.out is None:
        return nullcontext()
    if flags.fresh:
        _set_aside(flags.out)
    return checkpoint.Saver(flags.out, recipe=recipe(flags), keep=flags.keep)


def _set_aside(out: Path) -> None:
    """Renames an earlier run to the first free `<out>.1`, `<out>.2`, …"""
    if out.exists() and jax.process_index() == 0:
        names = (out.with_name(f"{out.name}.{i}") for i in itertools.count(1))
        target = out.rename(next(name for name in names if not name.exists()))
        _log.info("the earlier run is now %s", target)
    multihost_utils.sync_global_devices("wlab train --fresh")


def _resumed(
    flags: argparse.Namespace, saver: checkpoint.Saver, state: training.TrainState
) -> training.TrainState:
    if not checkpoint.steps(saver.root):
        return state
    try:
        restored = saver.restore(state, recipe=recipe(flags))
    except ValueError as error:
        raise ValueError(f"{error} To start anew: --fresh, or another --out.") from error
    _log.info("goes on from step %d of %s", restored.step, saver.root)
    return restored.state


def _writers(flags: argparse.Namespace) -> list[Writer]:
    """Those of the first process; the others write nothing."""
    if jax.process_index() > 0:
        return []
    writers = []
    if flags.out is not None:
        with written_whole(flags.out / "recipe.json") as file:
            file.write(f"{json.dumps(recipe(flags), indent=2)}\n".encode())
        writers.append(training.jsonl(flags.out / "metrics.jsonl"))
        if flags.tensorboard:
            writers.append(training.tensorboard(flags.out / "tensorboard"))
    if flags.wandb:
        writers.append(training.wandb(flags.wandb, config=recipe(flags)))
    return writers


def _evaluations(
    every: int | None, writers: Sequence[Writer], evaluate: Callable[..., dict[str, float]]
) -> list[training.Every]:
    def write(step: int, state: training.TrainState) -> None:
        values = {f"test_{name}": value for name, value in evaluate(state).items()}
        for writer in writers:
            writer(step, values)

    return [] if every is None else [training.Every(every, write)]


def _measure(
    evaluate: Callable[..., dict[str, float]],
    parts: Parts,
    mesh: Mesh,
    batch: int,
    arrays: data.Arrays,
    state: training.TrainState,
    *,
    average: bool = False,
) -> dict[str, float]:
    """Loss and error of what the model sees; a batch here is some training batches together."""
    seen = training.params_of(state, parts.weights, average=average)
    rows = batch * max(1, _EVAL_ROWS // batch)
    batches = data.padded_batches(arrays, rows, **_share())
    return evaluate(seen, (), (training.place_batch(batch, mesh) for batch in batches))


def _kept(stored: Any) -> dict[str, float | int]:
    """Weights stored, those of them that are not zero, and the fraction kept of the kernels."""
    kept, sizes = tree.nonzero(stored), {p: leaf.size for p, leaf in tree.leaves(stored).items()}
    kernels = tree.selected(KERNELS, stored)
    return {
        "weights": sum(sizes.values()),
        "weights_kept": sum(kept.values()),
        "density": sum(kept[path] for path in kernels) / sum(sizes[path] for path in kernels),
    }


@contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    """Gloo, which joins the processes, prints to stdout; that is for the result alone."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _share() -> dict[str, int]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}
