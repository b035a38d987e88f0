"""Does another library find the same errors?

The control of `strategies`: PyTorch and the transformers package read MiniLM's file themselves and
tune it on the same examples in the same order, everything at once and the head alone. What both
find is a fact about the task, not about our code.

Run     python -m experiments.transfer.control, in the environment of `make test-peers`
Cost    about an hour on 2 CPU cores
"""

# pyright: reportMissingImports=false

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from experiments import runner
from experiments.transfer.kept import kept_error, spread
from experiments.transfer.letters import letters
from experiments.transfer.strategies import EVERYTHING, HEAD, RATES
from experiments.transfer.task import few
from wlab import data, pretrained
from wlab.table import Table

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Config:
    """Settings, as those of `strategies`."""

    network: str = field(default="minilm", metadata={"help": "or minilm-fp16"})
    labels: str = field(default="100,1000,0", metadata={"help": "examples; 0 is all"})
    seeds: int = field(default=5, metadata={"help": "draws of examples, and orders"})
    least: int = field(default=64, metadata={"help": "steps, where the examples are few"})
    batch: int = field(default=16, metadata={"help": "examples a step"})


class Classifier(torch.nn.Module):
    """BERT, the mean over its tokens, and a linear head of zeros."""

    def __init__(self, folder: Path, classes: int) -> None:
        super().__init__()
        config = transformers.BertConfig(**json.loads((folder / "config.json").read_text()))
        self.body = transformers.BertModel(config, add_pooling_layer=False)
        weights = {n: w.float() for n, w in load_file(folder / "model.safetensors").items()}
        missing, _ = self.body.load_state_dict(weights, strict=False)
        if missing:
            raise ValueError(f"{folder} lacks {missing}.")
        self.head = torch.nn.Linear(config.hidden_size, classes)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def features(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = (tokens != 0).float()
        states = self.body(input_ids=tokens, attention_mask=mask).last_hidden_state
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Every network of the page; what is in the directory already is not trained again."""
    task, folder = letters(name=config.network), pretrained.fetch(config.network)
    networks = []
    for labels in map(int, config.labels.split(",")):
        for way, tune in ((HEAD, _head), (EVERYTHING, _everything)):
            for seed in range(config.seeds):
                name = f"torch-{labels or 'all'}-{way}-{seed}.json".replace(" ", "-")

                def measure(labels: int = labels, tune: Any = tune, seed: int = seed) -> float:
                    model = Classifier(folder, task.classes).to(DEVICE).eval()
                    return tune(config, model, few(task, labels, seed), task.test, seed)

                error = kept_error(directory / name, measure)
                networks.append({"labels": labels, "way": way, "seed": seed, "error": error})
    return {"networks": networks, "device": DEVICE, "torch": torch.__version__}


def show(results: dict[str, Any]) -> str:
    """Errors in %, a row a way, a column a number of examples."""
    networks = results["networks"]
    labels = dict.fromkeys(one["labels"] for one in networks)

    def cell(way: str, n: int) -> str:
        return spread([o["error"] for o in networks if (o["way"], o["labels"]) == (way, n)])

    ways = dict.fromkeys(one["way"] for one in networks)
    rows = tuple((way, *(cell(way, n) for n in labels)) for way in ways)
    return str(Table(("letters, error %", *(f"{n or 'all'} labels" for n in labels)), rows))


def _everything(config: Config, model: Any, train: Any, test: Any, seed: int) -> float:
    # No dropout, as in our step: the model stays in its evaluation mode.
    steps = max(config.least, len(train["label"]) // config.batch)
    read = data.reader(train, config.batch, seed=seed)

    def logits(batch: Any) -> torch.Tensor:
        return model.head(model.features(_tensor(batch["tokens"])))

    _train(model, logits, read, steps, RATES["letters"][EVERYTHING])
    return _right(logits, test)


def _head(config: Config, model: Any, train: Any, test: Any, seed: int) -> float:
    steps = max(1000, 10 * len(train["label"]) // 32)
    examples = {"features": _features(model, train), "label": train["label"]}
    read = data.reader(examples, 32, seed=seed)
    _train(
        model.head,
        lambda b: model.head(_tensor(b["features"])),
        read,
        steps,
        RATES["letters"][HEAD],
    )
    return _right(lambda b: model.head(model.features(_tensor(b["tokens"]))), test)


def _train(
    module: torch.nn.Module,
    logits: Callable[[Any], torch.Tensor],
    read: Callable[[int], Any],
    steps: int,
    rate: float,
) -> None:
    named = [*module.named_parameters()]
    kernels = [p for name, p in named if p.ndim == 2]
    groups = [
        {"params": kernels, "weight_decay": 0.01},
        {"params": [p for name, p in named if p.ndim != 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    for i in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * _warmup_cosine(i, steps)
        batch = read(i)
        loss = torch.nn.functional.cross_entropy(logits(batch), _tensor(batch["label"]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()


def _warmup_cosine(step: int, steps: int) -> float:
    warmup = steps // 10
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@torch.no_grad()
def _features(model: Classifier, examples: data.Arrays) -> np.ndarray:
    parts = (model.features(_tensor(batch["tokens"])).cpu().numpy() for batch in _parts(examples))
    return np.concatenate([*parts])


@torch.no_grad()
def _right(logits: Callable[[Any], torch.Tensor], test: data.Arrays) -> float:
    right = sum(
        int((logits(batch).argmax(1) == _tensor(batch["label"])).sum()) for batch in _parts(test)
    )
    return right / len(test["label"])


def _parts(examples: data.Arrays) -> Iterator[data.Arrays]:
    return (data.take(examples, slice(i, i + 100)) for i in range(0, data.size(examples), 100))


def _tensor(array: np.ndarray) -> torch.Tensor:
    whole = array.astype(np.int64) if array.dtype == np.int32 else array
    return torch.from_numpy(whole).to(DEVICE)


if __name__ == "__main__":
    runner.main(run, Config, name="transfer-control", show=show)
