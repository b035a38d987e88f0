"""Merging: two LeNets that learned other digits, made one that knows both halves.

Run     python -m experiments.examples.merging
Expect  base 82 %, parents 47 % and 52 %, their mean 90 %, TIES 87 % of all test digits right
"""

import jax
import jax.numpy as jnp
import optax

from wlab import data, merging, models


def main() -> None:
    """Tunes one start on the digits 0-4 and on 5-9, merges, and scores all on every digit."""
    sets, (init, apply) = data.digits(), models.lenet_300_100(64)
    x, x_test = (jnp.asarray(part["image"]) / 16.0 for part in (sets.train, sets.test))
    y = sets.train["label"]
    tx = optax.adam(1e-3)

    @jax.jit
    def step(params, opt, x, y):
        def loss(p):
            return optax.softmax_cross_entropy_with_integer_labels(apply(p, x), y).mean()

        updates, opt = tx.update(jax.grad(loss)(params), opt)
        return optax.apply_updates(params, updates), opt

    def tuned(params, rows, steps):
        opt = tx.init(params)
        for _ in range(steps):
            params, opt = step(params, opt, x[rows], y[rows])
        return params

    base = tuned(jax.jit(init)(jax.random.key(0)), y >= 0, 10)
    parents = {"0-4": tuned(base, y < 5, 30), "5-9": tuned(base, y >= 5, 30)}
    both = [merging.Parent(params, name=name) for name, params in parents.items()]
    merged = {
        "linear": merging.merge(merging.Linear(), both),
        "TIES": merging.merge(merging.Ties(0.3), both, base=base),
    }
    for name, params in {"base": base, **parents, **merged}.items():
        right = jnp.argmax(apply(params, x_test), -1) == sets.test["label"]
        print(f"{name:8} {100 * float(right.mean()):5.1f} %")
    print(merging.report(both, base))


if __name__ == "__main__":
    main()
