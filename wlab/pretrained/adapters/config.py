"""`adapter_config.json` of PEFT: what of it can be done here, and a refusal by name of the rest."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wlab.checkpoint.formats.json_text import json_object
from wlab.transfer import Adapter

CONFIG = "adapter_config.json"

_DONE = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "modules_to_save", "fan_in_fan_out", "bias", "init_lora_weights"),
}
# About the run that made the file, or already to be seen in which modules have factors.
_NO_MATTER = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "lora_dropout", "eva_config", "megatron_core", "qalora_group_size"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "ephemeral_gpu_offload"),
}
_STARTS_ON_THE_BASE = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class PeftConfig:
    """What an adapter file says beside its arrays.

    Attributes:
        rank: r, where no pattern says otherwise.
        alpha: α, where no pattern says otherwise.
        stabilized: Whether the scale is α/√r.
        magnitude: Whether lengths are trained (DoRA).
        ranks: r by a regex that ends a module's name; the first that fits counts.
        alphas: α likewise.
        targets: Ends of the names of adapted modules, or one regex.
        whole: Ends of the names of modules that were trained whole.
        inputs_first: Whether linear kernels stand as (in, out) in the base, as in GPT-2.
    """

    rank: int
    alpha: float | int
    stabilized: bool
    magnitude: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float | int]
    targets: tuple[str, ...] | str
    whole: tuple[str, ...]
    inputs_first: bool

    def adapter(self, module: str, **options: Any) -> Adapter:
        """The adapter of a module by its name in the network that PEFT saw."""
        rank = _first_fit(self.ranks, module, self.rank)
        alpha = _first_fit(self.alphas, module, self.alpha)
        scaling = "rank_stabilized" if self.stabilized else "classic"
        return Adapter(rank, alpha=alpha, scaling=scaling, magnitude=self.magnitude, **options)

    def names(self, module: str) -> bool:
        """Whether PEFT would look for factors of this module."""
        if isinstance(self.targets, str):
            return self.targets == "all-linear" or bool(re.fullmatch(self.targets, module))
        return not self.targets or any(f".{module}".endswith(f".{t}") for t in self.targets)

    def is_whole(self, array: str) -> bool:
        """Whether an array belongs to a module that was trained whole."""
        parents = [array[: at.start()] for at in re.finditer(r"\.", array)]
        return any(parent.endswith(end) for parent in parents for end in self.whole)


def read_config(folder: Path) -> PeftConfig:
    """Reads the configuration of a folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no LoRA, or asks for what is not done here, naming it.
    """
    path = folder / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no {CONFIG}.")
    fields = json_object(path)
    refused = {name: value for name, value in fields.items() if not _known(name, value)}
    if fields.get("peft_type") != "LORA":
        refused |= {"peft_type": fields.get("peft_type")}
    if refused:
        asked = ", ".join(f"{name}={value!r}" for name, value in refused.items())
        raise ValueError(
            f"{path} asks for {asked}, which load_adapter does not do. Merge the adapter where it "
            "was trained, and load the merged weights."
        )
    try:
        return _config(fields)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is malformed: {error}.") from None


def _known(name: str, value: Any) -> bool:
    if name == "bias":
        return value == "none"
    if name == "init_lora_weights":
        return value in _STARTS_ON_THE_BASE
    return not value or name in _DONE | _NO_MATTER


def _config(fields: Mapping[str, Any]) -> PeftConfig:
    targets = fields.get("target_modules") or ()
    return PeftConfig(
        rank=int(fields.get("r", 8)),
        alpha=_number(fields.get("lora_alpha", 8)),
        stabilized=bool(fields.get("use_rslora")),
        magnitude=bool(fields.get("use_dora")),
        ranks={_end(p): int(r) for p, r in (fields.get("rank_pattern") or {}).items()},
        alphas={_end(p): _number(a) for p, a in (fields.get("alpha_pattern") or {}).items()},
        targets=targets if isinstance(targets, str) else tuple(targets),
        whole=tuple(fields.get("modules_to_save") or ()),
        inputs_first=bool(fields.get("fan_in_fan_out")),
    )


def _number(value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return value


def _end(pattern: str) -> str:
    """A regex of whole names that end as the pattern says."""
    re.compile(pattern)
    return rf"(.*\.)?({pattern})"


def _first_fit(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    return next((v for p, v in patterns.items() if re.fullmatch(p, module)), otherwise)
