"""VGG, AlexNet, MobileNetV2 through their maps: random weights in each file's names, real ones."""

from dataclasses import replace
from itertools import pairwise

import convnet_reference as net
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real

from wlab import data, tree
from wlab.checkpoint import open_source, save_safetensors
from wlab.models import (
    AlexNetConfig,
    MobileNetV2Config,
    StatefulModel,
    VGGConfig,
    alexnet,
    mobilenet_v2,
    vgg,
)
from wlab.models.mobilenet import Stage
from wlab.models.vgg import vgg16_cifar
from wlab.pretrained import NameMap, export, load, maps
from wlab.pretrained.networks import convnets
from wlab.pretrained.networks.convnets import from_torchvision, torchvision_input

VGG = VGGConfig(((4,), (5, 6)), 5, hidden=(7, 8), side=2)
NORMED = replace(VGG, norms=True)
CIFAR = replace(NORMED, hidden=(7,), side=1, hidden_norms=True)
ALEXNET = AlexNetConfig(5, widths=(4, 5, 6, 7, 8), hidden=(9, 10), side=2)
MOBILE = MobileNetV2Config(
    5,
    multiplier=0.5,
    stages=(Stage(1, 16, 1, 1), Stage(6, 48, 2, 2), Stage(2, 48, 1, 1)),
    first=16,
    last=40,
)


def dense(*widths: int) -> list:
    first, *rest = [net.linear(a, b) for a, b in pairwise(widths)]
    return [first, *(part for one in rest for part in ("relu", "drop", one))]


def vgg_features(config: VGGConfig, *, dropouts: bool = False) -> list:
    layers, inputs = [], 3
    for widths in config.widths:
        for width in widths:
            layers += [net.conv(inputs, width), *([net.norm(width)] if config.norms else [])]
            layers += ["relu", *(["drop"] if dropouts else [])]
            inputs = width
        layers[len(layers) - dropouts :] = [net.pool()]
    return layers


def torchvision_vgg(config: VGGConfig) -> dict:
    classifier = dense(24, *config.hidden, config.classes)
    return {"features": vgg_features(config), "": [net.average(2), "flatten"]} | {
        "classifier": classifier
    }


CIFAR_CLASSIFIER = ["drop", net.linear(6, 7), net.norm(7), "relu", "drop", net.linear(7, 5)]
TIMM_VGG = {
    "features": vgg_features(NORMED),
    "pre_logits": {
        "fc1": net.conv(6, 7, 2, padding=0),
        "act1": "relu",
        "fc2": net.conv(7, 8, 1),
        "act2": "relu",
    },
    "head": {"pool": "mean", "fc": net.linear(8, 5)},
}
TORCHVISION_ALEXNET = {
    "features": [
        *(net.conv(3, 4, 11, stride=4, padding=2), "relu", net.pool(3, 2)),
        *(net.conv(4, 5, 5), "relu", net.pool(3, 2)),
        *(net.conv(5, 6), "relu", net.conv(6, 7), "relu"),
        *(net.conv(7, 8), "relu", net.pool(3, 2)),
    ],
    "": [net.average(2), "flatten"],
    "classifier": [
        "drop",
        net.linear(32, 9),
        "relu",
        "drop",
        net.linear(9, 10),
        "relu",
        net.linear(10, 5),
    ],
}


def normed(inputs: int, outputs: int, size: int, **options) -> list:
    return [net.conv(inputs, outputs, size, bias=False, **options), net.norm(outputs)]


TORCHVISION_MOBILE = {
    "features": [
        [*normed(3, 8, 3, stride=2), "relu6"],
        {"conv": net.residual([[*normed(8, 8, 3, groups=8), "relu6"], *normed(8, 8, 1)])},
        *(
            {
                "conv": net.residual(
                    [
                        [*normed(inputs, wide, 1), "relu6"],
                        [*normed(wide, wide, 3, groups=wide, stride=stride), "relu6"],
                        *normed(wide, 24, 1),
                    ]
                )
            }
            for inputs, wide, stride in ((8, 48, 2), (24, 144, 1), (24, 48, 1))
        ),
        [*normed(24, 40, 1), "relu6"],
    ],
    "": ["mean"],
    "classifier": ["drop", net.linear(40, 5)],
}


def timm_block(inputs: int, wide: int, stride: int) -> tuple:
    (a, b), (c, d), (e, f) = (
        normed(inputs, wide, 1),
        normed(wide, wide, 3, groups=wide, stride=stride),
        normed(wide, 24, 1),
    )
    parts = {"conv_pw": a, "bn1": b, "act1": "relu6", "conv_dw": c, "bn2": d, "act2": "relu6"}
    return net.residual(parts | {"conv_pwl": e, "bn3": f})


def timm_mobile() -> dict:
    (a, b), (c, d) = normed(8, 8, 3, groups=8), normed(8, 8, 1)
    (e, f), (g, h) = normed(3, 8, 3, stride=2), normed(24, 40, 1)
    plain = {"conv_dw": a, "bn1": b, "act": "relu6", "conv_pw": c, "bn2": d}
    blocks = [
        [net.residual(plain)],
        [timm_block(8, 48, 2), timm_block(24, 144, 1)],
        [timm_block(24, 48, 1)],
    ]
    stem = {"conv_stem": e, "bn1": f, "act1": "relu6", "blocks": blocks}
    end = {"conv_head": g, "bn2": h, "act2": "relu6", "pool": "mean"}
    return stem | end | {"classifier": net.linear(40, 5)}


VGG_CIFAR = {"features": vgg_features(CIFAR, dropouts=True)} | {
    "": ["mean"],
    "classifier": CIFAR_CLASSIFIER,
}
MODELS = {
    "vgg": vgg(VGG),
    "norms": vgg(NORMED),
    "cifar": vgg(CIFAR),
    "alexnet": alexnet(ALEXNET),
    "mobilenet": mobilenet_v2(MOBILE),
}
CASES = {
    "vgg": (torchvision_vgg(VGG), "vgg", maps.vgg(VGG), 13),
    "vgg, norms": (torchvision_vgg(NORMED), "norms", maps.vgg(NORMED), 8),
    "vgg, cifar": (VGG_CIFAR, "cifar", maps.vgg_cifar(CIFAR), 4),
    "vgg, timm": (TIMM_VGG, "norms", maps.vgg_timm(NORMED), 8),
    "alexnet": (TORCHVISION_ALEXNET, "alexnet", maps.alexnet(ALEXNET), 95),
    "mobilenet": (TORCHVISION_MOBILE, "mobilenet", maps.mobilenet_v2(MOBILE), 18),
    "mobilenet, timm": (timm_mobile(), "mobilenet", maps.mobilenet_v2_timm(MOBILE), 18),
}


def like(model: StatefulModel) -> dict:
    params, model_state = jax.eval_shape(model.init, jax.random.key(0))
    return {"params": params, "model_state": model_state}


@pytest.mark.parametrize(("layers", "name", "name_map", "side"), CASES.values(), ids=CASES)
def test_files_give_what_numpy_computes_in_their_own_names(
    layers, name: str, name_map: NameMap, side: int, tmp_path
):
    arrays, model = net.filled(layers), MODELS[name]
    save_safetensors(tmp_path / "w.safetensors", arrays)
    loaded = load(tmp_path / "w.safetensors", name_map, like(model))
    params, model_state = loaded.params["params"], loaded.params["model_state"]
    images = np.random.default_rng(1).normal(0, 4, (2, side, side, 3)).astype(np.float32)
    expected = net.run(layers, arrays, images)
    assert expected.std() > 0.01
    found, _ = jax.jit(model.apply)(params, jnp.asarray(images), model_state)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    written = export(loaded.params, name_map)
    assert set(arrays) - set(written) == {n for n in arrays if n.endswith("num_batches_tracked")}
    for array, lazy in written.items():
        assert lazy.read().tobytes() == arrays[array].tobytes(), array


@pytest.mark.parametrize(
    ("name", "config"), [("vgg", VGG), ("vgg, norms", NORMED), ("alexnet", ALEXNET)]
)
def test_sizes_are_read_from_torchvisions_files(name: str, config, tmp_path):
    save_safetensors(tmp_path / "w.safetensors", net.filled(CASES[name][0]))
    labels = ("a", "b", "c", "d", "e")
    network = from_torchvision(tmp_path / "w.safetensors", labels=labels)
    assert network.config == config
    assert (network.labels, network.image_size) == (labels, 224)
    assert network.plan.count("loaded") == len(network.name_map.ours)


def test_a_mobilenet_is_told_by_its_names(tmp_path, monkeypatch):
    save_safetensors(tmp_path / "w.safetensors", net.filled(TORCHVISION_MOBILE))
    sizes = dict.fromkeys(["classes"])
    monkeypatch.setattr(
        convnets, "MobileNetV2Config", lambda **given: sizes.update(given) or MOBILE
    )
    network = from_torchvision(tmp_path / "w.safetensors")
    assert sizes == {"classes": 5}
    assert network.plan.count("loaded") == len(network.name_map.ours)


def test_the_names_of_torchvisions_mobilenet_are_all_there():
    names = maps.mobilenet_v2(MobileNetV2Config()).theirs
    assert len(names) == 52 * 5 + 2
    assert {"features.1.conv.1.weight", "features.17.conv.3.running_var"} <= set(names)
    assert names[-3:] == ["features.18.1.running_var", "classifier.1.weight", "classifier.1.bias"]


def test_other_files_are_refused(tmp_path):
    save_safetensors(tmp_path / "w.safetensors", {"conv1.weight": np.zeros((4, 3, 7, 7))})
    with pytest.raises(ValueError, match="not those of torchvision's VGG, AlexNet or MobileNetV2"):
        from_torchvision(tmp_path / "w.safetensors")


def test_torchvisions_inputs_are_standardized():
    black, white = torchvision_input(np.array([0, 255], np.uint8)[:, None, None, None].repeat(3, 3))
    np.testing.assert_allclose(black[0, 0], [-2.1179, -2.0357, -1.8044], atol=1e-4)
    np.testing.assert_allclose(white[0, 0], [2.2489, 2.4286, 2.6400], atol=1e-4)


def accuracy(images: int, batch: int = 20) -> float:
    """Of VGG-16 on CIFAR-10's first test images, as the network wants them."""
    network = real.network("vgg16-cifar10")
    if not (data.cache_folder() / "cifar10").exists():
        pytest.skip("cifar10 is not cached: run `wlab data fetch cifar10`")
    test = data.load("cifar10").test

    @jax.jit
    def classes(x: jax.Array) -> jax.Array:
        return network.model.apply(network.params, x, network.model_state)[0].argmax(-1)

    right = 0
    for i in range(0, images, batch):
        assert network.prepare is not None
        x = jnp.asarray(network.prepare(test["image"][i : i + batch]))
        right += int((np.asarray(classes(x)) == test["label"][i : i + batch]).sum())
    return right / images


@pytest.mark.long
def test_vgg16_is_the_published_network():
    network = real.network("vgg16-cifar10")
    assert network.config == vgg16_cifar
    assert tree.count(network.params) == 14_991_946
    assert tree.count(network.model_state) == 9_472
    assert accuracy(20) >= 0.85  # chance gives 0.1


@pytest.mark.long
def test_vgg16_is_right_on_92_25_percent_of_cifar10():
    assert accuracy(10_000, batch=500) == pytest.approx(0.9225, abs=2e-4)


LPIPS_ALEXNET = [
    *(net.conv(3, 64, 11, stride=4, padding=2), "relu", net.pool(3, 2)),
    *(net.conv(64, 192, 5), "relu", net.pool(3, 2)),
    *(net.conv(192, 384), "relu", net.conv(384, 256), "relu"),
    *(net.conv(256, 256), "relu", net.pool(3, 2)),
]
LPIPS_VGG = vgg_features(replace(vgg16_cifar, norms=False))


@pytest.mark.parametrize(
    ("name", "layers", "prefix", "side"),
    [
        ("alexnet-lpips", LPIPS_ALEXNET, "AlexNet_0", 95),
        ("vgg16-lpips", LPIPS_VGG, "VGG16_0", 32),
    ],
)
def test_lpips_features_are_those_that_numpy_computes(name, layers, prefix, side):
    network = real.network(name)
    source = open_source(real.folder(name) / "model.ckpt")
    convolutions = [i for i, part in enumerate(layers) if part[0] == "conv"]
    arrays = {}
    for n, i in enumerate(convolutions):
        kernel, bias = (source.arrays[f"{prefix}/Conv_{n}/{k}"].read() for k in ("kernel", "bias"))
        arrays |= {f"{i}.weight": kernel.transpose(3, 2, 0, 1), f"{i}.bias": bias}
    images = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    assert network.prepare is not None
    x = network.prepare(images)
    expected = net.run(layers, arrays, x).transpose(0, 2, 3, 1)
    for method in ("features", "__call__"):
        found, _ = network.model.apply(
            network.params, jnp.asarray(x), network.model_state, method=method
        )
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert network.plan.count("ignored") == 5
