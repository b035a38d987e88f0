"""Everything: the full product and the long tests, in shards that resume (`make test-all`).

Data and weights that some tests need are fetched first; what can't be had is named, and the table
says how many tests each shard skipped.

A shard is a slice of the product or a folder of tests. What passed is written at once to
`tests/passed/<python>.json`, with the commit it ran on, and not run again until a file changes that
it can read: a new README asks for no new run, a new experiment for none of the product's. A record
that is committed goes on on another machine.

Flags: --list prints the shards, --only TEXT runs those whose name contains it, --minutes N
stops before a shard would start after N minutes.
"""

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

SLICES = 24  # of the full product
RECORDS = "tests/passed"
CONTRACT = "tests/contract"
# Rooms that the contract never comes to.
ELSEWHERE = "cli", "data", "decay", "initializers", "inspection", "merging", "models", "pretrained"


def shards() -> dict[str, dict[str, Any]]:
    """The pytest arguments and environment of each shard, by name."""
    folders = sorted(
        p.name for p in Path("tests").iterdir() if p.is_dir() and p.name[0] not in "_."
    )
    apart = ("contract", "passed", "peers")
    found = {f"tests/{name}": {"args": [f"tests/{name}"]} for name in folders if name not in apart}
    found["tests/*.py"] = {"args": [str(p) for p in sorted(Path("tests").glob("test_*.py"))]}
    for name in ("laws", "random_chains"):
        found[f"contract {name}"] = {"args": [f"{CONTRACT}/test_{name}.py"]}
    for i in range(SLICES):
        found[f"product {i + 1}/{SLICES}"] = {
            "args": [f"{CONTRACT}/test_product.py"],
            "env": {"WLAB_FULL": f"{i}/{SLICES}"},
        }
    return found


def reads(name: str, file: str) -> bool:
    """Whether what a shard runs can depend on a file, a path from the top."""
    if file.endswith((".md", "LICENSE")) or file.startswith(RECORDS):
        return False
    if name == "tests/*.py":  # of all files: the walls of the house
        return True
    folder = name if name.startswith("tests/") else CONTRACT
    if file.startswith("tests/test_"):
        return False
    if file.startswith("tests/") and file.count("/") > 1:
        return file.startswith(f"{folder}/")
    rooms = tuple(f"wlab/{room}/" for room in ELSEWHERE)
    return folder != CONTRACT or not file.startswith(("experiments/", *rooms))


def main() -> int:
    """Runs what has not passed as it is now; 0 if all has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    flags = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes its pytest along
    commit, codes = _commit(), _codes()
    path = Path(RECORDS) / f"{platform.python_version()}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    record = {name: kept[name] for name in codes if kept.get(name, {}).get("code") == codes[name]}
    if not flags.list:
        _fetch_all()
    started = time.monotonic()
    for name, shard in shards().items():
        late = time.monotonic() - started > 60 * flags.minutes
        if flags.list or late or flags.only not in name or record.get(name, {}).get("passed"):
            continue
        record[name] = {**_run(shard), "commit": commit, "code": codes[name]}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n")
    print(_table(commit, record))
    return 0 if all(record.get(name, {}).get("passed") for name in shards()) else 1


def _fetch_all() -> None:
    """Data and weights: without them their tests are skipped."""
    from wlab import data, pretrained

    for fetch, names in ((data.fetch, data.SOURCES), (pretrained.fetch, pretrained.SOURCES)):
        for name in names:
            try:
                fetch(name)
            except (OSError, ValueError, RuntimeError) as error:
                print(f"## NOT FETCHED, and its tests are skipped: {name}: {error}")


def _run(shard: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "pytest", *shard["args"], "-m", "long or not long"]
    jobs = os.environ.get("JOBS", str(os.cpu_count() or 1))
    command += ["-n", jobs, "--dist", "worksteal"]
    began = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command.append(f"--junit-xml={report.name}")
        code = subprocess.run(command, env={**os.environ, **shard.get("env", {})}).returncode
        counts = _counts(report.read())
    return {"passed": code == 0, "seconds": round(time.monotonic() - began), **counts}


def _counts(report: bytes) -> dict[str, int]:
    """Tests and skipped ones; none if pytest did not come to write its report."""
    suites = ElementTree.fromstring(report) if report else []
    return {key: sum(int(s.get(key, 0)) for s in suites) for key in ("tests", "skipped")}


def _commit() -> str:
    head = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--", ".", f":!{RECORDS}", ":!*.md")
    return head + ("-dirty" if changed else "")


def _codes() -> dict[str, str]:
    """By shard, a hash of the files that it reads."""
    files, changed = _git("ls-tree", "-r", "HEAD").splitlines(), _commit()[12:]

    def code(name: str) -> str:
        read = [line for line in files if reads(name, line.partition("\t")[2])]
        return hashlib.sha256("\n".join(read).encode()).hexdigest()[:12] + changed

    return {name: code(name) for name in shards()}


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def _table(commit: str, record: dict[str, Any]) -> str:
    versions = f"Python {platform.python_version()}, jax {metadata.version('jax')}"
    lines = [f"commit {commit}, {versions}"]
    for name in shards():
        result = record.get(name)
        state = "NOT RUN" if result is None else "passed" if result["passed"] else "FAILED"
        row = "{seconds:6} s {tests:6} tests {skipped:5} skipped  on {commit}"
        lines.append(f"{name:24} {state:8} {row.format(**result) if result else ''}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
