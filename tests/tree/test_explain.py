"""The resolved plan, as it is printed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlab import Stored, tree

PARAMS = {
    "fc": {"kernel": jax.ShapeDtypeStruct((784, 300), jnp.float32), "bias": jnp.zeros(300)},
    "scale": jax.ShapeDtypeStruct((), jnp.bfloat16),
}


def test_the_plan_is_a_row_a_leaf_and_a_column_a_rule_set():
    plan = tree.explain(
        PARAMS,
        decay=[(".*kernel", 1e-4), (".*", None)],
        prune=[("fc/.*", True), (".*", False)],
        init=[(".*bias", jnp.zeros), (".*", "ones")],
    )
    assert str(plan) == "\n".join(
        [
            "path       leaf               decay  prune  init",
            "─────────  ────────────────  ──────  ─────  ─────",
            "fc/bias    float32[300]           –  yes    zeros",
            "fc/kernel  float32[784,300]  0.0001  yes    ones",
            "scale      bfloat16[]             –  no     ones",
        ]
    )


def test_a_failing_rule_set_is_named():
    with pytest.raises(ValueError, match="decay: no rule matches leaf 'fc/bias'"):
        tree.explain(PARAMS, prune=[(".*", True)], decay=[(".*kernel", 0.1)])


def test_without_rules_the_plan_lists_the_leaves():
    assert tree.explain(PARAMS).columns == ("path", "leaf")


def test_extras_are_not_listed():
    stored = Stored(PARAMS, {"fc/kernel": jnp.ones(())})
    assert tree.explain(stored) == tree.explain(PARAMS)


@pytest.mark.parametrize(
    ("leaf", "text"),
    [
        (np.zeros((2, 3), np.float16), "float16[2,3]"),
        (jnp.zeros((4,), jnp.int4), "int4[4]"),
        (jax.ShapeDtypeStruct((), bool), "bool[]"),
        (1.5, "float32[]"),
    ],
)
def test_a_leaf_is_described_by_dtype_and_shape(leaf: object, text: str):
    assert tree.describe(leaf) == text
