"""ResNet-50, which was trained on ImageNet, learns the ten classes of CIFAR-10."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.transfer.task import Task
from wlab import data, pretrained
from wlab.transform import Key, Params

WIDTH = 2048
_MEANS = np.array([103.939, 116.779, 123.68], np.float32)  # blue, green, red, over ImageNet


def photos(*, side: int = 96, pool: int = 10_000, test: int = 2000) -> Task:
    """Photographs enlarged to `side` pixels, prepared as ImageNet's were; `pool` to draw from."""
    network, sets = pretrained.network("resnet50-imagenet"), data.cifar10()
    chosen = np.random.default_rng(0).permutation(len(sets.test["label"]))[:test]

    def features(body: Params, statistics: Any, batch: Any, train: bool) -> tuple[jax.Array, Any]:
        images = batch["image"][..., ::-1].astype(jnp.float32) - _MEANS
        large = jax.image.resize(images, (len(images), side, side, 3), "bilinear")
        params = body | {"head": network.params["head"]}
        return network.model.apply(params, large, statistics, train=train, method="features")

    def fresh(key: Key) -> tuple[Params, Any]:
        params, statistics = network.model.init(key)
        return _headless(params), statistics

    return Task(
        name="photos",
        classes=sets.classes,
        width=WIDTH,
        train=data.take(sets.train, slice(0, pool)),
        test=data.take(sets.test, chosen),
        body=(_headless(network.params), network.model_state),
        fresh=fresh,
        features=features,
        depths=[
            ("head/.*", 0),
            *[(rf"body/block_{4 - k}_\d+/.*", k) for k in range(1, 5)],
            ("body/.*", 5),
        ],
    )


def _headless(params: Params) -> Params:
    return {name: part for name, part in params.items() if name != "head"}
