"""What a step holds follows from (seed, step), on any number of processes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlab.data import batch_indices, padded_batches, reader, shuffled

SIZES = st.integers(1, 200)


def order(size: int, epoch: int, seed: int) -> np.ndarray:
    position = np.arange(size, dtype=np.uint32)
    return shuffled(position, np.full_like(position, epoch), size=size, seed=np.uint32(seed))


def samples(size: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(size), "y": np.arange(size) * 2.0}


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_each_epoch_is_a_permutation(size: int, epoch: int, seed: int):
    np.testing.assert_array_equal(np.sort(order(size, epoch, seed)), np.arange(size))


@pytest.mark.parametrize("size", [5, 97])
def test_every_sample_is_as_likely_at_every_position(size: int):
    position = np.tile(np.arange(size, dtype=np.uint32), (4000, 1))
    epoch = np.repeat(np.arange(4000, dtype=np.uint32)[:, None], size, axis=1)
    orders = shuffled(position, epoch, size=size, seed=np.uint32(1))
    counts = np.zeros((size, size))
    np.add.at(counts, (position, orders), 1)
    expected = 4000 / size
    chi_square = np.square(counts - expected).sum() / expected / (size - 1) ** 2
    assert 0.5 < chi_square < 1.5  # per degree of freedom
    np.testing.assert_allclose((orders == position).sum(1).mean(), 1, atol=0.1)  # fixed points


@settings(deadline=None, max_examples=20)
@given(SIZES, st.data())
def test_the_steps_of_an_epoch_hold_every_sample_once_though_batches_straddle(size: int, data):
    batch = data.draw(st.integers(1, size))
    seed = data.draw(st.integers(0, 99))
    stream = np.concatenate(
        [batch_indices(s, size=size, batch=batch, seed=seed) for s in range(3 * size // batch + 1)]
    )
    for epoch in range(3):
        found = stream[epoch * size : (epoch + 1) * size]
        np.testing.assert_array_equal(found, order(size, epoch, seed))


def test_seeds_and_epochs_differ():
    orders = [order(1000, epoch, seed) for epoch in range(3) for seed in range(3)]
    agreeing = [(a == b).sum() for i, a in enumerate(orders) for b in orders[:i]]
    assert max(agreeing) < 10  # two random orders agree in one place, on average


def test_a_resumed_reader_reads_what_the_uninterrupted_one_reads():
    whole = reader(samples(103), 8, seed=3)
    straight = [whole(step)["x"] for step in range(200)]
    resumed = reader(samples(103), 8, seed=3)
    for step in (*range(150, 200), 7, 199, 0):
        np.testing.assert_array_equal(resumed(step)["x"], straight[step])


@settings(deadline=None, max_examples=20)
@given(SIZES, st.sampled_from([1, 2, 3, 8]), st.integers(1, 4), st.integers(0, 10**9))
def test_processes_together_read_the_batch_of_one(size: int, count: int, share: int, step: int):
    batch = count * share
    size = max(size, batch)
    parts = [
        reader(samples(size), batch, seed=5, process_index=i, process_count=count)(step)
        for i in range(count)
    ]
    whole = reader(samples(size), batch, seed=5)(step)
    for name in ("x", "y"):
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), whole[name])
    np.testing.assert_array_equal(whole["y"], whole["x"] * 2.0)
    np.testing.assert_array_equal(whole["x"], batch_indices(step, size=size, batch=batch, seed=5))


@pytest.mark.parametrize("step", [0, 1, 468, 10**6, 2**31 - 1])
def test_jax_gives_the_same_indices_inside_a_compiled_step(step: int):
    indices = jax.jit(lambda step, seed: batch_indices(step, size=60_000, batch=128, seed=seed))
    on_host = batch_indices(step, size=60_000, batch=128, seed=4)
    np.testing.assert_array_equal(indices(step, 4), on_host)
    assert indices(step, 4).dtype == on_host.dtype == np.int32


def test_a_population_reads_one_order_a_seed():
    seeds = jnp.arange(3)
    together = jax.vmap(lambda seed: batch_indices(9, size=50, batch=16, seed=seed))(seeds)
    alone = [batch_indices(9, size=50, batch=16, seed=seed) for seed in range(3)]
    np.testing.assert_array_equal(together, alone)


def test_jax_refuses_sizes_that_would_overflow():
    with pytest.raises(ValueError, match="shares factors"):
        batch_indices(jnp.int32(0), size=2**30 - 1, batch=1024, seed=0)


def test_the_host_has_no_such_limit():
    indices = batch_indices(10**12, size=2**30 - 1, batch=1024, seed=0)
    assert len(np.unique(indices)) == 1024


@pytest.mark.parametrize("batch", [0, 11])
def test_fewer_samples_than_a_batch_are_refused_before_the_first_step(batch: int):
    with pytest.raises(ValueError, match=rf"10 samples do not make a batch of {batch}|no share"):
        reader(samples(10), batch, seed=0)


@pytest.mark.parametrize(("step", "seed"), [(-1, 0), (0, -1), (0, 2**32)])
def test_a_step_or_seed_out_of_range_is_refused(step: int, seed: int):
    with pytest.raises(ValueError, match="at least 0"):
        batch_indices(step, size=10, batch=2, seed=seed)


@pytest.mark.parametrize(("index", "count"), [(0, 3), (2, 2), (-1, 2), (0, 0)])
def test_processes_that_do_not_divide_the_batch_are_refused(index: int, count: int):
    with pytest.raises(ValueError, match="no share of a batch of 8"):
        reader(samples(10), 8, seed=0, process_index=index, process_count=count)


def test_arrays_of_unequal_length_are_refused_by_name():
    with pytest.raises(ValueError, match=r"'x': 3, 'y': 4"):
        reader({"x": np.zeros(3), "y": np.zeros(4)}, 2, seed=0)


@settings(deadline=None, max_examples=20)
@given(SIZES, st.sampled_from([1, 2, 4]), st.integers(1, 40))
def test_padded_batches_weigh_every_sample_once(size: int, count: int, share: int):
    batches = [
        part
        for i in range(count)
        for part in padded_batches(
            samples(size), count * share, process_index=i, process_count=count
        )
    ]
    assert {part["x"].shape for part in batches} == {(share,)}
    weight = np.concatenate([part["weight"] for part in batches])
    found = np.concatenate([part["x"] for part in batches])[weight == 1]
    assert weight.sum() == size
    np.testing.assert_array_equal(np.sort(found), np.arange(size))


def test_padded_batches_refuse_to_overwrite_a_weight():
    with pytest.raises(ValueError, match="rename it"):
        next(padded_batches({"weight": np.ones(3)}, 2))
