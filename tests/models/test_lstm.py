"""The LSTM language model against a loop in NumPy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from wlab.models import LSTMConfig, Model, lstm
from wlab.transform import Params

Draw = Callable[[Model], Params]

CONFIG = LSTMConfig(layers=2, width=5, vocab=7)
TOKENS = jnp.array([[0, 3, 6, 1], [2, 2, 5, 4]])


def forward(params: Params, tokens: np.ndarray, layers: int) -> np.ndarray:
    """The logits of one sequence, a step at a time."""

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    xs = params["embed"]["embedding"][tokens]
    for i in range(layers):
        layer, outputs = params[f"lstm_{i}"], []
        cell = hidden = np.zeros(xs.shape[-1])
        for x in xs:
            gates = x @ layer["input"]["kernel"] + layer["input"]["bias"]
            i_, f, g, o = np.split(gates + hidden @ layer["hidden"]["kernel"], 4)
            cell = sigmoid(f) * cell + sigmoid(i_) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(cell)
            outputs.append(hidden)
        xs = np.stack(outputs)
    return xs @ params["head"]["kernel"] + params["head"]["bias"]


def test_the_lstm_computes_what_numpy_does(drawn: Draw):
    model = lstm(CONFIG)
    params = drawn(model)
    exact = jax.tree.map(np.float64, params)
    expected = [forward(exact, tokens, CONFIG.layers) for tokens in np.array(TOKENS)]
    logits, _ = jax.jit(model.apply)(params, TOKENS)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_two_segments_are_one_text(drawn: Draw):
    model = lstm(CONFIG)
    params, apply = drawn(model), jax.jit(model.apply)
    whole, end = apply(params, TOKENS)
    first, carries = apply(params, TOKENS[:, :1])
    rest, last = apply(params, TOKENS[:, 1:], carries)
    np.testing.assert_allclose(whole, np.concatenate([first, rest], 1), rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), end, last)


def test_weights_start_uniform_in_a_tenth(key: jax.Array):
    params = jax.jit(lstm(LSTMConfig(layers=1, width=64, vocab=9)).init)(key)
    kernel = params["lstm_0"]["hidden"]["kernel"]
    assert np.abs(kernel).max() <= 0.1
    np.testing.assert_allclose(np.var(kernel), 0.2**2 / 12, rtol=0.05)
