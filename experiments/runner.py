"""Runs an experiment: flags from its dataclass, a directory from what differs, results once.

An experiment is `run(config, directory) -> results` and a frozen dataclass of settings. The
directory is `runs/<name>`, with a hash of the settings that are not the default ones; a finished
run is shown again rather than done again, and a cut-off one resumes from its checkpoints.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import chart
from wlab.checkpoint.atomic import written_whole
from wlab.training import keep_pages

RESULT = "result.json"


def main(
    run: Callable[[Any, Path], dict[str, Any]],
    config_type: type[Any],
    *,
    name: str,
    show: Callable[[dict[str, Any]], str],
    panels: Callable[[dict[str, Any]], Sequence[chart.Panel]] | None = None,
) -> None:
    """Parses the command line, runs unless done, and prints the table.

    Args:
        run: Pure of printing; writes only below its directory.
        config_type: A frozen dataclass; `field(metadata={"help": ...})` documents a flag.
        name: The run directory's name.
        show: The results as text.
        panels: The results as a chart, which is drawn beside them.
    """
    config, again = _parse(config_type, run.__module__)
    keep_pages()
    directory = directory_of(config, name)
    result = directory / RESULT
    if result.exists() and not again:
        print(f"{result} exists; --again runs anew.\n")
    else:
        directory.mkdir(parents=True, exist_ok=True)
        results = {"config": dataclasses.asdict(config), **run(config, directory)}
        write_text(result, json.dumps(results, indent=2) + "\n")
    results = json.loads(result.read_text())
    text = show(results)
    write_text(directory / "table.txt", text + "\n")
    print(text)
    print(f"\n{result}")
    if panels is not None:
        print(chart.draw(directory / "chart.png", panels(results)))


def directory_of(config: Any, name: str) -> Path:
    """`runs/<name>`, or `runs/<name>-<hash>` if a setting is not the default."""
    defaults = dataclasses.asdict(type(config)())
    changed = {k: v for k, v in dataclasses.asdict(config).items() if v != defaults[k]}
    if not changed:
        return Path("runs") / name
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
    return Path("runs") / f"{name}-{digest}"


def write_text(path: Path, text: str) -> None:
    """Replaces a file at once: a kill leaves the old one or the new one."""
    with written_whole(path) as file:
        file.write(text.encode())


def spread_over_cores(limit: int = 8) -> None:
    """Makes one CPU device a core, for populations: call it before JAX does anything.

    Each device then runs its own members on its own core, twice as fast as one device that
    spreads every small matrix product over all of them.
    """
    cores = min(os.cpu_count() or 1, limit)
    flags = f"--xla_force_host_platform_device_count={cores} --xla_cpu_multi_thread_eigen=false"
    os.environ.setdefault("XLA_FLAGS", flags)


def _parse(config_type: type[Any], module: str) -> tuple[Any, bool]:
    doc = sys.modules[module].__doc__
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--again", action="store_true", help="run even if a result exists")
    for field in dataclasses.fields(config_type):
        flag, about = f"--{field.name.replace('_', '-')}", field.metadata.get("help", "")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true", default=field.default, help=about)
            continue
        parser.add_argument(
            flag,
            type=type(field.default),
            default=field.default,
            help=f"{about} (default {field.default!r})",
        )
    flags = vars(parser.parse_args())
    again = flags.pop("again")
    return config_type(**flags), again
