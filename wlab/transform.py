"""The one protocol: a map from the weights that are stored to the weights a model sees.

A mask, fake quantization, a tie, a frozen subtree or an adapter is a `WeightTransform`.
`chain` composes them; the train step, checkpoints and reports know nothing else.
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

Params: TypeAlias = Any  # a pytree of arrays
State: TypeAlias = Any  # a pytree of arrays
Key: TypeAlias = Any  # a typed PRNG key
Step: TypeAlias = Any  # a non-negative integer scalar, traced or not

Project: TypeAlias = Callable[[Params, State], Params]

LAST_STEP = 2**31 - 1


class WeightTransform(NamedTuple):
    """A pure map from what is stored to what the forward pass sees, with its own state.

    Attributes:
        init: `(params, key) -> (stored, state)`. `params` is what the model sees; `stored` may
            have fewer leaves (a tie) or other ones (an adapter). Looks at names, shapes and
            dtypes only, so it runs under `jax.eval_shape`.
        view: `(stored, state, step) -> params`. Differentiable in both modes.
        project: `(tree, state) -> tree` zeroes coordinates of any stored-shaped tree: the
            weights, each optimizer moment, an average. Leafwise, idempotent, keeps dtypes.
        update: `(stored, grads, state, step) -> state`, after the optimizer. `grads` is the
            gradient of what `view` returned, or None unless `needs_grads`.
        in_place: `view` returns every projected stored tree unchanged.
        needs_grads: `update` reads the gradients.
    """

    init: Callable[[Params, Key], tuple[Params, State]]
    view: Callable[[Params, State, Step], Params]
    project: Project | None = None
    update: Callable[[Params, Params | None, State, Step], State] | None = None
    in_place: bool = False
    needs_grads: bool = False

    def keep_zeros(self, tree: Params, state: State) -> Params:
        """`project`, or the tree as it is."""
        return tree if self.project is None else self.project(tree, state)

    def next_state(self, stored: Params, grads: Params | None, state: State, step: Step) -> State:
        """`update`, or the state as it is."""
        return state if self.update is None else self.update(stored, grads, state, step)

    def finalize(self, stored: Params, state: State, step: Step = LAST_STEP) -> Params:
        """The seen weights as fresh arrays, at the last step unless told otherwise.

        This is what is exported, evaluated and reported. It never aliases `stored`.
        """
        return jax.jit(self.view)(stored, state, step)


@jax.tree_util.register_pytree_with_keys_class
class Stored(NamedTuple):
    """Parameters beside extra trainables, such as learned step sizes.

    The parameters keep their paths; an extra for `a/kernel` is found at `+/a/kernel`.

    Attributes:
        params: The parameter tree.
        extra: Extra arrays, keyed by the path of the parameter they belong to.
    """

    params: Params
    extra: dict[str, Any]

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], None]:
        inline, plus = jax.tree_util.DictKey(""), jax.tree_util.DictKey("+")
        return ((inline, self.params), (plus, self.extra)), None

    @classmethod
    def tree_unflatten(cls, aux: None, children: tuple[Any, Any]) -> "Stored":
        del aux
        return cls(*children)


def identity() -> WeightTransform:
    """Stores what is seen."""
    return WeightTransform(
        init=lambda params, key: (params, ()),
        view=lambda stored, state, step: stored,
        in_place=True,
    )


def chain(**members: WeightTransform) -> WeightTransform:
    """Composes transforms, read from left to right: from what is stored to what is seen.

    `init` runs right to left, `view` left to right. The state is a dict keyed by the members'
    names. Zeros are kept by the leading members that are `in_place` and the first one after
    them: only these act on the stored tree's own coordinates.

    The gradient handed to a member is that of its own view's output, pulled back through the
    later views; through a non-linear one it is a ranking signal, not the exact gradient.

    Raises:
        ValueError: If a member that projects stands behind a view that is not in place, or,
            from `init`, if two members project the same leaf.
    """
    projecting = _projecting(members)

    def init(params: Params, key: Key) -> tuple[Params, State]:
        states: dict[str, State] = {}
        for name in reversed(members):
            params, states[name] = members[name].init(params, _fold_name(key, name))
        state = {name: states[name] for name in members}
        _refuse_overlap(projecting, params, state)
        return params, state

    def view(stored: Params, state: State, step: Step) -> Params:
        for name, member in members.items():
            stored = member.view(stored, state[name], step)
        return stored

    def project(tree: Params, state: State) -> Params:
        for name, keep_zeros in projecting.items():
            tree = keep_zeros(tree, state[name])
        return tree

    def update(stored: Params, grads: Params | None, state: State, step: Step) -> State:
        pulled = _pull_back(members, stored, grads, state, step)
        new, seen = {}, stored
        for name, member in members.items():
            new[name] = member.next_state(seen, pulled.get(name), state[name], step)
            seen = member.view(member.keep_zeros(seen, new[name]), new[name], step)
        return new

    return WeightTransform(
        init=init,
        view=view,
        project=project if projecting else None,
        update=update if any(m.update for m in members.values()) else None,
        in_place=all(m.in_place for m in members.values()),
        needs_grads=any(m.needs_grads for m in members.values()),
    )


def _projecting(members: dict[str, WeightTransform]) -> dict[str, Project]:
    projecting, behind = {}, None
    for name, member in members.items():
        if member.project is not None:
            if behind is not None:
                raise ValueError(
                    f"chain: {name!r} keeps zeros in the stored tree, but {behind!r} before it "
                    f"changes what is stored. Put {name!r} before {behind!r}."
                )
            projecting[name] = member.project
        if behind is None and not member.in_place:
            behind = name
    return projecting


def _refuse_overlap(projecting: dict[str, Project], stored: Params, state: State) -> None:
    if len(projecting) < 2:
        return
    owner: dict[str, str] = {}
    for name, project in projecting.items():
        for leaf in _projected_leaves(project, stored, state[name]):
            if leaf in owner:
                raise ValueError(
                    f"chain: {owner[leaf]!r} and {name!r} both zero entries of {leaf!r}. "
                    "Change the rules of one of them so that each leaf has one owner."
                )
            owner[leaf] = name


def _projected_leaves(project: Project, stored: Params, state: State) -> list[str]:
    """Names the leaves that `project` does not pass through untouched."""
    jaxpr = jax.make_jaxpr(project)(stored, state).jaxpr
    named = jax.tree_util.tree_flatten_with_path(stored)[0]
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, _), before, after in zip(named, jaxpr.invars, jaxpr.outvars, strict=False)
        if before is not after
    ]


def _pull_back(
    members: dict[str, WeightTransform],
    stored: Params,
    grads: Params | None,
    state: State,
    step: Step,
) -> dict[str, Params]:
    """The gradient of each member's view output, for the members that ask for it."""
    wanted = [name for name, member in members.items() if member.needs_grads]
    if not wanted:
        return {}
    pulls, seen = {}, stored
    for name, member in members.items():
        seen, pulls[name] = jax.vjp(
            lambda x, view=member.view, s=state[name]: view(x, s, step), seen
        )
    pulled = {}
    for name in reversed(members):
        pulled[name] = grads
        if name == wanted[0]:
            break
        (grads,) = pulls[name](grads)
    return {name: pulled[name] for name in wanted}


def _fold_name(key: Key, name: str) -> Key:
    return jax.random.fold_in(key, jnp.uint32(zlib.crc32(name.encode())))
