"""PyTorch's LSTM language model through its map, beside the recurrence written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import tree
from wlab.checkpoint import open_source, save_safetensors
from wlab.models import LSTMConfig, lstm
from wlab.pretrained import export, from_torch_lstm

LAYERS, WIDTH, VOCAB = 2, 5, 7
TOKENS = np.array([[3, 1, 4, 1, 5], [2, 6, 5, 3, 0]])


def arrays() -> dict[str, np.ndarray]:
    """The state dict, written down as PyTorch would list it."""
    shapes = {"encoder.weight": (VOCAB, WIDTH)}
    for i in range(LAYERS):
        shapes |= {f"rnn.weight_{kind}_l{i}": (4 * WIDTH, WIDTH) for kind in ("ih", "hh")}
        shapes |= {f"rnn.bias_{kind}_l{i}": (4 * WIDTH,) for kind in ("ih", "hh")}
    shapes |= {"decoder.weight": (VOCAB, WIDTH), "decoder.bias": (VOCAB,)}
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.6, shape).astype(np.float32) for name, shape in shapes.items()}


def expected(w: dict[str, np.ndarray]) -> np.ndarray:
    """One token after another; PyTorch's gates are input, forget, cell, output."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    x = w["encoder.weight"][TOKENS].astype(np.float64)
    for i in range(LAYERS):
        h = c = np.zeros((len(TOKENS), WIDTH))
        out = []
        for t in range(TOKENS.shape[1]):
            gates = x[:, t] @ w[f"rnn.weight_ih_l{i}"].T + w[f"rnn.bias_ih_l{i}"]
            gates = gates + h @ w[f"rnn.weight_hh_l{i}"].T + w[f"rnn.bias_hh_l{i}"]
            enter, forget, cell, leave = np.split(gates, 4, axis=1)
            c = sigmoid(forget) * c + sigmoid(enter) * np.tanh(cell)
            h = sigmoid(leave) * np.tanh(c)
            out.append(h)
        x = np.stack(out, axis=1)
    return x @ w["decoder.weight"].T + w["decoder.bias"]


def test_a_state_dict_is_a_network_that_computes_what_numpy_does(tmp_path):
    save_safetensors(tmp_path / "w.safetensors", arrays())
    network = from_torch_lstm(tmp_path / "w.safetensors")
    assert network.config == LSTMConfig(LAYERS, WIDTH, VOCAB, hidden_biases=True)
    logits, _ = network.model.apply(network.params, jnp.asarray(TOKENS))
    np.testing.assert_allclose(logits, expected(arrays()), rtol=1e-4, atol=1e-5)


def test_there_and_back_is_bit_identical(tmp_path):
    save_safetensors(tmp_path / "w.safetensors", arrays())
    network = from_torch_lstm(tmp_path / "w.safetensors")
    save_safetensors(tmp_path / "v.safetensors", export(network.params, network.name_map))
    found = open_source(tmp_path / "v.safetensors").arrays
    assert set(found) == set(arrays())
    for name, array in arrays().items():
        np.testing.assert_array_equal(found[name].read(), array, err_msg=name)


def test_a_second_bias_is_what_pytorch_counts_and_the_papers_do_not():
    like = jax.eval_shape(
        lstm(LSTMConfig(2, 200, 10_000, hidden_biases=True)).init, jax.random.key(0)
    )
    assert tree.count(like) == 4_651_600 + 2 * 4 * 200


def test_another_network_is_refused_by_what_it_lacks(tmp_path):
    save_safetensors(tmp_path / "w.safetensors", {"features.0.weight": np.ones((2, 2))})
    with pytest.raises(ValueError, match=r"no LSTM language model.*features\.0\.weight"):
        from_torch_lstm(tmp_path / "w.safetensors")
