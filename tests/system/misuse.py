"""What a user hears whose types are wrong, without the checks of types that tests run under.

Prints the errors as JSON, by what was tried.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wlab import decay, identity, pruning, quantization, training, tying

PARAMS = {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}
RULES: Any = [("kernel", True), (".*", None)]
X = (jnp.ones((2, 4)),)
WRONG: Any = {"kernel": True, ".*": None}


def heard(f: Callable[[], Any]) -> str:
    """The error that something ends in."""
    try:
        f()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def started(transform: Any) -> Any:
    """What a transform makes of the weights."""
    return transform.init(PARAMS, jax.random.key(0))


def stepped(loss_fn: Any) -> Any:
    """A step of training."""
    transform, tx = identity(), optax.sgd(0.1)
    step = training.make_step(loss_fn, transform, tx)
    state = training.init_state(PARAMS, transform, tx, key=jax.random.key(0))
    return step(state, jnp.ones(4))


TRIED: dict[str, Callable[[], Any]] = {
    "rules, a mapping": lambda: pruning.prune(PARAMS, 0.5, WRONG),
    "rules, one pair": lambda: pruning.report(PARAMS, RULES[0]),
    "rules of rigl": lambda: pruning.rigl(0.5, WRONG, end=10),
    "rules of magnitude": lambda: started(pruning.magnitude(0.5, WRONG)),
    "score, not made": lambda: pruning.prune(PARAMS, 0.5, score=pruning.scores.random),  # type: ignore[arg-type]
    "allocation, a name": lambda: pruning.prune(PARAMS, 0.5, allocation="erk"),  # type: ignore[arg-type]
    "storage": lambda: started(pruning.magnitude(0.5, RULES, storage="bit")),  # type: ignore[arg-type]
    "decay, a number": lambda: decay.adamw(1e-3, 0.01),  # type: ignore[arg-type]
    "format, a name": lambda: quantization.quantize(PARAMS["kernel"], "int8"),  # type: ignore[arg-type]
    "format, not made": lambda: started(quantization.fake_quant(quantization.int4, RULES)),  # type: ignore[arg-type]
    "gptq, true": lambda: quantization.gptq(lambda p, x: x @ p["kernel"], PARAMS, [X], RULES),
    "awq, true": lambda: quantization.awq(lambda p, x: x @ p["kernel"], PARAMS, [X], RULES),
    "tie, alone": lambda: tying.tie(tying.Tie("a", "b")),  # type: ignore[arg-type]
    "ties, pairs": lambda: tying.tie([("a", "b")]),  # type: ignore[arg-type]
    "loss, two arguments": lambda: stepped(lambda params, batch: 0.0),
    "loss, a number": lambda: stepped(lambda params, state, batch, key: params["bias"].sum()),
    "loss, metrics alone": lambda: stepped(lambda p, state, batch, key: (p["bias"].sum(), {})),
    "loss, as it has to be": lambda: stepped(lambda p, s, b, k: (p["bias"].sum(), (4, s, {}))),
    "tx before transform": lambda: training.init_state(
        *(PARAMS, optax.sgd(0.1), identity()),  # type: ignore[arg-type]
        key=jax.random.key(0),
    ),
    "inputs, no tuple": lambda: pruning.scores.synflow(lambda p, x: x, PARAMS["kernel"]),  # type: ignore[arg-type]
}

if __name__ == "__main__":
    print(json.dumps({name: heard(f) for name, f in TRIED.items()}))
