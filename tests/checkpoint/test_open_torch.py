"""Files of PyTorch written by hand, good and hostile; tests/peers reads real ones."""

import io
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from torch_samples import (
    call,
    mapping,
    module,
    name,
    ordered,
    parameter,
    program,
    several,
    storage,
    tensor,
    text,
    whole,
    wholes,
    write_legacy,
    write_zip,
)

from wlab.checkpoint.formats.torch_files import open_torch

F4 = np.arange(1.0, 7.0, dtype=np.float32)
RAW = F4.tobytes()
ROW = storage("FloatStorage", "0", 6)
KINDS = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
VIEWS = {
    "whole": ((6,), (1,), 0, F4),
    "matrix": ((2, 3), (3, 1), 0, F4.reshape(2, 3)),
    "transposed": ((3, 2), (1, 3), 0, F4.reshape(2, 3).T),
    "strided": ((2,), (3,), 2, F4[2::3]),
    "repeated": ((3, 2), (0, 1), 4, np.broadcast_to(F4[4:], (3, 2))),
    "windows": ((3, 3), (1, 1), 1, np.lib.stride_tricks.sliding_window_view(F4[1:], 3)),
    "scalar": ((), (), 5, F4[5]),
    "empty": ((0, 3), (3, 1), 6, np.zeros((0, 3), np.float32)),
}


def written(form, path, value, raw=RAW, size=6):
    if form == "zip":
        return write_zip(path, value, {"0": raw})
    return write_legacy(path, value, {"0": (size, raw)})


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_storage(tmp_path, form, kind):
    dtype = np.dtype(KINDS[kind])
    raw = np.random.default_rng(0).integers(0, 2, 3 * dtype.itemsize, np.uint8).tobytes()
    value = mapping(w=tensor(storage(kind, "0", 3), (3,)))
    lazy = open_torch(written(form, tmp_path / "w.pt", value, raw, 3)).arrays["w"]
    found = lazy.read()
    assert (lazy.dtype, found.dtype, lazy.nbytes) == (KINDS[kind], dtype, len(raw))
    assert found.tobytes() == raw


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "uint32", "half"])
def test_tensors_on_untyped_storages(tmp_path, dtype):
    stored = storage("UntypedStorage", "0", 12)
    args = (stored, whole(1), wholes(2), wholes(1), b"\x89", ordered(), name("torch", dtype))
    value = mapping(w=call("torch._utils", "_rebuild_tensor_v3", *args))
    raw = bytes(range(50, 62))
    lazy = open_torch(write_zip(tmp_path / "w.pt", value, {"0": raw})).arrays["w"]
    step = np.dtype(lazy.dtype).itemsize
    assert lazy.dtype == {"half": "float16"}.get(dtype, dtype)
    assert lazy.read().tobytes() == raw[step : 3 * step]


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_views_of_one_storage(tmp_path, form):
    views = {n: tensor(ROW, *view[:3]) for n, view in VIEWS.items()}
    source = open_torch(written(form, tmp_path / "w.pt", ordered(**views)))
    assert list(source.arrays) == list(VIEWS)
    for key, (*_, expected) in VIEWS.items():
        found = source.arrays[key].read()
        assert found.shape == expected.shape == source.arrays[key].shape
        np.testing.assert_array_equal(found, expected, err_msg=key)
    assert "aliases" not in source.metadata


def test_a_part_of_a_storage_in_an_old_file(tmp_path):
    part = storage("FloatStorage", "0", 6, several(text("1"), whole(2), whole(3)))
    path = written("legacy", tmp_path / "w.pt", mapping(w=tensor(part, (2,), (1,), 1)))
    np.testing.assert_array_equal(open_torch(path).arrays["w"].read(), F4[3:5])


@pytest.mark.parametrize("kind", ["FloatStorage", "BFloat16Storage", "ComplexFloatStorage"])
def test_a_file_of_a_big_endian_machine(tmp_path, kind):
    dtype = np.dtype(KINDS[kind])
    array = np.arange(4).astype(dtype)
    unit = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    raw = np.frombuffer(array.tobytes(), np.uint8).reshape(-1, unit)[:, ::-1].tobytes()
    value = mapping(w=tensor(storage(kind, "0", 4), (4,)))
    path = write_zip(tmp_path / "w.pt", value, {"0": raw}, byteorder=b"big")
    np.testing.assert_array_equal(open_torch(path).arrays["w"].read(), array)


def test_a_whole_module(tmp_path):
    tied = parameter(tensor(ROW, (2, 2), (2, 1))) + b"q\x05"
    norm = module(
        "torch.nn.modules.BatchNorm1d",
        parameters={"weight": parameter(tensor(ROW)), "bias": b"N"},
        buffers={"seen": tensor(ROW, offset=2), "scratch": tensor(ROW, offset=4)},
        hidden=("scratch",),
    )
    inner = module("m.Inner", parameters={"w": b"h\x05"}, modules={"norm": norm, "none": b"N"})
    value = module("m.Net", parameters={"scale": tied}, modules={"0": inner})
    source = open_torch(write_zip(tmp_path / "w.pt", value, {"0": RAW}))
    assert list(source.arrays) == ["scale", "0.w", "0.norm.weight", "0.norm.seen"]
    assert source.metadata == {
        "aliases": {"0.w": "scale"},
        "modules": {"": "m.Net", "0": "m.Inner", "0.norm": "torch.nn.modules.BatchNorm1d"},
    }
    np.testing.assert_array_equal(source.arrays["0.norm.seen"].read(), F4[2:4])


def test_a_module_class_that_came_with_its_source(tmp_path):
    of = several(text("module"), name("m", "Net"), text("net.py"), text("import os")) + b"Q"
    state = mapping(_parameters=ordered(w=tensor(ROW)), _buffers=ordered(), _modules=ordered())
    path = written("legacy", tmp_path / "w.pt", of + b")\x81" + state + b"b")
    source = open_torch(path)
    assert list(source.arrays) == ["w"] and source.metadata == {"modules": {"": "m.Net"}}


def test_a_checkpoint_keeps_what_is_no_tensor(tmp_path):
    namespace = name("argparse", "Namespace") + b")\x81" + mapping(lr=b"G" + struct.pack(">d", 0.1))
    value = mapping(
        epoch=whole(3),
        model=ordered(w=tensor(ROW)),
        args=namespace + b"b",
        size=call("torch", "Size", wholes(2, 3)),
        device=call("torch", "device", text("cuda"), whole(0)),
        empty=b"]",
    )
    source = open_torch(write_zip(tmp_path / "w.pt", value, {"0": RAW}))
    assert list(source.arrays) == ["model.w"]
    assert source.metadata == {
        "epoch": 3,
        "args": {"class": "argparse.Namespace", "lr": 0.1},
        "size": [2, 3],
        "device": ["cuda", 0],
    }


def test_only_the_storage_that_is_asked_for_is_read(tmp_path):
    value = mapping(a=tensor(ROW), b=tensor(storage("FloatStorage", "1", 6)))
    path = write_zip(tmp_path / "w.pt", value, {"0": RAW, "1": RAW})
    arrays = open_torch(path).arrays
    at = path.read_bytes().rindex(RAW)
    path.write_bytes(path.read_bytes()[:at])
    np.testing.assert_array_equal(arrays["a"].read(), F4[:2])
    with pytest.raises(ValueError, match=r"w.pt has become shorter"):
        arrays["b"].read()


def evil(*args, **options):
    return mapping(evil=tensor(*args, **options))


def rebuilt(*args):
    return mapping(evil=call("torch._utils", "_rebuild_tensor_v2", *args))


def conjugate():
    flags = mapping(conj=b"\x88")
    return rebuilt(ROW, whole(0), wholes(2), wholes(1), b"\x89", ordered(), flags)


HOSTILE = {
    "past the end": (evil(ROW, (7,)), r"tensor 'evil' .*pass the end of storage '0', which has 6"),
    "an offset past the end": (evil(ROW, (2,), (1,), 5), "pass the end"),
    "strides past the end": (evil(ROW, (2, 2), (5, 1), 0), "pass the end"),
    "empty past the end": (evil(ROW, (0,), (1,), 7), "pass the end"),
    "a negative size": (evil(ROW, (-1,)), "tensor 'evil' .*whole numbers from 0"),
    "a negative stride": (evil(ROW, (2,), (-1,), 3), "tensor 'evil' .*whole numbers from 0"),
    "a negative offset": (evil(ROW, (2,), (1,), -1), "tensor 'evil' .*offset or strides"),
    "another number of strides": (evil(ROW, (2,), (1, 1)), "offset or strides are malformed"),
    "sizes that overflow": (evil(ROW, (2**40, 2**40), (0, 0)), "tensor 'evil' .*2[*][*]62"),
    "a repeated element": (evil(ROW, (2**30,), (0,)), "tensor 'evil' .*past the size of the file"),
    "strides that overflow": (evil(ROW, (2,), (2**63,)), "2[*][*]62"),
    "no storage": (rebuilt(b"N", whole(0), wholes(2), wholes(1)), "'evil' .*malformed"),
    "too few arguments": (rebuilt(ROW), "'evil' .*malformed"),
    "a conjugate": (conjugate(), "'evil' .*resolve_conj"),
    "an unknown storage": (evil(storage("QInt8Storage", "0", 6)), "storage '0' is a torch.QInt8S"),
    "a size of the storage below 0": (evil(storage("FloatStorage", "0", -6)), "claims"),
    "a part past the storage": (
        evil(storage("FloatStorage", "0", 6, several(text("1"), whole(4), whole(3)))),
        "storage '0' claims 4 [+] 3 of 6",
    ),
    "another size than the file's": (evil(storage("FloatStorage", "0", 5)), "storage '0' of "),
    "a storage that is not there": (evil(storage("FloatStorage", "9", 6)), "storage '9'|list of"),
    "another persistent id": (whole(1) + b"Q", "neither a storage nor a module"),
    "a call": (call("posix", "system", text("true")), "calls posix.system"),
    "a subclass of nothing": (
        mapping(evil=call("torch._tensor", "_rebuild_from_type_v2")), "'evil' is of a subclass"
    ),
    "the same name twice": (
        b"}(" + text("a.b") + tensor(ROW) + text("a") + mapping(b=tensor(ROW)) + b"u",
        "two arrays are called 'a.b'",
    ),
    "a module in itself": (
        name("m", "N") + b")\x81q\x01" + mapping(
            _parameters=ordered(), _buffers=ordered(), _modules=ordered(up=b"h\x01")) + b"b",
        "'up' is a container that holds itself",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("value", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_pickle_is_refused(tmp_path, value, message):
    with pytest.raises(ValueError, match=rf"w.pt .*{message}"):
        open_torch(write_zip(tmp_path / "w.pt", value, {"0": RAW}))


def test_a_call_behind_a_subclass_stays_a_name(tmp_path):
    args = (name("os", "system"), name("torch", "Tensor"), several(text("touch x")), b"N")
    value = mapping(w=tensor(ROW), evil=call("torch._tensor", "_rebuild_from_type_v2", *args))
    source = open_torch(write_zip(tmp_path / "w.pt", value, {"0": RAW}))
    assert source.metadata == {"evil": {"class": "os.system", "0": "touch x"}}


def test_parameters_of_parameters_without_end_are_refused(tmp_path):
    wrapped = b"q\x010ctorch._utils\n_rebuild_parameter\nh\x01\x85R" * 5_000
    value = mapping(w=tensor(ROW) + wrapped)
    with pytest.raises(ValueError, match="tensor 'w' is wrapped more than 8 times"):
        open_torch(write_zip(tmp_path / "w.pt", value, {"0": RAW}))


def test_unknown_calls_are_names_when_asked(tmp_path):
    value = mapping(w=tensor(ROW), path=call("pathlib", "PosixPath", text("x")))
    path = write_zip(tmp_path / "w.pt", value, {"0": RAW})
    with pytest.raises(ValueError, match=r"calls pathlib.PosixPath.*strict=False"):
        open_torch(path)
    made = {"class": "pathlib.PosixPath", "0": "x"}
    assert open_torch(path, strict=False).metadata == {"path": made}


def archive(*members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for member, raw in members:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("warnings.warn", lambda *_, **__: None)  # of a name that comes twice
                made.writestr(member, raw)
    return file.getvalue()


PICKLE = program(mapping(w=tensor(ROW)))
PARTS = (("w/data.pkl", PICKLE), ("w/data/0", RAW))
GOOD = archive(*PARTS)
BIG_MEMBER = archive(("w/data.pkl", PICKLE), ("w/data/0", bytes(10**6)), compression=8)


def patched(raw, old, new, count=-1):
    assert old in raw
    return raw.replace(old, new, count)


def directory(raw):
    return raw.index(b"PK\1\2")


def overlapping():
    """The directory says that the second member begins where the first one does."""
    at = GOOD.rindex(b"PK\1\2")
    return GOOD[: at + 42] + struct.pack("<I", 0) + GOOD[at + 46 :]


def shorter_pickle():
    at, size = directory(GOOD) + 20, len(PICKLE) - 1
    return GOOD[:at] + struct.pack("<II", size, size) + GOOD[at + 8 :]


def longer_member():
    at = GOOD.rindex(b"PK\1\2")
    return GOOD[: at + 20] + struct.pack("<II", 5000, 5000) + GOOD[at + 28 :]


ARCHIVES = {
    "no pickle": (archive(PARTS[1]), "0 members `data.pkl`"),
    "two pickles": (archive(*PARTS, ("v/data.pkl", PICKLE)), "2 members `data.pkl`"),
    "a name twice": (archive(*PARTS, PARTS[1]), "member 'w/data/0' comes twice"),
    "a name that climbs": (archive(*PARTS, ("w/../../x", b"")), "leaves the archive"),
    "an absolute name": (archive(*PARTS, ("/etc/x", b"")), "leaves the archive"),
    "a bomb": (BIG_MEMBER, "is compressed"),
    "members that overlap": (overlapping(), "overlaps|is called"),
    "a member longer than the file": (longer_member(), "overlaps another or passes the end"),
    "another local name": (patched(GOOD, b"w/data/0", b"w/data/1", 1), "is called 'w/data/1'"),
    "no local header": (patched(GOOD, b"PK\3\4", b"PK\3\5"), "not where the directory says"),
    "an encrypted member": (
        GOOD[: directory(GOOD) + 8] + b"\1" + GOOD[directory(GOOD) + 9 :], "encrypted"
    ),
    "a pickle without an end": (archive((PARTS[0][0], PICKLE[:-1]), PARTS[1]), "its end at byte"),
    "a pickle longer than its member": (shorter_pickle(), "its end at byte"),
    "an unknown byte order": (archive(*PARTS, ("w/byteorder", b"mid")), "byte order is b'mid"),
    "a storage that is short": (
        archive(PARTS[0], ("w/data/0", bytes(20))), "storage '0' of 24 bytes is of 20"
    ),
    "not a zip file": (b"PK" + bytes(100), "is no zip file"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_a_hostile_archive_is_refused(tmp_path, raw, message):
    (tmp_path / "w.pt").write_bytes(raw)
    with pytest.raises(ValueError, match=rf"w.pt .*({message})"):
        open_torch(tmp_path / "w.pt")


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as made:
        made.addfile(tarfile.TarInfo("storages"))
    return file.getvalue()


KEYS = b"](" + text("0") + b"e"
ROWS = struct.pack("<q", 6) + RAW


def old(system=b"}", keys=KEYS, rows=ROWS):
    parts = (whole(0x1950A86A20F9469CFC6C), whole(1001), system, mapping(w=tensor(ROW)), keys)
    return b"".join(map(program, parts)) + rows


OLD = {
    "a tar file": (tar(), "tar file of PyTorch before"),
    "a plain pickle": (program(b"}"), "does not begin as one; `open_pickle`"),
    "an empty file": (b"", "empty"),
    "another protocol": (patched(old(), program(whole(1001)), program(whole(1002))), "header"),
    "a system that is no dict": (old(system=b"N"), "header is malformed"),
    "no list of storages": (old(keys=b"N"), "no list of storages"),
    "a key twice": (old(keys=b"](" + text("0") * 2 + b"e"), "list of storages"),
    "a key of no tensor": (old(keys=b"](" + text("1") + b"e"), "list of storages"),
    "a key that is missing": (old(keys=b"]"), "storage '0' is missing"),
    "a storage of another size": (old(rows=struct.pack("<q", 7) + bytes(28)), "has 7"),
    "a storage below 0": (old(rows=struct.pack("<q", -6) + RAW), "cut off or has"),
    "a storage that is cut off": (old(rows=struct.pack("<q", 6) + bytes(23)), "23 bytes are left"),
}


@pytest.mark.parametrize(("raw", "message"), OLD.values(), ids=OLD)
def test_a_hostile_old_file_is_refused(tmp_path, raw, message):
    (tmp_path / "w.pt").write_bytes(raw)
    with pytest.raises(ValueError, match=rf"w.pt.*({message})"):
        open_torch(tmp_path / "w.pt")


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, form):
    value = mapping(w=parameter(tensor(ROW, (6,))))
    raw = written(form, tmp_path / "w.pt", value).read_bytes()
    for end in range(len(raw)):
        (tmp_path / "w.pt").write_bytes(raw[:end])
        with pytest.raises(ValueError, match=r"w.pt"):
            open_torch(tmp_path / "w.pt")
