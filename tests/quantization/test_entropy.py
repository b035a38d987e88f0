"""Ranges of least divergence against a plain twin in NumPy, bin by bin, and what they leave out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from wlab.quantization import absmax, dequantize, ggml_q4_0, int4, int8, nf4, quantize
from wlab.quantization import round_to_grid as rounded
from wlab.quantization.entropy import entropy, kept_bins

kept = jax.jit(kept_bins, static_argnames="levels")
BINS, RANGE = 64, entropy(64)
ranged = jax.jit(RANGE, static_argnums=(1, 2))


def divergence(counts, i, levels):
    """As the talk has it: P with the outliers in its last bin, Q spread where P has entries."""
    p = counts[:i].astype(np.float64)
    p[-1] += counts[i:].sum()
    q = np.zeros(i)
    for level in range(levels):
        bins = range(level * i // levels, (level + 1) * i // levels)
        filled = [j for j in bins if p[j] > 0]
        for j in filled:
            q[j] = sum(int(counts[b]) for b in bins) / len(filled)
    if (q[p > 0] == 0).any() or not q.sum():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    return float(sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def divergences(counts, levels):
    return {i: divergence(counts, i, levels) for i in range(levels, len(counts) + 1)}


def histogram(x, bins=64):
    return np.histogram(np.abs(x), bins, (0, np.abs(x).max()))[0]


def draws(kind, n=4000):
    rng = np.random.default_rng(3)
    return {
        "normal": rng.standard_normal(n),
        "heavy": rng.standard_t(2, n),
        "few": rng.standard_normal(30),
        "outlier": np.append(rng.standard_normal(n), 40.0),
    }[kind]


@pytest.mark.parametrize("kind", ["normal", "heavy", "few", "outlier"])
@pytest.mark.parametrize("levels", [4, 8])
def test_the_bins_kept_are_those_of_the_twins_least_divergence(kind, levels):
    counts = histogram(draws(kind))
    found = divergences(counts, levels)
    chosen = int(kept(jnp.asarray(counts), levels=levels))
    least = min(found.values())
    assert found[chosen] <= least + 1e-5
    clear = sorted(found.values())[1] - least > 1e-5
    if clear:
        assert chosen == min(found, key=lambda i: found[i])


def test_the_twin_spreads_levels_as_the_talk_does():
    """Its example: eight bins in two levels, where an empty bin stays empty."""
    counts = np.array([1, 0, 2, 3, 5, 3, 1, 7])
    p, q = counts / 22, np.array([2, 0, 2, 2, 4, 4, 4, 4]) / 22
    by_hand = np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0]))
    assert divergence(counts, 8, 2) == pytest.approx(by_hand, rel=1e-12)


def test_of_histograms_with_one_answer_that_answer_is_given():
    even, none, gap = np.full(64, 5), np.zeros(64, int), np.zeros(64, int)
    gap[:8], gap[63] = [90, 90, 50, 50, 200, 200, 20, 20], 1  # four levels say all but the last
    stack = np.stack([even, none, gap])
    assert kept(jnp.asarray(stack), levels=4).tolist() == [64, 64, 8]


def columns(*which):
    """Blocks of one shape, so that one program serves: heavy tails, and what is put in."""
    x = np.random.default_rng(1).standard_t(2, (601, 2)).astype(np.float32)
    for i, column in enumerate(which):
        x[:, i] = column
    return jnp.asarray(x)


def test_a_heavy_tail_is_cut_and_an_even_spread_is_not():
    x = columns(np.linspace(-1, 1, 601))
    low, high = ranged(x, (0,), int4())
    _, whole = absmax(x, (0,), int4())
    assert 0 < float(high[0, 1]) < 0.5 * float(whole[0, 1])
    assert float(high[0, 0]) == float(whole[0, 0])
    np.testing.assert_array_equal(low, -high)


def test_the_range_is_the_bins_kept_of_absmax_for_each_block():
    x = columns()
    _, high = ranged(x, (0,), int4())
    for column, end in zip(np.asarray(x).T, np.asarray(high)[0], strict=True):
        found = divergences(histogram(column), 8)
        part = float(end) / np.abs(column).max() * BINS
        assert part == pytest.approx(round(part), abs=1e-4)
        assert found[round(part)] <= min(found.values()) + 1e-5


def test_zeros_are_not_counted():
    x = np.asarray(columns())
    thinned, ends = x.copy(), np.abs(x).max(0)
    thinned[:300] = 0
    thinned[300] = ends
    moved = np.concatenate([thinned[300:], thinned[:300]])
    alone = kept(jnp.asarray(histogram(thinned[300:, 0])), levels=8)
    for each in (thinned, moved):
        part = float(ranged(jnp.asarray(each), (0,), int4())[1][0, 0]) / ends[0] * BINS
        assert part == pytest.approx(int(alone), abs=1e-4)


def test_a_signed_scale_keeps_its_side_and_blocks_without_weights_their_zero():
    low, high = ranged(columns(-np.arange(601.0), 0), (0,), ggml_q4_0)
    assert float(low[0, 0]) == -600 and high.tolist() == [[0, 0]]
    assert float(low[0, 1]) == 0


def test_a_nan_makes_its_range_nan():
    x = columns().at[3, 0].set(jnp.nan)
    _, high = ranged(x, (0,), int4())
    assert np.isnan(high[0, 0]) and np.isfinite(high[0, 1])


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_eight_devices_find_what_one_finds(axis_type):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(axis_type, axis_type))
    x = columns()[:600]
    there = jax.device_put(x, jax.NamedSharding(mesh, jax.P("a", "b")))
    np.testing.assert_array_equal(ranged(there, (0,), int4())[1], ranged(x, (0,), int4())[1])


def test_rounding_is_reading_back_what_was_written():
    format = int4(group_size=250)

    def both(x):
        written = quantize(x, format, range_fn=RANGE)
        return (
            rounded(x, format, range_fn=RANGE),
            dequantize(written),
            dequantize(quantize(x, format)),
        )

    seen, written, plain = jax.jit(both)(columns())
    np.testing.assert_array_equal(seen, written)
    assert np.isfinite(written).all() and (np.abs(written) <= np.abs(plain).max()).all()
    assert np.abs(written).max() < np.abs(plain).max()


@pytest.mark.parametrize(
    ("bins", "format", "said"),
    [
        (64, int4(symmetric=False), "symmetric integers"),
        (64, nf4(), "symmetric integers"),
        (128, int8(), "128 levels need 256 bins"),
        (0, int4(), "bins must be positive"),
    ],
    ids=["zero point", "codebook", "levels", "none"],
)
def test_what_has_no_histogram_is_refused(bins, format, said):
    with pytest.raises(ValueError, match=said):
        entropy(bins)(jnp.asarray(np.ones((4, 2), np.float32)), (0,), format)
