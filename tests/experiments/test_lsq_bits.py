"""The page on learned steps in few bits, on a network small enough to compute by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.quantization.lsq_bits import (
    CONTROL,
    LEARNED,
    NEAREST,
    Cell,
    Codes,
    Config,
    Subject,
    _cells,
    codes_of,
    fitted,
    in_few_bits,
    inputs_of,
    learned_start,
    nearest_step,
    show,
    stepped,
    stepped_inputs,
)
from experiments.resnet56 import Net, Tuning

ENDS = ("a/kernel", "c/kernel")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (64, 8), dtype=np.uint8)
SHOWN = jnp.asarray(IMAGES, jnp.float32) / 255


def apply(leaves, images):
    p = leaves["params"]
    hidden = jax.nn.relu(images @ p["a"]["kernel"])
    return jnp.tanh(4 * (hidden @ p["b"]["kernel"])) @ p["c"]["kernel"], leaves["state"]


def network():
    rng = np.random.default_rng(1)
    params = {
        name: {"kernel": jnp.asarray(rng.standard_normal((8, 8)) / 3, jnp.float32)}
        for name in "abc"
    }
    return Net({"params": params, "state": {}}, apply, apply)


def by_hand(net, round_inputs):
    """The logits, with a function of each kernel's inputs."""
    a, b, c = (np.asarray(net.leaves["params"][name]["kernel"]) for name in "abc")
    x = round_inputs("a/kernel", np.asarray(SHOWN))
    x = round_inputs("b/kernel", np.maximum(x @ a, 0))
    return round_inputs("c/kernel", np.tanh(4 * (x @ b))) @ c


def test_stepped_is_the_equations_of_the_paper():
    x, s, codes = np.linspace(-1, 1, 40, dtype=np.float32).reshape(2, 20), 0.13, Codes(-2, 3)
    back = RNG.standard_normal(x.shape).astype(np.float32)
    value, pull = jax.vjp(lambda x, s: stepped(x, s, codes), jnp.asarray(x), jnp.float32(s))
    to_x, to_s = pull(jnp.asarray(back))
    scaled = x / s
    within = (scaled > -2) & (scaled < 3)
    slope = np.where(within, np.rint(scaled) - scaled, np.where(scaled < 0, -2, 3))
    np.testing.assert_allclose(value, np.clip(np.rint(scaled), -2, 3) * s, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(to_x, np.where(within, back, 0), rtol=1e-5)
    np.testing.assert_allclose(to_s, np.sum(back * slope) / np.sqrt(20 * 3), rtol=1e-4)


def test_a_step_below_zero_hides_everything_and_can_still_learn():
    x, codes = jnp.asarray([[0.5, -0.5, 2.0]]), Codes(0, 15)
    value, slope = jax.value_and_grad(lambda s: jnp.sum(stepped(x, s, codes)))(jnp.float32(-0.1))
    assert abs(float(value)) < 1e-4
    np.testing.assert_allclose(slope, 2 * 15 / np.sqrt(3 * 15), rtol=1e-5)


def test_inputs_are_what_each_kernel_meets():
    net, met = network(), {}
    by_hand(net, lambda path, x: met.setdefault(path, x))
    found = inputs_of(net, SHOWN)
    assert list(found) == list(met)
    for path, x in met.items():
        np.testing.assert_allclose(found[path], x, rtol=1e-5, atol=1e-6)


def test_codes_are_signed_where_inputs_are_and_starts_are_their_formulas():
    x = jnp.asarray([[-1.0, 2.0], [0.0, 5.0]])
    assert codes_of(x, 3) == Codes(-4, 3)
    assert codes_of(jnp.abs(x), 3) == Codes(0, 7)
    np.testing.assert_allclose(learned_start(x, Codes(0, 7)), 2 * 2 / np.sqrt(7), rtol=1e-6)
    values, codes = RNG.standard_normal((16, 16)).astype(np.float32), Codes(-2, 1)
    errors = [
        np.mean((np.clip(np.rint(values / s), -2, 1) * s - values) ** 2)
        for s in np.linspace(0.01, 1, 100) * max(values.max(), -values.min() / 2)
    ]
    step = float(nearest_step(jnp.asarray(values), codes))
    found = np.mean((np.clip(np.rint(values / step), -2, 1) * step - values) ** 2)
    np.testing.assert_allclose(found, min(errors), rtol=1e-3)


def test_inputs_are_rounded_with_eight_bits_at_the_ends():
    net, codes = network(), {"a/kernel": (0, 255), "b/kernel": (0, 3), "c/kernel": (-128, 127)}
    small, rules = stepped_inputs(net, 2, ENDS, SHOWN, nearest_step)
    steps = {path: float(small.leaves["params"]["steps"][path.replace("/", ".")]) for path in codes}

    def rounded(path, x):
        return np.clip(np.rint(x / steps[path]), *codes[path]) * steps[path]

    expected = by_hand(net, rounded)
    np.testing.assert_allclose(
        jax.jit(small.use)(small.leaves, SHOWN)[0], expected, rtol=1e-4, atol=1e-5
    )
    assert np.abs(expected - by_hand(net, lambda _, x: x)).max() > 0.01
    assert [format and format.grid.bits for _, format in rules] == [8, 2, 8, None]


@pytest.mark.long
def test_training_in_two_bits_gives_four_values_a_kernel_and_helps():
    labels = np.argmax(IMAGES, axis=1).astype(np.int32)  # the brightest pixel
    train = {"image": np.tile(IMAGES, (2, 1)), "label": np.tile(labels, 2)}
    subject = Subject(lambda seed: network(), fitted, train, train, ENDS)

    def right(method, steps):
        cell = Cell("toy", method, 2, 0)
        with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers
            net = in_few_bits(subject, network(), cell, Tuning(steps, 128, 0.02, 0))
        logits = np.asarray(jax.jit(net.use)(net.leaves, SHOWN)[0])
        return np.mean(logits.argmax(1) == labels), net.leaves["params"]

    for_nothing, rounded = right(NEAREST, 0)
    helped, learned = right(LEARNED, 80)
    assert helped > for_nothing + 0.2
    for params in (rounded["net"], learned["net"]):
        counts = [len(np.unique(params[name]["kernel"])) for name in "abc"]
        assert counts[1] <= 4 < min(counts[0], counts[2])
    began = stepped_inputs(network(), 2, ENDS, SHOWN, learned_start)[0].leaves["params"]["steps"]
    assert all(float(learned["steps"][path]) != float(start) for path, start in began.items())


def test_what_is_lost_is_of_the_twin_trained_on():
    cells = [
        cell._asdict() | {"figure": {CONTROL: 99.0, LEARNED: 97.0}.get(cell.method, 90.0)}
        for cell in _cells(Config(networks="lenet-5", bits="2,8", seeds=2))
    ]
    assert len(cells) == 2 * (2 + 2 * 2)
    two, eight = (line for line in show({"cells": cells}).splitlines() if LEARNED in line)
    assert two.split()[-2:] == ["2.00", "2.9"]
    assert eight.split()[-2:] == ["2.00", "-0.6"]
