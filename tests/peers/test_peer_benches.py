"""What is timed beside torch is the same work: both sides give the same numbers."""

from dataclasses import asdict
from functools import partial

import jax
import numpy as np
import pytest

from experiments.bench.peers import agreement, gptq, prepared, sparsegpt, tickets, wanda
from experiments.bench.peers.prepared import Size
from experiments.bench.peers.task import Task, load_task, save_task
from experiments.bench.peers.turns import Side, take_turns
from wlab import models
from wlab.models.llama import LlamaConfig

SIZES = {"width": 24, "heads": 4, "kv_heads": 2, "ffn": 144, "vocab": 20, "context": 8}


@pytest.fixture(autouse=True)
def standard_promotion():
    """optax 0.2.8 raises a float to an int32 count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def decoder_task(layers, rotary) -> Task:
    config = LlamaConfig(layers, **SIZES, rotary=rotary)
    params = models.llama(config).init(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, config.vocab, (24, 8)).astype(np.int32)
    settings = {"config": asdict(config), "batch": 16, "by_block": layers > 1}
    return Task(settings, jax.tree.map(np.asarray, params), {"tokens": tokens})


@pytest.mark.parametrize(
    ("method", "layers", "rotary"),
    [(wanda, 2, "interleaved"), (sparsegpt, 1, "interleaved"), (gptq, 1, "halves")],
    ids=["wanda, block by block", "sparsegpt", "gptq"],
)
def test_a_decoder_is_changed_alike_by_both(method, layers, rotary):
    task = decoder_task(layers, rotary)
    ours, theirs = (
        {name: np.asarray(array) for name, array in side(task)().items()}
        for side in (method.ours, method.theirs)
    )
    found = agreement.of_decoders(task, ours, theirs)
    assert found["entries"] == layers * 24 * (24 + 12 + 12 + 24 + 3 * 144)
    assert found["moved"] == 0, found
    assert found["distance"] < 1e-4
    assert found["agrees"]
    assert found["our_loss"] != found["dense_loss"]


def test_a_network_is_trained_alike_by_all_loops():
    size = Size(members=2, steps=3, level=2)
    task = prepared.population(size, dataset="digits", batch=8)
    ours = {name: np.asarray(array) for name, array in tickets.ours(task)().items()}
    assert np.mean(ours["fc1"] == 0) == pytest.approx(1 - 0.8**2, abs=1e-3)
    for side in (tickets.plain, partial(tickets.plain, fused=True), tickets.open_lth):
        theirs = {name: np.asarray(array) for name, array in side(task)().items()}
        found = agreement.of_populations(task, ours, theirs)
        assert found["zero_on_one_side"] == 0
        assert found["distance"] < 1e-4
        assert found["agrees"], found
    begun = {name: task.weights[name]["kernel"][0] for name in ("fc1", "fc2", "fc3")}
    started = agreement.of_populations(task, begun | {"loss": ours["loss"]}, ours)
    assert started["distance"] > 1e-2


def test_a_swapped_mask_and_a_zero_on_one_side_are_counted():
    ours = {"a": np.array([[1.0, 0.0], [2.0, 0.0]]), "b": np.ones((4, 1))}
    theirs = {"a": np.array([[0.0, 1.0], [2.0, 1e-9]]), "b": np.ones((4, 1)) + 1e-6}
    found = agreement.moved(ours, theirs)
    assert (found["entries"], found["moved"], found["zero_on_one_side"]) == (8, 2, 3)
    assert (found["where"], found["worst"], found["worst_share"]) == ({"a": 2}, "a", 0.5)


@pytest.mark.long
def test_a_side_does_its_work_in_a_process_of_its_own(tmp_path):
    task = prepared.population(Size(members=2, steps=2, level=1), dataset="digits", batch=8)
    save_task(tmp_path, task)
    told = take_turns("tickets", [Side("plain", threads=1, units=2)], tmp_path, 2)
    assert told.seconds.shape == told.compiling.shape == (2, 1)
    assert np.all(told.seconds > 0)
    theirs = dict(np.load(told.found[0]))
    again = {name: np.asarray(array) for name, array in tickets.plain(task)().items()}
    assert agreement.of_populations(task, again, theirs)["agrees"]
    assert load_task(tmp_path).settings == task.settings
