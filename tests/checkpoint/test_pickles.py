"""Pickles are read as the standard library reads them, and nothing that they name is run."""

import collections
import io
import os
import pickle
import struct
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_samples import call, name, program, several, text, whole

from wlab.checkpoint.formats import flattening, pickles
from wlab.checkpoint.formats.inert import Global, Object, Piece
from wlab.checkpoint.formats.numpy_pickles import open_pickle
from wlab.checkpoint.formats.pickles import read_pickle

ATOMS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    | st.text() | st.binary(max_size=60)
)  # fmt: skip
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.sets(st.text())
    ),
    max_leaves=20,
)
DICTS = ("builtins.dict", "collections.OrderedDict", "collections.defaultdict")


def python(value):
    """What was pickled, from its description."""
    if isinstance(value, Object):
        of = str(value.of)
        if of in DICTS:
            return {python(key): python(item) for key, item in value.pairs}
        if of == "builtins.set":
            return {*map(python, [*(value.args[0] if value.args else ()), *value.items])}
        if of == "_codecs.encode":
            return value.args[0].encode(value.args[1])
        assert of == "builtins.bytes" and not value.args
        return b""
    if isinstance(value, list | tuple):
        return type(value)(map(python, value))
    return value


@settings(max_examples=150, deadline=None)
@given(value=VALUES, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_back(value, protocol):
    raw = pickle.dumps(value, protocol)
    file = io.BytesIO(raw + b"behind")
    found = read_pickle(file, calls=("builtins.set", "_codecs.encode", "builtins.bytes"))
    assert python(found) == value == pickle.loads(raw)
    assert file.tell() == len(raw)


class Point:
    def __init__(self):
        self.x = 3


class Pair(NamedTuple):
    a: int
    b: Point


class Own(dict):
    pass


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_instance_is_its_class_and_state(protocol):
    found = read_pickle(io.BytesIO(pickle.dumps([Point(), Point], protocol)), calls=())
    point, of = found
    assert of == point.of == Global(__name__, "Point")
    assert point.state.pairs == [("x", 3)]


def test_keyword_arguments_and_lists_of_a_subclass():
    found = read_pickle(io.BytesIO(pickle.dumps(collections.deque([1, 2]), 2)), calls=None)
    assert (str(found.of), found.items) == ("collections.deque", [1, 2])
    new = name("m", "C") + b")" + b"}" + b"\x92."
    assert str(read_pickle(io.BytesIO(b"\x80\x04" + new), calls=()).of) == "m.C"


def test_long_bytes_stay_in_the_file():
    raw = pickle.dumps({"w": bytes(range(100)), "b": bytearray(200)}, 5)
    (_, first), (_, second) = read_pickle(io.BytesIO(raw), calls=()).pairs
    assert isinstance(first, Piece) and raw[first.begin : first.end] == bytes(range(100))
    assert isinstance(second, Piece) and raw[second.begin : second.end] == bytes(200)


class Reduced:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def exploits(command):
    """Programs that run `command` in the standard unpickler."""
    run = text(command)
    lines = f"(S'{command}'\nios\nsystem\n.".encode()
    stacked = b"\x80\x04" + text("posix") + text("system") + b"\x93(" + run + b"tR."
    touched = f"__import__('os').system({command!r})"
    return {
        "reduce": pickle.dumps(Reduced(os.system, command)),
        "instance": lines,
        "object": b"(cos\nsystem\n" + run + b"o.",
        "stacked name": stacked,
        "eval": program(call("builtins", "eval", text(touched))),
        "python 2": program(call("__builtin__", "eval", text(touched))),
        "getattr": program(call("builtins", "getattr", name("os", "path"), text("x"))),
        "a dotted name": program(call("numpy", "f2py.os.system", run)),
        "in a key": program(b"}" + call("os", "system", run) + b"Ns"),
        "in the memo, dropped": program(call("os", "system", run) + b"q\x000N"),
        "state of a call": program(call("os", "system", run) + b"}b"),
    }  # fmt: skip


@pytest.mark.parametrize("case", exploits(""))
def test_nothing_that_a_pickle_names_is_run(tmp_path, case):
    marker = tmp_path / "marker"
    raw = exploits(f"touch {marker}")[case]
    path = tmp_path / "w.pkl"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"w.pkl .*the pickle calls .*, which was not done"):
        open_pickle(path)
    try:
        open_pickle(path, strict=False)
    except ValueError as error:
        assert "key" in str(error)
    assert not marker.exists()


def test_the_exploits_are_real(tmp_path):
    raw = exploits(f"touch {tmp_path / 'marker'}")
    for case in ("reduce", "instance", "object", "stacked name", "eval"):
        pickle.loads(raw[case])
        (tmp_path / "marker").unlink()


def test_a_class_made_of_a_function_stays_a_name(tmp_path):
    (tmp_path / "w.pkl").write_bytes(program(name("os", "system") + several(text("x")) + b"\x81"))
    assert open_pickle(tmp_path / "w.pkl").metadata == {"class": "os.system", "0": "x"}


def test_what_instances_hold_is_kept(tmp_path):
    point, listed = Point(), collections.deque([1, 2])
    (tmp_path / "w.pkl").write_bytes(pickle.dumps([point, Pair(3, point), listed, Own(a=5)], 4))
    made = {"class": f"{__name__}.Point", "x": 3}
    assert open_pickle(tmp_path / "w.pkl", strict=False).metadata["value"] == [
        made,
        {"class": f"{__name__}.Pair", "0": 3, "1": made},
        {"class": "collections.deque", "0": 1, "1": 2},
        {"class": f"{__name__}.Own", "a": 5},
    ]


BAD = {
    "nothing": (b"", "its end at byte 0"),
    "an unknown opcode": (b"\x80\x02\xff", "unknown opcode"),
    "no end": (b"\x80\x02N", "its end at byte 3"),
    "a newer protocol": (b"\x80\x06N.", "protocol 6"),
    "an empty stack": (b".", "STOP at byte 0 does not fit"),
    "no mark": (b"Nt.", "TUPLE at byte 1 does not fit"),
    "a key that was never kept": (b"h\x05.", "BINGET"),
    "appending to a number": (b"K\x01K\x02a.", "APPEND"),
    "appending to a tuple": (b")Na.", "APPEND"),
    "a state on a list": (b"]}b.", "BUILD"),
    "an odd dict": (b"}(Nu.", "SETITEMS"),
    "calling a number": (b"K\x01)R.", "REDUCE"),
    "calling with a list": (name("builtins", "set") + b"]R.", "REDUCE"),
    "calling a call": (program(call("collections", "OrderedDict") + b")R"), "REDUCE"),
    "a name that is no text": (b"NN\x93.", "STACK_GLOBAL"),
    "an extension code": (b"\x82\x01.", "uses EXT1"),
    "a buffer of elsewhere": (b"\x97.", "uses NEXT_BUFFER"),
    "a persistent id": (b"K\x01Q.", "persistent id"),
    "text longer than the file": (b"X\xff\xff\xff\xffab", "remain"),
    "bytes longer than the file": (b"B\xff\xff\xff\xffab", "claims 4,294,967,295 bytes, 2 are"),
    "bytes of 2^63": (b"\x8e" + b"\xff" * 8, "claims 18,446"),
    "a length that is cut off": (b"\x8e\xff", "its end|claims"),
    "a huge integer": (b"\x8b" + struct.pack("<i", 2000) + bytes(1999) + b"\1.", "1,000 bytes"),
    "digits without end": (b"L" + b"9" * 50_000 + b"L\n.", ""),
    "a memo key without end": (b"Np" + b"9" * 100 + b"\n.", "PUT"),
    "a negative memo key": (b"Np-1\n.", "PUT|negative"),
    "a name without end": (b"c" + b"m" * 2000 + b"\nf\n.", "a name of more than 1,000"),
    "a negative length": (b"T\xff\xff\xff\xff", ""),
    "text that is not UTF-8": (b"X\1\0\0\0\xff.", ""),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "message"), BAD.values(), ids=BAD)
def test_a_malformed_pickle_is_refused(tmp_path, raw, message):
    (tmp_path / "w.pkl").write_bytes(raw)
    with pytest.raises(ValueError, match=rf"(?s)w.pkl cannot .*{message}" if raw else "w.pkl"):
        open_pickle(tmp_path / "w.pkl")


def doubled(levels):
    """Each level holds the one below twice."""
    made = b"]q\x00"
    for _ in range(levels):
        made += b"0](h\x00h\x00eq\x00"
    return made


SHAPES = {
    "a list in itself": (b"]q\x00h\x00a", "holds itself"),
    "a dict in itself": (b"}q\x00" + text("a") + b"h\x00s", "'a' is a container that holds itself"),
    "a loop through a tuple": (b"]q\x00h\x00\x85a", "holds itself"),
    "a loop through a state": (name("m", "C") + b")\x81q\x00}" + text("s") + b"h\x00sb", "itself"),
    "nested lists": (b"]" * 20_000 + b"a" * 19_999, "nests deeper"),
    "nested tuples": (b")" + b"\x85" * 50_000, "nests deeper"),
    "nested calls": (
        b")" + b"q\x000cbuiltins\nset\nh\x00\x85R\x85" * 2_000, "nests deeper"
    ),
    "a key of a key": (b"}" + b")" + b"\x85" * 20_000 + b"Ns", "a key that is no text or number"),
    "a long name": (b"}q\x00" + text("k" * 5_000) + b"]s", "longer names"),
    "one key twice": (b"}" + text("a") + b"Ns" + text("a") + b"Ns", "the key 'a' twice"),
    "marks without end": (b"(" * 10_000, "does not fit"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "message"), SHAPES.values(), ids=SHAPES)
def test_what_would_not_end_is_refused(tmp_path, value, message):
    (tmp_path / "w.pkl").write_bytes(program(value))
    with pytest.raises(ValueError, match=message):
        open_pickle(tmp_path / "w.pkl")


def test_what_is_shared_is_counted_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(flattening, "_MAX_WORK", 2**16)
    (tmp_path / "w.pkl").write_bytes(program(doubled(5)))
    assert open_pickle(tmp_path / "w.pkl").metadata == {}
    (tmp_path / "w.pkl").write_bytes(program(doubled(40)))
    with pytest.raises(ValueError, match="holds more values"):
        open_pickle(tmp_path / "w.pkl")


def test_opcodes_are_counted(monkeypatch):
    monkeypatch.setattr(pickles, "_MAX_OPCODES", 100)
    assert read_pickle(io.BytesIO(b"N0" * 49 + b"N."), calls=()) is None
    with pytest.raises(ValueError, match="more than 100 opcodes"):
        read_pickle(io.BytesIO(b"N0" * 50 + b"N."), calls=())


def test_a_memo_key_of_2_to_the_31_costs_nothing():
    raw = whole(3) + b"r\xff\xff\xff\x7f0j\xff\xff\xff\x7f."
    assert read_pickle(io.BytesIO(raw), calls=()) == 3


def test_a_name_with_an_escape_that_is_none_warns_nobody():
    file = io.BytesIO(b"\x80\x02c\\|x\nname\n.")  # `\|` is one, and warnings are errors here
    assert str(read_pickle(file, calls=())) == "\\|x.name"


def test_no_opcode_begins_behind_the_end():
    raw = pickle.dumps([1, 2], 2)
    file = io.BytesIO(raw[:-1] + b"N.")
    with pytest.raises(ValueError, match="malformed: its end at byte"):
        read_pickle(file, calls=(), end=len(raw) - 1)
