"""What each user of a tied leaf contributes to its gradient."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from wlab.transform import Params
from wlab.tree import leaves, norms
from wlab.tying.spec import Tie, by_destination, pull


def role_gradients(grads: Params, ties: Sequence[Tie]) -> dict[str, dict[str, Array]]:
    r"""The gradient of every stored leaf, split by the seen leaves that use it.

    For the seen gradient $g_r$, scale $s_r$ and permutation $P_r$ of role r the part is
    $s_r P_r^T g_r$; the parts add up to the stored gradient.

    Args:
        grads: The gradient of what the model sees, as `jax.grad(loss_fn)(seen)` gives it.
        ties: The ties of `tie`.

    Returns:
        Stored path -> role, a seen path (the stored one first) -> part in the stored layout.

    Raises:
        ValueError: If a role has no gradient in `grads`.
    """
    tied, found = by_destination(ties), leaves(grads)
    roles: dict[str, dict[str, Array]] = {}
    for role in tied:
        path, part = role, _found(found, role)
        while path in tied:
            path, part = tied[path].source, pull(part, tied[path])
        roles.setdefault(path, {path: _found(found, path)})[role] = part
    return roles


def role_shares(grads: Params, ties: Sequence[Tie]) -> dict[str, dict[str, Float[Array, ""]]]:
    r"""The share of each role in the gradient of a stored leaf, $\|g_r\| / \sum_q \|g_q\|$.

    Shares lie in [0, 1] and add up to 1; they are 0 where no role has a gradient.

    Args:
        grads: The gradient of what the model sees.
        ties: The ties of `tie`.

    Reference:
        Lopardo et al. 2026 (arXiv:2603.26663), the output share of the gradient, here of
        weight gradients on both sides.
    """
    return {source: _shares(parts) for source, parts in role_gradients(grads, ties).items()}


def _shares(parts: dict[str, Array]) -> dict[str, Float[Array, ""]]:
    lengths = norms(parts)
    total = sum(lengths.values(), jnp.float32(0))
    return {role: jnp.where(total > 0, length / total, 0) for role, length in lengths.items()}


def _found(found: dict[str, Array], path: str) -> Array:
    if path not in found:
        raise ValueError(
            f"role_gradients: no gradient for {path!r}. Pass the gradient of the seen tree, "
            "not of the stored one."
        )
    return found[path]
