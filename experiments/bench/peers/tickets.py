"""A population of lottery tickets, LeNet-300-100 on MNIST, in wlab and in plain torch loops.

Zeros of the starts stay zero; Adam, batches of 60 in an order that is the same on both sides. At
the end every network is judged once on the validation images and twice on the test images, as the
experiment judges the best and the last of each. wlab trains the whole population as
experiments/lottery/lenet_mnist.py does; a torch loop trains its first member, as fast as any other.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from experiments.bench.peers.task import Task, Work
from experiments.lottery.rounds import Images, Training, trainer
from wlab import models

LAYERS, RATE = ("fc1", "fc2", "fc3"), 1.2e-3
Batches: TypeAlias = Iterator[tuple[torch.Tensor, torch.Tensor]]
Step: TypeAlias = Callable[[torch.Tensor, torch.Tensor], None]


def ours(task: Task) -> Work:
    """By the trainer of the experiment: all members, over the devices of this process."""
    settings, data = task.settings, task.data
    steps, members, peak = (settings[name] for name in ("steps", "members", "peak"))
    pixels = data["train_image"].shape[1]
    words = np.ascontiguousarray(np.pad(data["train_image"], ((0, 0), (0, -pixels % 4))))
    shown = Images(
        jnp.asarray(words.view(np.uint32)),
        jnp.asarray(data["train_label"]),
        (jnp.asarray(data["held_image"]), jnp.asarray(data["held_label"])),
        (jnp.asarray(data["test_image"]), jnp.asarray(data["test_label"])),
    )
    model = models.lenet_300_100(pixels)
    rounds = Training(steps, batch=settings["batch"], look=steps)
    train = trainer(model, shown, rounds, members, peak=peak)
    starts = jax.tree.map(jnp.asarray, task.weights)
    seeds = jnp.arange(members, dtype=jnp.uint32)

    def work() -> Mapping[str, Any]:
        outcome = jax.block_until_ready(train(starts, seeds))
        first = jax.tree.map(lambda leaf: leaf[0], outcome.final)
        kernels = {name: first[name]["kernel"] for name in LAYERS}
        return kernels | {"loss": outcome.loss[0]}

    return work


def plain(task: Task, *, fused: bool = False) -> Work:
    """The data as tensors in memory, gathered batch by batch; masks in the forward pass.

    Args:
        task: The work.
        fused: Whether Adam is one kernel; by default it is torch's default.
    """
    images, labels = (torch.from_numpy(task.data[f"train_{name}"]) for name in ("image", "label"))
    order = torch.from_numpy(task.data["order"]).long()
    labels, peak = labels.long(), task.settings["peak"]

    def batches() -> Batches:
        for rows in order:
            yield images[rows].float().div_(peak), labels[rows]

    def begin() -> tuple[torch.nn.Module, Step]:
        network = Masked(task.weights)
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=fused or None)

        def step(rows: torch.Tensor, wanted: torch.Tensor) -> None:
            optimizer.zero_grad()
            F.cross_entropy(network(rows), wanted).backward()
            optimizer.step()

        return network, step

    return _loop(task, begin, batches)


def open_lth(task: Task) -> Work:
    """As open_lth goes about it: a data loader, example by example, and a learning-rate schedule.

    Its images are turned into tensors without PIL, which is faster than what it does.
    """
    examples = _Examples(task)
    order = task.data["order"]

    def batches() -> Batches:
        size = order.shape[1]
        return iter(
            torch.utils.data.DataLoader(examples, batch_size=size, sampler=order.reshape(-1))
        )

    def begin() -> tuple[torch.nn.Module, Step]:
        network = Masked(task.weights)
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

        def step(rows: torch.Tensor, wanted: torch.Tensor) -> None:
            optimizer.zero_grad()
            network.train()
            F.cross_entropy(network(rows), wanted).backward()
            optimizer.step()
            schedule.step()

        return network, step

    return _loop(task, begin, batches)


class Masked(torch.nn.Module):
    """LeNet-300-100 whose kernels are multiplied by masks in every forward pass."""

    def __init__(self, weights: Any):
        super().__init__()
        for name in LAYERS:
            kernel, bias = (torch.tensor(weights[name][leaf][0]) for leaf in ("kernel", "bias"))
            layer = torch.nn.Linear(*kernel.shape)
            layer.weight.data, layer.bias.data = kernel.T.contiguous(), bias
            setattr(self, name, layer)
            self.register_buffer(f"{name}_mask", (layer.weight.data != 0).float())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits of flat images."""
        for name in LAYERS:
            layer, mask = getattr(self, name), getattr(self, f"{name}_mask")
            rows = F.linear(rows, layer.weight * mask, layer.bias)
            rows = rows if name == LAYERS[-1] else rows.relu_()
        return rows


class _Examples(torch.utils.data.Dataset):
    def __init__(self, task: Task):
        self.images, self.labels = task.data["train_image"], task.data["train_label"]
        self.peak = task.settings["peak"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.images[at]).float().div(self.peak), int(self.labels[at])


def _loop(
    task: Task,
    begin: Callable[[], tuple[torch.nn.Module, Step]],
    batches: Callable[[], Batches],
) -> Work:
    def judged(network: torch.nn.Module, part: str) -> torch.Tensor:
        images, labels = (torch.from_numpy(task.data[f"{part}_{n}"]) for n in ("image", "label"))
        with torch.no_grad():
            logits = network(images.float().div_(task.settings["peak"]))
            return F.cross_entropy(logits, labels.long())

    def work() -> Mapping[str, Any]:
        network, step = begin()
        for rows, wanted in batches():
            step(rows, wanted)
        loss = judged(network, "held")
        for _ in range(2):
            judged(network, "test")
        kernels = {name: getattr(network, name).weight.detach().T for name in LAYERS}
        masks = {name: getattr(network, f"{name}_mask").T for name in LAYERS}
        return {name: kernels[name] * masks[name] for name in LAYERS} | {"loss": loss}

    return work
