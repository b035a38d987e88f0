"""Downloads a package with the registry's own client, so that the user's settings apply."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from wlab.data.progress import progress
from wlab.data.sources import Archive

_POLL_SECONDS = 0.1


class FetchError(OSError):
    """Nothing was downloaded: no client, no network, no such package."""


def download(archive: Archive, folder: Path) -> Path:
    """Downloads the package's archive somewhere below the empty `folder`; nothing is unpacked.

    Everything that the client writes stays below `folder`, also when it is killed.

    Raises:
        FetchError: If the client is missing or fails.
    """
    target, scratch = folder / "archive", folder / "scratch"
    command = [*_client(archive.client), *_arguments(archive, target, scratch)]
    for path in (target, scratch):
        path.mkdir(parents=True)
    label = f"{archive.client} {archive.package} {archive.version}"
    with (folder / "log").open("w+") as log, progress(label, archive.nbytes) as report:
        code = _run(command, log.fileno(), folder, report)
        log.seek(0)
        said = " ".join(log.read().split())[-300:]
    # pip is stopped before it would build a source package: that still lies where pip put it.
    found = list(scratch.glob("*/*.tar.gz") if archive.client == "sdist" else target.iterdir())
    if code != 0 or len(found) != 1:
        raise FetchError(f"{label} could not be downloaded (exit code {code}): {said}")
    return found[0]


def _client(name: str) -> list[str]:
    if name == "sdist":
        if importlib.util.find_spec("pip") is None:
            raise FetchError("pip is not installed beside this Python.")
        return [sys.executable, "-P", str(Path(__file__).with_name("unbuilt.py"))]
    if name == "pip" and importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    program = shutil.which(name)
    if program is None:
        raise FetchError(f"the client {name!r} is not installed.")
    return [program]


def _arguments(archive: Archive, target: Path, scratch: Path) -> list[str]:
    if archive.client == "npm":
        package = f"{archive.package}@{archive.version}"
        into = ["--pack-destination", str(target), "--cache", str(scratch)]
        return ["pack", package, *into, "--ignore-scripts", "--loglevel=error", "--fetch-retries=1"]
    # One kind only: of a source package, pip would run the build to learn its name.
    package = f"{archive.package}=={archive.version}"
    flags = [
        "--no-deps",
        f"--no-binary={archive.package}" if archive.client == "sdist" else "--only-binary=:all:",
        "--ignore-requires-python",
        "--no-cache-dir",
        "--retries=2",
    ]
    return ["download", package, "-d", str(target), *flags, "--quiet", "--progress-bar=off"]


def _run(command: list[str], log: int, folder: Path, report: Callable[[int], None]) -> int:
    environment = os.environ | {"TMPDIR": str(folder / "scratch")}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
    ) as process:
        try:
            while True:
                try:
                    return process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    report(_bytes_below(folder))
        finally:
            process.kill()


def _bytes_below(folder: Path) -> int:
    """Bytes written so far; files may vanish while they are counted."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(parent, name))
            except FileNotFoundError:
                continue
    return total
