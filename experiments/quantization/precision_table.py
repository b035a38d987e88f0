"""What do networks weigh, and how well do they do, in 32, 16, 8 and 4 bits?

Four real networks, rounded to nearest after training and nothing else: kernels in float16, in int8
with a scale for each output, in int4 in groups of 128 inputs with a float16 scale each (of
convolutions, whose inputs are few, with a scale for each output); embeddings left alone, or in
int8 with a scale a row. The bytes are those of the arrays. SmolLM2 comes from a file in Q4_1
blocks of 32 and is float32 only in name: it is judged against itself.

Run     python -m experiments.quantization.precision_table
Cost    20 minutes on 2 busy CPU cores; a run that is cut off goes on with the next figure
Paper   ResNet-50 on ImageNet 75.21 -> 74.96 in int8; Llama-3.1-8B 7.3315 -> 7.3451
        (word perplexity, int8 weights); 8 billion weights: 32 GB in float32, 4 GB in int4 bare
Expect  int8 is free, int4 is not for networks as small as these
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from experiments import resnet56, runner
from experiments.kept import kept
from experiments.pruning.texts import stories, wikitext
from wlab import data, pretrained, quantization, tree
from wlab.quantization import Format, int4, int8
from wlab.table import Table
from wlab.transform import Params

Judge: TypeAlias = Callable[[Params], float]


class Precision(NamedTuple):
    """How the kinds of leaves are written; None leaves them in float32."""

    kernels: Format | None
    convolutions: Format | None
    embeddings: Format | None = None
    rest: Format | None = None


_HALF, _BYTE = quantization.float16, int8()
_BYTE_CHANNELS, _ROWS = int8(axis=(0, 1, 2)), int8(axis=-1)
_NIBBLE = int4(group_size=128, scale_dtype="float16")
_NIBBLE_CHANNELS = int4(axis=(0, 1, 2), scale_dtype="float16")
PRECISIONS = {
    "float32": Precision(None, None),
    "float16": Precision(_HALF, _HALF, _HALF, _HALF),
    "int8": Precision(_BYTE, _BYTE_CHANNELS),
    "int8, embeddings too": Precision(_BYTE, _BYTE_CHANNELS, _ROWS),
    "int4": Precision(_NIBBLE, _NIBBLE_CHANNELS),
    "int4, embeddings in int8": Precision(_NIBBLE, _NIBBLE_CHANNELS, _ROWS),
}


@dataclass(frozen=True)
class Config:
    """Settings."""

    networks: str = field(
        default="resnet56-cifar10,minilm,stories15m,smollm2-135m", metadata={"help": "with commas"}
    )
    images: int = field(default=10_000, metadata={"help": "to judge on"})
    letters: int = field(default=512, metadata={"help": "likewise, of 20 newsgroups"})
    tokens: int = field(default=0, metadata={"help": "likewise; 0: 51,200 and 5,120"})


class Subject(NamedTuple):
    """A network, and the figure that it is judged by."""

    params: Params
    figure: str
    judge: Judge


def run(config: Config, directory: Path) -> dict[str, Any]:
    """Bytes and figures; those in the directory already are not computed again."""

    def measured(name: str, precision: str, subject: Callable[[], Subject]) -> dict[str, Any]:
        params = subject().params
        packed = quantization.quantize_tree(params, rules_of(params, PRECISIONS[precision]))
        path = directory / f"{name}-{precision.replace(',', '').replace(' ', '-')}.json"
        judge = partial(_judged, subject(), packed)
        return {
            "network": name,
            "precision": precision,
            "figure": subject().figure,
            "value": kept(path, judge, name=subject().figure),
        } | weighed(params, packed)

    found = []
    for name in config.networks.split(","):
        subject = cache(partial(SUBJECTS[name], name, config, directory))
        embedded = any(
            kind_of(*leaf) == "embeddings" for leaf in tree.leaves(subject().params).items()
        )
        found += [
            measured(name, precision, subject)
            for precision in PRECISIONS
            if embedded or "embeddings" not in precision
        ]
    return {"rows": found}


def kind_of(path: str, leaf: Any) -> str:
    """Which field of `Precision` a leaf is under."""
    if path.endswith("/embedding"):
        return "embeddings"
    if path.endswith("/kernel"):
        return "kernels" if leaf.ndim == 2 else "convolutions"
    return "rest"


def rules_of(params: Params, precision: Precision) -> tree.Rules[Format | None]:
    """A rule a leaf."""
    return [
        (path, getattr(precision, kind_of(path, leaf)))
        for path, leaf in tree.leaves(params).items()
    ]


def weighed(params: Params, packed: Params) -> dict[str, float]:
    """Bytes of each kind, and bits a weight of the kernels."""
    spent: dict[str, int] = {}
    count, leaves = 0, tree.leaves(params)
    for path, _, _, nbytes, _ in quantization.report(params, packed).rows[:-1]:
        kind = kind_of(path, leaves[path]).replace("convolutions", "kernels")
        spent[kind] = spent.get(kind, 0) + nbytes
        count += leaves[path].size if kind == "kernels" else 0
    return {"bits": 8 * spent["kernels"] / count, **spent}


def show(results: dict[str, Any]) -> str:
    """A table a network."""
    tables: dict[str, list[tuple[Any, ...]]] = {}
    figures: dict[str, str] = {}
    for row in results["rows"]:
        figures[row["network"]] = row["figure"]
        parts = [row.get(kind, 0) / 1e6 for kind in ("kernels", "embeddings", "rest")]
        megabytes = (round(x, 2) for x in (*parts, sum(parts)))
        line = (row["precision"], round(row["bits"], 3), *megabytes, round(row["value"], 5))
        tables.setdefault(row["network"], []).append(line)
    columns = ("bits of a kernel's weight", "MB: kernels", "embeddings", "rest", "total")
    return "\n\n".join(
        str(Table((name, *columns, figures[name]), tuple(rows))) for name, rows in tables.items()
    )


def _judged(subject: Subject, packed: Params) -> float:
    return subject.judge(quantization.dequantize_tree(packed))


def _photographs(name: str, config: Config, directory: Path) -> Subject:
    del name, directory
    net = resnet56.whole()
    test = data.take(data.cifar10().test, slice(0, config.images))

    def judge(params: Params) -> float:
        leaves = net.leaves | {"params": params}
        return 100 * (1 - resnet56.error(net._replace(leaves=leaves), test))

    return Subject(net.leaves["params"], "% right", judge)


def _sentences(name: str, config: Config, directory: Path) -> Subject:
    del directory
    network = pretrained.network(name, dtype=jnp.float32)
    letters = data.newsgroups().test.text[: config.letters]
    read = partial(pretrained.sentence_vectors, texts=letters, longest=64)
    plain = cache(partial(read, network))

    def judge(params: Params) -> float:
        vectors = read(replace(network, params=params))
        return float(np.mean(np.sum(vectors * plain(), axis=1)))

    return Subject(network.params, "mean cosine", judge)


def _language(name: str, config: Config, directory: Path) -> Subject:
    if name.startswith("stories"):
        read = stories(name, directory, rows=1, test=config.tokens or 51_200)
    else:
        read = wikitext(name, rows=1, test=config.tokens or 5_120)
    return Subject(read.network.params, "perplexity", read.perplexity)


SUBJECTS: dict[str, Callable[[str, Config, Path], Subject]] = {
    "resnet56-cifar10": _photographs,
    "minilm": _sentences,
    "stories15m": _language,
    "smollm2-135m": _language,
}


if __name__ == "__main__":
    runner.main(run, Config, name="precision-table", show=show)
