"""The laws across transforms, as plain checks of a trace."""

import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from run import Trace, arrays, copies, masks_of

from wlab import WeightTransform, tree
from wlab.quantization import Format, round_to_grid
from wlab.tying import Tie
from wlab.tying.spec import show


def check_zeros(weights: WeightTransform, trace: Trace) -> None:
    """Pruned is bit-exactly zero: stored, seen and averaged, after every step.

    Only what is seen may be -0.0, where a later view multiplies by a negative scale.
    """
    for state, seen in zip(trace.states[1:], trace.seen[1:], strict=True):
        for path, mask in masks_of(weights, state).items():
            for name, copy in {"stored": state.stored, "ema": state.ema}.items():
                leaf = arrays(copy).get(path)
                if leaf is not None:
                    assert not leaf[~mask].tobytes().strip(b"\0"), f"{name} {path}"
            if path in arrays(seen):
                assert (arrays(seen)[path][~mask] == 0).all(), f"seen {path}"


def check_regrowth(weights: WeightTransform, trace: Trace) -> int:
    """An entry that was dead and now lives starts at zero with zero moments.

    Returns how many entries were regrown, so that a test can tell it saw any.
    """
    regrown = 0
    for before, after in zip(trace.states, trace.states[1:], strict=False):
        old, new = masks_of(weights, before), masks_of(weights, after)
        for path in old:
            born = ~old[path] & new[path]
            regrown += int(born.sum())
            assert (arrays(after.stored)[path][born] == 0).all(), f"stored {path}"
            for copy in copies(after):
                assert (copy[path][born] == 0).all(), f"a moment of {path}"
    return regrown


def check_tied_once(tie: Tie, trace: Trace) -> None:
    """A tied leaf is stored once, has one moment, is counted once and is seen twice."""
    state, seen = trace.states[-1], arrays(trace.seen[-1])
    stored = tree.leaves(state.stored)
    assert tie.destination not in stored
    owners = [tree.owner(path, {*stored, tie.destination}) for path in tree.paths(state.opt)]
    assert tie.destination not in owners
    np.testing.assert_array_equal(seen[tie.destination], show(jnp.asarray(seen[tie.source]), tie))
    params = tree.param_leaves(state.stored)
    assert tree.count(trace.seen[-1]) - tree.count(params) == seen[tie.destination].size


def check_on_grid(formats: Mapping[str, Format], trace: Trace) -> None:
    """Quantized weights lie on their grid: rounding them again changes nothing."""
    seen = tree.leaves(trace.seen[-1])
    for path, format in formats.items():
        again = round_to_grid(seen[path], format)
        np.testing.assert_array_equal(seen[path], again, err_msg=path)


def check_frozen(paths: Sequence[str], trace: Trace, *, until: int) -> None:
    """Gated leaves are bit-identical up to their step, and move after it."""
    first, held, last = (arrays(trace.states[step].stored) for step in (0, until, -1))
    for path in paths:
        assert first[path].tobytes() == held[path].tobytes(), path
        assert first[path].tobytes() != last[path].tobytes(), path


def check_equal(reference: Trace, trace: Trace, weights: WeightTransform, *, rtol: float) -> None:
    """Two runs agree in weights and, but for near-ties, in masks.

    Regrown weights are tiny, but their rounding is that of weights of the initial size, 0.1.
    """
    for a, b in zip(reference.states, trace.states, strict=True):
        masks_a, masks_b = masks_of(weights, a), masks_of(weights, b)
        for path in masks_a:
            different = (masks_a[path] != masks_b[path]).mean()
            assert different <= 2 / masks_a[path].size, f"mask of {path}: {different:.2%} differ"
        for path, x in arrays(a.stored).items():
            y = arrays(b.stored)[path]
            same = masks_a[path] == masks_b[path] if path in masks_a else np.True_
            close = np.isclose(x, y, rtol=rtol, atol=rtol * max(np.abs(x).max(), 0.1))
            assert (close | ~same).all(), f"{path}: {np.abs(x - y).max()}"
    assert all(math.isfinite(loss) for loss in trace.losses)
