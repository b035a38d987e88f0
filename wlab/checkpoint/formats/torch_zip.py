"""The parts of a zip file that are stored as they are, so that each can be read where it lies."""

import struct
import zipfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

_LOCAL = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the extra field


class Member(NamedTuple):
    """Where a member's bytes are in the file."""

    offset: int
    size: int


def stored_members(path: Path) -> dict[str, Member]:
    """The members of the zip file by name, none of them compressed.

    Raises:
        ValueError: If the file is no zip file or damaged, or if a member is compressed or
            encrypted, has a name that leaves the archive, comes twice, or overlaps another.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, OverflowError, struct.error) as error:
        raise ValueError(f"it is no zip file or is damaged: {error}") from None
    members: dict[str, Member] = {}
    with path.open("rb") as file:
        at = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            member = _member(file, info)
            if info.header_offset < at or member.offset + member.size > end:
                raise ValueError(f"member {info.filename!r} overlaps another or passes the end")
            if info.filename in members:
                raise ValueError(f"member {info.filename!r} comes twice")
            members[info.filename] = member
            at = member.offset + member.size
    return members


def _member(file: BinaryIO, info: zipfile.ZipInfo) -> Member:
    name = info.filename
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise ValueError(f"member {name!r} has a name that leaves the archive")
    stored = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
    if not stored or info.flag_bits & 1:
        raise ValueError(
            f"member {name!r} is compressed or encrypted, which torch.save never does (a "
            "TorchScript program is: save its state_dict())"
        )
    file.seek(max(0, info.header_offset))
    header = file.read(_LOCAL.size)
    if info.header_offset < 0 or len(header) != _LOCAL.size or not header.startswith(b"PK\3\4"):
        raise ValueError(f"member {name!r} is not where the directory says")
    _, name_length, extra_length = _LOCAL.unpack(header)
    local = file.read(name_length).decode("utf-8", "replace")
    if local != info.orig_filename:
        raise ValueError(f"member {name!r} is called {local[:80]!r} where it lies")
    return Member(info.header_offset + _LOCAL.size + name_length + extra_length, info.file_size)
