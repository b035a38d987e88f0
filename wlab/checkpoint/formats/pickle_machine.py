"""The machine that a pickle is a program for, with descriptions in place of objects and calls.

One method or entry of the table an opcode; the meanings are those of the standard library's
`pickletools`. A program that does not fit its own stack shows as IndexError, KeyError or TypeError.
"""

import io
import mmap
import pickletools
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

from wlab.checkpoint.formats.inert import Global, Object, Piece

Readable: TypeAlias = io.BytesIO | mmap.mmap

_INLINE = 64  # bytes; longer ones stay in the file
_MAX_INT = 1_000  # bytes
_MAX_NAME = 1_000  # characters
_MAX_KEY = 2**32  # as the binary opcodes have; without end, Python ints can all share one hash
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class Machine:
    """A stack, the stacks below its marks, and the values kept for later reference."""

    def __init__(
        self,
        file: Readable,
        calls: Collection[str] | None,
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        self.file, self.calls, self.persistent = file, calls, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: pickletools.OpcodeInfo) -> None:
        name = opcode.name
        if name in _BYTES:
            return self.push(self.bytes(_BYTES[name]))
        file: Any = self.file  # the readers use only what a mapped file has too
        try:
            argument = opcode.arg.reader(file) if opcode.arg else None
        except ValueError as error:
            raise ValueError(f"the pickle is malformed: {name}: {error}") from None
        if isinstance(argument, int) and argument.bit_length() > 8 * _MAX_INT:
            raise ValueError(f"the pickle has an integer of more than {_MAX_INT:,} bytes")
        if name in _PUSHED:
            return self.push(argument)
        if name not in _OPCODES:
            raise ValueError(f"the pickle uses {name}, which files of arrays have no need of")
        return _OPCODES[name](self, argument)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def bytes(self, width: int) -> bytes | Piece:
        length = int.from_bytes(self.file.read(width), "little")
        begin = self.file.tell()
        self.file.seek(0, io.SEEK_END)
        end = self.file.tell()
        if length > end - begin:
            raise ValueError(f"the pickle claims {length:,} bytes, {end - begin:,} are left")
        self.file.seek(begin)
        if length <= _INLINE:
            return self.file.read(length)
        self.file.seek(begin + length)
        return Piece(begin, begin + length)

    def keep(self, key: int) -> None:
        if not 0 <= key < _MAX_KEY:
            raise KeyError
        self.memo[key] = self.stack[-1]

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def drop(self) -> None:
        if self.stack:
            self.pop()
        else:
            self.marked()

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        else:
            target = _object(target)
            target.items = target.items or []
            target.items.extend(values)

    def assign(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise TypeError
        target = _object(self.stack[-1])
        target.pairs = target.pairs or []
        target.pairs.extend(zip(values[::2], values[1::2], strict=True))

    def build(self) -> None:
        state = self.pop()
        _object(self.stack[-1]).state = state

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        if len(module) + len(name) > _MAX_NAME:
            raise ValueError(f"the pickle has a name of more than {_MAX_NAME:,} characters")
        module = _RENAMED.get(module, module)
        if module.startswith("numpy.core."):
            module = "numpy._core." + module.removeprefix("numpy.core.")
        self.push(Global(module, name))

    def call(self, function: Any, args: Any) -> None:
        name = str(_global(function))
        if name in ("copyreg._reconstructor", "copyreg.__newobj__"):
            return self.new(args[0], (args,))
        if self.calls is not None and name not in self.calls:
            raise ValueError(
                f"the pickle calls {name}, which was not done: only what rebuilds arrays and "
                "containers is known. With strict=False such a call is read as an inert value"
            )
        return self.new(function, args)

    def new(self, of: Any, args: Any) -> None:
        if not isinstance(args, tuple):
            raise TypeError
        self.push(Object(_global(of), args))

    def refer(self, identity: Any) -> None:
        if self.persistent is None:
            raise ValueError("the pickle refers to values that are not in it (a persistent id)")
        self.push(self.persistent(identity))


def _object(value: Any) -> Object:
    if not isinstance(value, Object):
        raise TypeError
    return value


def _global(value: Any) -> Global:
    if not isinstance(value, Global):
        raise TypeError
    return value


def _protocol(machine: Machine, version: int) -> None:
    if version > 5:
        raise ValueError(f"the pickle has protocol {version}; 5 is the newest known")


def _ignored(machine: Machine, value: Any) -> None:
    """For opcodes that leave nothing behind."""


def _made(name: str) -> Object:
    return Object(Global("builtins", name))


def _with_pairs(machine: Machine) -> None:
    values = machine.marked()
    machine.push(_made("dict"))
    machine.assign(values)


def _tuple(machine: Machine, count: int) -> None:
    items = [machine.pop() for _ in range(count)]
    machine.push(tuple(reversed(items)))


def _instance(machine: Machine, values: list[Any]) -> None:
    machine.call(values[0], tuple(values[1:]))


def _named_instance(machine: Machine, name: str) -> None:
    args = machine.marked()
    machine.name(*name.split(" ", 1))
    machine.call(machine.pop(), tuple(args))


def _reduce(machine: Machine, make: Callable[[Any, Any], None]) -> None:
    args, of = machine.pop(), machine.pop()
    make(of, args)


def _new_with_names(machine: Machine) -> None:
    named, args, of = machine.pop(), machine.pop(), machine.pop()
    machine.new(of, (args, named))


def _stacked_name(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


_BYTES = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}  # width of length
_PUSHED = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
    ]
)
_OPCODES: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": _protocol,
    "FRAME": _ignored,
    "STOP": _ignored,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push(_made("dict")),
    "EMPTY_SET": lambda m, _: m.push(_made("set")),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.drop(),
    "POP_MARK": lambda m, _: _ignored(m, m.marked()),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "TUPLE": lambda m, _: m.push(tuple(m.marked())),
    "TUPLE1": lambda m, _: _tuple(m, 1),
    "TUPLE2": lambda m, _: _tuple(m, 2),
    "TUPLE3": lambda m, _: _tuple(m, 3),
    "LIST": lambda m, _: m.push(m.marked()),
    "DICT": lambda m, _: _with_pairs(m),
    "FROZENSET": lambda m, _: m.push(Object(Global("builtins", "frozenset"), items=m.marked())),
    "APPEND": lambda m, _: m.extend([m.pop()]),
    "APPENDS": lambda m, _: m.extend(m.marked()),
    "ADDITEMS": lambda m, _: m.extend(m.marked()),
    "SETITEM": lambda m, _: m.assign([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.assign(m.marked()),
    "PUT": lambda m, key: m.keep(key),
    "BINPUT": lambda m, key: m.keep(key),
    "LONG_BINPUT": lambda m, key: m.keep(key),
    "MEMOIZE": lambda m, _: m.keep(len(m.memo)),
    "GET": lambda m, key: m.push(m.memo[key]),
    "BINGET": lambda m, key: m.push(m.memo[key]),
    "LONG_BINGET": lambda m, key: m.push(m.memo[key]),
    "GLOBAL": lambda m, name: m.name(*name.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: _stacked_name(m),
    "INST": _named_instance,
    "OBJ": lambda m, _: _instance(m, m.marked()),
    "REDUCE": lambda m, _: _reduce(m, m.call),
    "NEWOBJ": lambda m, _: _reduce(m, m.new),
    "NEWOBJ_EX": lambda m, _: _new_with_names(m),
    "BUILD": lambda m, _: m.build(),
    "PERSID": lambda m, identity: m.refer(identity),
    "BINPERSID": lambda m, _: m.refer(m.pop()),
}
