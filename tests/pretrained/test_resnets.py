"""Residual networks through their maps: random weights in each file's names, real images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real

from wlab import data, tree
from wlab.checkpoint import open_source, save_safetensors
from wlab.models import ResNetConfig, resnet
from wlab.models.resnet import cifar
from wlab.pretrained import load, maps

TINY = ResNetConfig((1, 2, 1), (4, 6, 8), 5)


def like(config: ResNetConfig) -> dict:
    params, model_state = jax.eval_shape(resnet(config).init, jax.random.key(0))
    return {"params": params, "model_state": model_state}


def torch_names() -> dict[str, tuple[int, ...]]:
    """The state dict of a tiny CIFAR network, written down as PyTorch would list it."""

    def norm(name: str, n: int) -> dict[str, tuple[int, ...]]:
        parts = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (n,))
        parts["num_batches_tracked"] = ()
        return {f"{name}.{part}": shape for part, shape in parts.items()}

    names = {"conv1.weight": (4, 3, 3, 3), **norm("bn1", 4)}
    inputs = 4
    for layer, (count, width) in enumerate(zip(TINY.blocks, TINY.widths, strict=True), start=1):
        for i in range(count):
            at = f"layer{layer}.{i}"
            names |= {f"{at}.conv1.weight": (width, inputs, 3, 3), **norm(f"{at}.bn1", width)}
            names |= {f"{at}.conv2.weight": (width, width, 3, 3), **norm(f"{at}.bn2", width)}
            if layer > 1 and i == 0:
                names[f"{at}.shortcut.0.weight"] = (width, inputs, 1, 1)
                names |= norm(f"{at}.shortcut.1", width)
            inputs = width
    return names | {"linear.weight": (5, 8), "linear.bias": (5,)}


def test_a_torch_state_dict_fills_the_tree_and_its_statistics(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(size=s).astype(np.float32) for n, s in torch_names().items()}
    save_safetensors(tmp_path / "w.safetensors", arrays)
    loaded = load(tmp_path / "w.safetensors", maps.resnet_cifar(TINY.blocks), like(TINY))
    kernel = loaded.params["params"]["block_1_0"]["branch"]["conv_1"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["layer2.0.conv1.weight"].transpose(2, 3, 1, 0))
    variance = loaded.params["model_state"]["block_1_0"]["shortcut_norm"]["var"]
    np.testing.assert_array_equal(variance, arrays["layer2.0.shortcut.1.running_var"])
    assert loaded.plan.count("ignored") == sum("num_batches" in name for name in arrays)


def error(images: int) -> float:
    """Of ResNet-56 on CIFAR-10's first test images, inputs RGB / 255."""
    network = real.network("resnet56-cifar10")
    if not (data.cache_folder() / "cifar10").exists():
        pytest.skip("cifar10 is not cached: run `wlab data fetch cifar10`")
    test = data.load("cifar10").test

    @jax.jit
    def classes(x: jax.Array) -> jax.Array:
        return network.model.apply(network.params, x, network.model_state)[0].argmax(-1)

    wrong = 0
    for i in range(0, images, 500):
        x = jnp.asarray(test["image"][i : i + 500], jnp.float32) / 255
        wrong += int((np.asarray(classes(x)) != test["label"][i : i + 500]).sum())
    return wrong / images


@pytest.mark.long
def test_resnet56_is_the_published_network():
    network = real.network("resnet56-cifar10")
    assert network.config == cifar(56)
    assert tree.count(network.params) == 855_770
    assert 1 - error(500) == pytest.approx(0.94, abs=0.02)


@pytest.mark.long
def test_resnet56_is_right_on_93_20_percent_of_cifar10():
    assert 1 - error(10_000) == pytest.approx(0.9320, abs=1e-9)


@pytest.mark.long
def test_resnet50_has_every_array_of_the_file_and_its_head():
    network = real.network("resnet50-imagenet")
    source = open_source(real.folder("resnet50-imagenet") / "model.json")
    assert sum(array.size for array in source.arrays.values()) == 25_636_712
    assert tree.count(network.params) + tree.count(network.model_state) == 25_636_712
    np.testing.assert_array_equal(
        network.params["stem"]["kernel"], source.arrays["conv1/kernel"].read()
    )
    assert (network.labels[285], network.labels[967]) == ("Egyptian_cat", "espresso")
