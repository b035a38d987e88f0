"""T5: classes of distance in whole numbers, who hears whom, the head; the maps test the rest."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import tree
from wlab.models import Model, T5Config, t5
from wlab.models.distances import distance_buckets
from wlab.transform import Params

Draw = Callable[[Model], Params]

CONFIG = T5Config(layers=1, width=12, heads=3, size=5, ffn=8, vocab=17, buckets=8, longest=6)
MODEL = t5(CONFIG)
APPLY = jax.jit(MODEL.apply)
TOKENS = jnp.array([[1, 2, 3, 4, 5], [16, 0, 7, 7, 2]])
TARGETS = jnp.array([[0, 6, 5, 4], [0, 1, 16, 3]])


def bucket(ahead: int, buckets: int, longest: int, *, causal: bool) -> int:
    """The class in whole numbers: the last k with (longest/n)^k ≤ (distance/n)^n, n single ones."""
    first = 0
    if not causal:
        buckets //= 2
        first = buckets * (ahead > 0)
    distance = max(-ahead, 0) if causal else abs(ahead)
    n, ranges = buckets // 2, buckets - buckets // 2
    if distance < n:
        return first + distance
    k = 0
    while k + 1 < ranges and longest ** (k + 1) * n ** (ranges - k - 1) <= distance**ranges:
        k += 1
    return first + n + k


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "longest"), [(32, 128), (32, 64), (8, 20), (4, 3)])
def test_classes_of_distance_are_those_of_whole_numbers(buckets: int, longest: int, causal: bool):
    found = distance_buckets(150, 140, buckets=buckets, longest=longest, causal=causal)
    expected = [
        [bucket(k - q, buckets, longest, causal=causal) for k in range(140)] for q in range(150)
    ]
    np.testing.assert_array_equal(found, expected)


def test_the_published_classes():
    """By hand: 16 each way, of which 8 are single distances and the rest double in two steps."""
    found = distance_buckets(1, 140, buckets=32, longest=128, causal=False)[0]
    starts = np.flatnonzero(np.diff(found)) + 1
    np.testing.assert_array_equal(starts, [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91])
    np.testing.assert_array_equal(found[starts], 16 + np.arange(1, 16))


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (T5Config(6, 512, 8, 64, 2048, 32_128), 60_506_624),
        (T5Config(8, 512, 6, 64, 1024, 32_128, gated=True, tied=False), 76_961_152),
    ],
    ids=["small", "v1.1 small"],
)
def test_published_totals(config: T5Config, count: int):
    assert tree.count(jax.eval_shape(t5(config).init, jax.random.key(0))) == count


def test_no_target_hears_of_later_ones_and_all_hear_every_token(drawn: Draw):
    untied = t5(replace(CONFIG, tied=False))
    params = drawn(untied)

    # Each token stands at one position alone, and no head reads the table.
    def logits(table: jax.Array) -> jax.Array:
        seen = tree.replace(params, {"embed/embedding": table})
        out = untied.apply(seen, jnp.arange(4)[None], targets=jnp.arange(10, 14)[None])
        return jnp.square(out[0]).sum(-1)

    hears = np.abs(jax.jit(jax.jacobian(logits))(params["embed"]["embedding"])).sum(-1) > 0
    assert hears[:, :4].all()
    np.testing.assert_array_equal(hears[:, 10:14], np.tri(4, dtype=bool))


def test_padding_is_not_heard(drawn: Draw):
    params, mask = drawn(MODEL), jnp.array([[True] * 3 + [False] * 2] * 2)
    other = TOKENS.at[:, 3:].set(9)
    one, two = (APPLY(params, x, targets=TARGETS, mask=mask) for x in (TOKENS, other))
    np.testing.assert_array_equal(one, two)
    shorter = APPLY(params, TOKENS[:, :3], targets=TARGETS)
    np.testing.assert_allclose(one, shorter, rtol=1e-4, atol=1e-4)


def test_a_tied_head_reads_states_divided_by_the_root_of_the_width(drawn: Draw):
    params = drawn(MODEL)
    plain = jax.jit(t5(replace(CONFIG, scaled=False)).apply)(params, TOKENS, targets=TARGETS)
    scaled = APPLY(params, TOKENS, targets=TARGETS)
    np.testing.assert_allclose(scaled, plain / np.sqrt(12), rtol=1e-4, atol=1e-5)
    head = {"head": {"kernel": params["embed"]["embedding"].T}}
    untied = jax.jit(t5(replace(CONFIG, tied=False)).apply)
    found = untied(params | head, TOKENS, targets=TARGETS)
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)


def test_half_precision_stays_half(drawn: Draw):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), drawn(MODEL))
    out = jax.eval_shape(MODEL.apply, half, TOKENS, targets=TARGETS)
    assert (out.shape, out.dtype) == ((2, 4, 17), jnp.bfloat16)


def test_queries_start_smaller_by_the_root_of_a_heads_size(key: jax.Array):
    config = T5Config(layers=1, width=64, heads=4, size=16, ffn=128, vocab=50)
    params = tree.leaves(jax.jit(t5(config).init)(key))
    for path, expected in {
        "encoder/block_0/attn/q/kernel": 1 / 32,
        "decoder/block_0/cross/k/kernel": 1 / 8,
        "decoder/block_0/ffn/down/kernel": 1 / np.sqrt(128),
        "embed/embedding": 1.0,
    }.items():
        np.testing.assert_allclose(np.std(params[path]), expected, rtol=0.05, err_msg=path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"buckets": 7}, "buckets must be even and at least 4, got 7"),
        ({"longest": 4}, r"longest \(4\) must be more than half of buckets \(8\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict, said: str):
    with pytest.raises(ValueError, match=said):
        replace(CONFIG, **change)
