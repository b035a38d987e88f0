"""Source packages from an index on this machine, with the real pip: fetched whole, never run."""

import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wlab.data import Archive, FetchError, Source, client, obtain

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pip") is None, reason="pip is not installed beside this Python"
)
WEIGHTS = b"weights " * 1000
BACKEND = """
import os, pathlib
pathlib.Path(os.environ["RAN"]).touch()
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sdist(kind: str) -> bytes:
    """A package that leaves a mark when anything of it is run."""
    files = {"PKG-INFO": b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n", "w": WEIGHTS}
    build = {"pyproject.toml": PROJECT, "backend.py": BACKEND}
    files |= {
        n: t.encode() for n, t in (build if kind == "pep517" else {"setup.py": BACKEND}).items()
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"toy-1.0/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        del args


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served as the only package index that pip knows; `RAN` is the mark's place."""
    folder = tmp_path / "index"
    (folder / "toy").mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name in [name for name in os.environ if name.upper().startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    yield folder / "toy"
    server.shutdown()
    thread.join()
    server.server_close()


def serve(index: Path, name: str, data: bytes) -> None:
    (index / name).write_bytes(data)
    (index / "index.html").write_text(f'<a href="{name}">{name}</a>')


def source(data: bytes) -> Source:
    archive = Archive("sdist", "toy", "1.0", sha256(data), len(data), ("toy-1.0/w",))
    return Source({"w": sha256(WEIGHTS)}, (archive,), "a toy")


@pytest.mark.parametrize("kind", ["pep517", "setup.py"])
def test_a_source_package_is_fetched_and_none_of_its_code_runs(kind, tmp_path, index):
    data = sdist(kind)
    serve(index, "toy-1.0.tar.gz", data)
    folder = obtain("toy", source(data), cache=tmp_path / "cache")
    assert (folder / "w").read_bytes() == WEIGHTS
    assert not (tmp_path / "ran").exists()
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == [".toy.lock", "toy"]


def test_pip_alone_would_have_run_it(tmp_path, index):
    serve(index, "toy-1.0.tar.gz", sdist("pep517"))
    command = ["download", "toy==1.0", "--no-deps", "--no-binary=:all:", "--no-cache-dir", "-d"]
    subprocess.run([sys.executable, "-m", "pip", *command, str(tmp_path)], capture_output=True)
    assert (tmp_path / "ran").exists()


def test_another_archive_than_the_pinned_one_is_refused_before_anything_is_read(tmp_path, index):
    serve(index, "toy-1.0.tar.gz", sdist("setup.py"))
    with pytest.raises(ValueError, match=r"toy-1\.0\.tar\.gz: SHA-256 is .*It was removed"):
        obtain("toy", source(sdist("pep517")), cache=tmp_path / "cache")
    assert not (tmp_path / "ran").exists()


def test_what_is_not_there_is_named_with_the_way_to_bring_it(tmp_path, index):
    serve(index, "other-1.0.tar.gz", b"")
    with pytest.raises(FetchError, match=r"sdist toy 1\.0 could not be.*toy==1\.0.*--file PATH"):
        obtain("toy", source(b""), cache=tmp_path / "cache")


def test_without_pip_the_archive_can_be_brought(tmp_path, monkeypatch):
    monkeypatch.setattr(client.importlib.util, "find_spec", lambda name: None)
    data = sdist("pep517")
    with pytest.raises(FetchError, match=r"pip is not installed beside this Python.*--file PATH"):
        obtain("toy", source(data), cache=tmp_path / "cache")
    (tmp_path / "mine").write_bytes(data)
    folder = obtain("toy", source(data), file=tmp_path / "mine", cache=tmp_path / "cache")
    assert (folder / "w").read_bytes() == WEIGHTS
    renamed = replace(source(data), files={"w": sha256(b"other")})
    with pytest.raises(ValueError, match="w: SHA-256 is"):
        obtain("toy", renamed, file=tmp_path / "mine", cache=tmp_path / "elsewhere")
