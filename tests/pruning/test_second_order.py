"""SparseGPT's matrix algorithm against a slow twin in float64, and against what must be true."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab.calibration import inverse_factor
from wlab.pruning import Neighbours, PerLeaf, PerOutput, chosen, wanda_scores
from wlab.pruning.second_order import solve

INPUTS, OUTPUTS = 24, 10


def problem(seed: int = 0, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and inputs that are correlated and of different sizes."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, INPUTS)) @ rng.normal(size=(INPUTS, INPUTS)) / 4
    x = (mixed + rng.normal(size=(rows, INPUTS))) * np.linspace(0.3, 2, INPUTS)
    return rng.normal(size=(INPUTS, OUTPUTS)).astype(np.float32), x.astype(np.float32)


def solved(w, gram, pattern, *, damping=0.0, **options):
    gram = jnp.asarray(gram, jnp.float32)
    run = jax.jit(lambda w, gram: solve(w, gram, inverse_factor(gram, damping), pattern, **options))
    return jax.tree.map(np.asarray, run(jnp.asarray(w, jnp.float32), gram))


def twin(w: np.ndarray, gram: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Row by row, with the inverse for the rows that are left computed anew each time."""
    w, gram = w.astype(np.float64), gram.astype(np.float64)
    for i in range(len(w)):
        inverse = np.linalg.inv(gram[i:, i:])
        error = np.where(mask[i], 0, w[i]) / inverse[0, 0]
        w[i:] -= inverse[0][:, None] * error
        w[i] = np.where(mask[i], w[i], 0)
    return w


PATTERNS = {
    "half": PerLeaf(0.5),
    "a third of each output": PerOutput(1 / 3),
    "2:4": Neighbours(keep=2, of=4),
    "3:8": Neighbours(keep=3, of=8),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("block", [8, 10, 128])
def test_it_is_its_slow_twin(name: str, block: int):
    w, x = problem()
    gram = x.T @ x
    found = solved(w, gram, PATTERNS[name], block=block)
    np.testing.assert_array_equal(found.kernel[~found.mask], 0)
    np.testing.assert_allclose(found.kernel, twin(w, gram, found.mask), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", PATTERNS)
def test_the_loss_that_is_told_is_the_true_one(name: str):
    w, x = problem()
    found = solved(w, x.T @ x, PATTERNS[name])
    true = np.sum((x @ (w - found.kernel)) ** 2, dtype=np.float64)
    np.testing.assert_allclose(found.loss, true, rtol=2e-3)


@pytest.mark.parametrize("name", PATTERNS)
def test_it_is_never_below_the_optimum_for_its_mask_and_below_zeroing(name: str):
    w, x = problem()
    found = solved(w, x.T @ x, PATTERNS[name])
    best = 0.0
    for j in range(OUTPUTS):
        alive = found.mask[:, j]
        target = (x @ w[:, j]).astype(np.float64)
        answer, *_ = np.linalg.lstsq(x[:, alive].astype(np.float64), target, rcond=None)
        best += np.sum((target - x[:, alive] @ answer) ** 2)
    zeroed = np.sum((x @ np.where(found.mask, 0, w)) ** 2)
    assert best * (1 - 1e-4) <= found.loss < 0.98 * zeroed


@pytest.mark.parametrize("density", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("block", [7, 128])
def test_densities_are_met_exactly(density: float, block: int):
    w, x = problem()
    found = solved(w, x.T @ x, PerLeaf(density), block=block)
    assert found.mask.sum() == int(INPUTS * OUTPUTS * density + 0.5)
    found = solved(w, x.T @ x, PerOutput(density), block=block)
    assert (found.mask.sum(0) == int(INPUTS * density + 0.5)).all()


def test_every_group_keeps_what_it_is_to_keep():
    w, x = problem()
    mask = solved(w, x.T @ x, Neighbours(keep=2, of=4)).mask
    assert (mask.reshape(-1, 4, OUTPUTS).sum(1) == 2).all()
    with pytest.raises(ValueError, match="groups of 5 do not divide"):
        solved(w, x.T @ x, Neighbours(keep=2, of=5))
    rest = solved(w, x.T @ x, Neighbours(keep=2, of=5, remainder="dense")).mask
    assert rest[20:].all() and (rest[:20].reshape(4, 5, OUTPUTS).sum(1) == 2).all()


def test_independent_inputs_move_no_weight_and_rank_as_wanda():
    w, x = problem()
    squares = np.sum(x * x, axis=0)
    found = solved(w, np.diag(squares), PerLeaf(0.4))
    mask = chosen(PerLeaf(0.4), wanda_scores(jnp.asarray(w), jnp.asarray(squares)))
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_array_equal(found.kernel, np.where(mask, w, 0))


def test_alike_inputs_rank_as_magnitude():
    w, _ = problem()
    found = solved(w, np.eye(INPUTS), PerLeaf(0.4))
    np.testing.assert_array_equal(found.mask, chosen(PerLeaf(0.4), jnp.abs(jnp.asarray(w))))


def test_an_input_that_is_never_there_is_zeroed_and_costs_nothing():
    w, x = problem()
    x[:, [3, 17]] = 0
    found = solved(w, x.T @ x, PerOutput(0.5))
    assert (found.kernel[[3, 17]] == 0).all()
    true = np.sum((x @ (w - found.kernel)) ** 2, dtype=np.float64)
    np.testing.assert_allclose(found.loss, true, rtol=2e-3)


def test_what_is_kept_lies_on_a_grid():
    w, x = problem()
    found = solved(w, x.T @ x, PerLeaf(0.5), round=lambda row, place: jnp.round(4 * row) / 4)
    assert (found.kernel * 4 % 1 == 0).all()
    true = np.sum((x @ (w - found.kernel)) ** 2, dtype=np.float64)
    np.testing.assert_allclose(found.loss, true, rtol=2e-3)
    plain = solved(w, x.T @ x, PerLeaf(0.5)).kernel
    afterwards = np.round(4 * plain) / 4
    assert true < np.sum((x @ (w - afterwards)) ** 2)


def test_a_factor_squares_to_the_inverse_and_a_singular_matrix_is_told():
    _, x = problem()
    gram = x.T @ x
    upper = np.asarray(inverse_factor(jnp.asarray(gram), 0.0), np.float64)
    np.testing.assert_allclose(upper.T @ upper @ gram, np.eye(INPUTS), atol=2e-3)
    assert (upper == np.triu(upper)).all()
    alike = np.ones((INPUTS, INPUTS), np.float32)
    assert not np.isfinite(np.asarray(inverse_factor(jnp.asarray(alike), 0.0))).all()
    assert np.isfinite(np.asarray(inverse_factor(jnp.asarray(alike), 0.01))).all()
