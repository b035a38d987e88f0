"""What is refused, each with the leaf and the models named."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import merging

A = {"embed": jnp.ones((3, 2)), "norm": jnp.ones(2)}
B = {"embed": jnp.zeros((3, 2)), "norm": jnp.ones(2)}


def refused(message: str, *models, method=None, **kwargs):
    with pytest.raises(ValueError, match=re.escape(message)):
        merging.merge(method or merging.Linear(), list(models), **kwargs)


def test_names():
    refused("'model 1' has no leaf at 'head', 'model 0' has. Rename", {**A, "head": jnp.ones(2)}, B)
    refused("'model 0' has no leaf at 'head', 'model 1' has", A, {**B, "head": jnp.ones(2)})
    refused("'base' has no leaf at 'norm', 'model 0' has", A, B, base={"embed": A["embed"]})


def test_shapes():
    refused(
        "'embed' has the shape (3, 2) in 'model 0' and (4, 2) in 'chat'",
        A,
        merging.Parent({**B, "embed": jnp.ones((4, 2))}, name="chat"),
    )


def test_dtypes():
    half = {**B, "norm": jnp.ones(2, jnp.bfloat16)}
    refused("'norm' is float32 in 'model 0' and bfloat16 in 'model 1'. Pass mixed_dtypes", A, half)
    codes = {**B, "norm": jnp.ones(2, jnp.int8)}
    refused("float32 in 'model 0' and int8 in 'model 1'. Dequantize", A, codes, mixed_dtypes=True)


def test_ties_that_disagree():
    tied = merging.Parent(A, name="tied", ties={"head": "embed"})
    untied = merging.Parent({**B, "head": jnp.ones((3, 2))}, name="apart", ties={})
    refused("'tied' has 'head' tied to 'embed', 'apart' has 'head' not tied", tied, untied)
    silent = merging.Parent({**B, "head": jnp.ones((3, 2))}, name="apart")
    refused("'tied' has no leaf at 'head', 'apart' has. 'tied' ties 'head': untie", tied, silent)
    other = merging.Parent(B, name="other", ties={"head": "norm"})
    refused("'tied' has 'head' tied to 'embed', 'other' has 'head' tied to 'norm'", tied, other)
    both = merging.Parent({**A, "head": jnp.ones((3, 2))}, ties={"head": "embed"})
    refused("'model 0' ties 'head' to 'embed', but stores 'head' too", both, both)


def test_ties_that_agree_are_merged():
    parents = [merging.Parent(x, ties={"head": "embed"}) for x in (A, B)]
    np.testing.assert_array_equal(merging.merge(merging.Linear(), parents)["embed"], 0.5)


def test_aliases_that_disagree():
    table = jnp.ones((3, 2))
    one = {"embed": table, "head": table}
    two = {"embed": jnp.ones((3, 2)), "head": jnp.ones((3, 2))}
    text = "['embed', 'head'] hold one array in {!r}, but not in {!r}"
    refused(text.format("model 0", "model 1"), one, two)
    refused(text.format("model 1", "model 0"), two, one)


def test_vocabularies():
    words = ["<s>", "the", "cat"]
    one = merging.Parent(A, vocab=words)
    refused(
        "part at row 2: 'cat' in 'model 0' (of 3), 'dog' in 'model 1' (of 3)",
        one,
        merging.Parent(B, vocab=["<s>", "the", "dog"]),
    )
    longer = merging.Parent(B, name="longer", vocab=[*words, "<pad>"])
    refused("part at row 3: None in 'model 0' (of 3), '<pad>' in 'longer' (of 4)", one, longer)
    refused("part at row 3", one, B, base=longer)
    merging.merge(merging.Linear(), [one, B])  # an unknown vocabulary is not another one


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_nan_and_infinity_unless_the_leaf_is_kept(value):
    bad = {**B, "norm": jnp.array([1.0, value])}
    refused("'norm' of 'model 1' holds NaN or infinity in 1 of 2 entries", A, bad)
    refused("'norm' of 'base' holds NaN or infinity", A, B, base=bad)
    merging.merge(merging.Linear(), [A, bad], rules=[("norm", None)])


def test_integers_that_differ():
    one, two = ({**A, "step": jnp.array(i)} for i in (1, 2))
    refused("'step' is int32, which has no mean, and differs between 'model 0' and", one, two)
    kept = merging.merge(merging.Linear(), [one, two], rules=[("step", None)])
    assert kept["step"] == 1


def test_double_precision_that_would_be_cut():
    double = {"x": np.ones(2)}
    refused("'x' of 'model 0' is float64, which JAX would cut", double, double)
    with jax.enable_x64(True):
        merged = merging.merge(merging.Linear(), [{"x": np.array([1e-12])}, {"x": np.ones(1)}])
        np.testing.assert_array_equal(merged["x"], [0.5 + 0.5e-12])


def test_leaves_that_are_no_arrays():
    refused("'act' of 'model 0' is a function, not an array", {"act": lambda x: x}, A)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_models(count):
    refused(f"needs two models, or one and a base; got {count}", *[A] * count)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (merging.TaskArithmetic(), "TaskArithmetic: a change is seen from what was tuned"),
        (merging.Ties(0.2), "Ties: a change is seen"),
        (merging.Dare(0.2), "Dare: a change is seen"),
        (merging.ModelStock(), "ModelStock: a change is seen"),
        (merging.Linear((1.0, 2.0, 3.0)), "3 weights [1.0, 2.0, 3.0] for 2 models"),
    ],
)
def test_what_a_method_lacks(method, message):
    refused(message, A, B, method=method)
    # One rule far down the tree is enough, before anything is read.
    with pytest.raises(ValueError, match=re.escape(message)):
        merging.merge_leaves(merging.Linear(), [A, B], rules=[("norm", method)])


def test_what_a_method_lacks_beside_a_base():
    refused("Dare: what is dropped is drawn; pass key", A, B, base=A, method=merging.Dare(0.5))
    refused("ModelStock: merges 2 models or more", A, base=B, method=merging.ModelStock())
    refused("Linear: merges 2 models or more beside the base, got 1", A, base=B)
    refused(
        "Slerp: an arc joins two models beside the base, got 3", A, B, A, method=merging.Slerp()
    )
    refused("2 weights", A, base=B, method=merging.Ties(0.5, weights=(1.0, 1.0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: merging.Slerp(1.2), "t is a place on the arc, in [0, 1]; got 1.2"),
        (lambda: merging.Ties(20.0), "fraction kept, in (0, 1]; got 20.0"),
        (lambda: merging.Dare(0.0), "fraction kept, in (0, 1]; got 0.0"),
        (lambda: merging.Ties(0.2, weights=(1, -1)), "Ties: weights are finite and not below"),
        (lambda: merging.Dare(0.2, weights=-1, convention=merging.PEFT), "Dare: weights are fin"),
        (lambda: merging.Linear((1.0, -1.0)), "Linear: the weights (1.0, -1.0) add up to zero"),
        (lambda: merging.TaskArithmetic(float("nan")), "TaskArithmetic: weights are finite; got"),
        (lambda: merging.Ties(0.2, scale=float("inf")), "Ties: weights are finite; got inf"),
    ],
)
def test_values_out_of_range(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
