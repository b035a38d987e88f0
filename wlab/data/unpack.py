"""Takes files out of archives and folders, and lets none through but those that are pinned."""

import gzip
import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

_CHUNK = 1 << 20
_DAMAGE = (
    KeyError,  # no such member
    EOFError,
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, members: Mapping[str, str], files: Mapping[str, str], to: Path) -> None:
    """Writes the members of a tar or zip archive into `to`, under the names of `files`.

    Members are read as streams and written under names of our own, so no path, link or mode
    that an archive holds has any effect.

    Args:
        archive: A `.tgz`, `.tar.gz`, `.zip` or `.whl`.
        members: Where each file stands in the archive, by its name in `files`.
        files: The pinned SHA-256 of each file, unpacked.
        to: An existing folder.

    Raises:
        ValueError: If the archive is damaged, lacks a member, or one has another hash.
    """
    with _damage_named(archive), _opened(archive) as open_member:
        for name, member in members.items():
            with open_member(member) as stream:
                _write(stream, to / name, files[name], packed=member.endswith(".gz"))


def copy(folder: Path, files: Mapping[str, str], to: Path) -> None:
    """Copies the files, gzipped (`NAME.gz`) or not, from a folder into `to`.

    Raises:
        ValueError: If one is damaged or has another hash than its pinned one.
        FileNotFoundError: If one is missing.
    """
    for name, expected in files.items():
        packed = not (folder / name).exists()
        path = folder / f"{name}.gz" if packed else folder / name
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds neither {name} nor {name}.gz.")
        with _damage_named(path), path.open("rb") as stream:
            _write(stream, to / name, expected, packed=packed)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged or not what was expected: {error}") from error


@contextmanager
def _opened(archive: Path) -> Iterator:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield file.open
    else:
        with tarfile.open(archive) as file:
            yield lambda member: _regular(file, member)


def _regular(file: tarfile.TarFile, member: str) -> BufferedIOBase:
    stream = file.extractfile(member) if file.getmember(member).isfile() else None
    if not isinstance(stream, BufferedIOBase):
        raise ValueError(f"{file.name}: {member} is not a regular file.")
    return stream


def _write(stream: BufferedIOBase, path: Path, expected: str, *, packed: bool) -> None:
    digest = hashlib.sha256()
    source = gzip.GzipFile(fileobj=stream) if packed else stream
    with path.open("wb") as target:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
    if digest.hexdigest() != expected:
        path.unlink()
        raise ValueError(f"{path.name}: SHA-256 is {digest.hexdigest()}, expected {expected}.")
