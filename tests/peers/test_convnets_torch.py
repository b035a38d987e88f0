"""VGG, AlexNet, MobileNetV2 built of torch's layers under torchvision's names: same outputs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from wlab.checkpoint import save_safetensors
from wlab.models import (
    AlexNetConfig,
    MobileNetV2Config,
    VGGConfig,
    alexnet,
    mobilenet_v2,
    vgg,
)
from wlab.models.mobilenet import Stage
from wlab.pretrained import export, load, maps

VGG = VGGConfig(((4,), (5, 6)), 5, hidden=(7, 8), side=2)
NORMED = VGGConfig(((4,), (5, 6)), 5, hidden=(7, 8), side=2, norms=True)
CIFAR = VGGConfig(((4,), (5, 6)), 5, hidden=(7,), side=1, norms=True, hidden_norms=True)
ALEXNET = AlexNetConfig(5, widths=(4, 5, 6, 7, 8), hidden=(9, 10), side=2)
MOBILE = MobileNetV2Config(
    5, stages=(Stage(1, 8, 1, 1), Stage(6, 16, 2, 2), Stage(2, 24, 1, 1)), first=16, last=40
)


class Net(nn.Module):
    def __init__(self, features: nn.Module, cells: nn.Module, classifier: nn.Module):
        super().__init__()
        self.features, self.avgpool, self.classifier = features, cells, classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def vgg_net(*, norms: bool) -> Net:
    def conv(inputs: int, outputs: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(outputs)] if norms else []
        return [nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.ReLU()]

    pool = nn.MaxPool2d(2, 2)
    features = nn.Sequential(*conv(3, 4), pool, *conv(4, 5), *conv(5, 6), pool)
    hidden = [nn.Linear(24, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 8), nn.ReLU(), nn.Dropout()]
    return Net(features, nn.AdaptiveAvgPool2d(2), nn.Sequential(*hidden, nn.Linear(8, 5)))


def cifar_net() -> Net:
    def conv(inputs: int, outputs: int, last: nn.Module) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            last,
        ]

    pool = nn.MaxPool2d(2, 2)
    features = nn.Sequential(*conv(3, 4, pool), *conv(4, 5, nn.Dropout()), *conv(5, 6, pool))
    hidden = [nn.Dropout(), nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout()]
    return Net(features, nn.Identity(), nn.Sequential(*hidden, nn.Linear(7, 5)))


def alexnet_net() -> Net:
    features = nn.Sequential(
        *(nn.Conv2d(3, 4, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(4, 5, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(5, 6, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(6, 7, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(7, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )
    hidden = [nn.Dropout(), nn.Linear(32, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 10), nn.ReLU()]
    return Net(features, nn.AdaptiveAvgPool2d(2), nn.Sequential(*hidden, nn.Linear(10, 5)))


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int):
        super().__init__()
        wide = inputs * expansion
        expand = [unit(inputs, wide, 1)] if expansion != 1 else []
        middle = unit(wide, wide, 3, stride=stride, groups=wide)
        project = [nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*expand, middle, *project)
        self.added = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.added else self.conv(x)


def unit(inputs: int, outputs: int, size: int, **options: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


def mobile_net() -> Net:
    blocks = [(16, 8, 1, 1), (8, 16, 6, 2), (16, 16, 6, 1), (16, 24, 2, 1)]
    inner = (Inverted(*sizes) for sizes in blocks)
    features = nn.Sequential(unit(3, 16, 3, stride=2), *inner, unit(24, 40, 1))
    classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(40, 5))
    return Net(features, nn.AdaptiveAvgPool2d(1), classifier)


CASES = {
    "vgg": (vgg_net(norms=False), vgg(VGG), maps.vgg(VGG), 13),
    "vgg, norms": (vgg_net(norms=True), vgg(NORMED), maps.vgg(NORMED), 8),
    "vgg, cifar": (cifar_net(), vgg(CIFAR), maps.vgg_cifar(CIFAR), 4),
    "alexnet": (alexnet_net(), alexnet(ALEXNET), maps.alexnet(ALEXNET), 95),
    "mobilenet": (
        mobile_net(),
        mobilenet_v2(MOBILE),
        maps.mobilenet_v2(MOBILE),
        18,
    ),
}


def randomized(net: nn.Module) -> None:
    """Statistics too, which begin at 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.is_floating_point():
                fan = tensor[0].numel() if tensor.ndim > 1 else 0.5
                tensor.normal_(0, fan**-0.5, generator=generator)


@pytest.mark.parametrize(("net", "model", "name_map", "side"), CASES.values(), ids=CASES)
def test_outputs_are_those_of_torch_and_what_is_exported_loads_there(
    net, model, name_map, side, tmp_path: Path
):
    randomized(net)
    net.eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    params, model_state = jax.eval_shape(model.init, jax.random.key(0))
    like = {"params": params, "model_state": model_state}
    loaded = load(tmp_path / "w.pth", name_map, like)
    images = np.random.default_rng(0).normal(0, 4, (2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    assert expected.std() > 0.01
    found, _ = model.apply(
        loaded.params["params"], jnp.asarray(images), loaded.params["model_state"]
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)

    save_safetensors(tmp_path / "back.safetensors", export(loaded.params, name_map))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    back = load_torch(tmp_path / "back.safetensors")
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.zero_()
    missing, unexpected = net.load_state_dict(back, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def load_torch(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)
