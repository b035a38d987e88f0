"""Measures a packed file in a fresh process that sees nothing but the file and the test set.

Run: python -m experiments.compression.measure FILE DATASET
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.compression.packed import read_packed
from wlab import data, models, training, tree


def errors(networks: list[Any], arrays: data.Arrays, dataset: data.Dataset) -> list[float]:
    """The error of each LeNet-300-100 on some images of a dataset, in percent."""
    model = _model(dataset)

    def metrics(params: Any, model_state: Any, batch: Any) -> Any:
        del model_state
        logits = model.apply(params, batch["image"].astype(jnp.float32) / dataset.peak)
        sums = training.cross_entropy_sums(logits, batch["label"], batch["weight"])
        return jnp.sum(batch["weight"]), sums

    evaluate = training.make_evaluate(metrics)
    return [
        100 * evaluate(params, (), data.padded_batches(arrays, 1000))["error"]
        for params in networks
    ]


def main() -> None:
    """Prints the error and the number of weights as JSON."""
    dataset = data.load(sys.argv[2])
    like = jax.eval_shape(_model(dataset).init, jax.random.key(0))
    found = read_packed(Path(sys.argv[1]))
    params = tree.replace(like, {path: jnp.asarray(leaf) for path, leaf in found.items()})
    (error,) = errors([params], dataset.test, dataset)
    print(json.dumps({"error": error, "weights": tree.count(params)}))


def _model(dataset: data.Dataset) -> models.Model:
    inputs = int(np.prod(dataset.test["image"].shape[1:]))
    return models.lenet_300_100(inputs, dataset.classes)


if __name__ == "__main__":
    main()
