"""The census: one part of the coordinator's that counts the others, and how often they changed.

Pure. Parts are few, and each change of them is a row more or less, or another content: a database
that has lost the last ones, or in which a bit has changed, looks whole. So every group that puts a
part also puts the census: the number of the change, which only rises, how many parts there are,
and a sum over them. What does not fit it is damage; a number that is lower than one that is known
(`marks.py`) says that changes are missing.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final
from zlib import crc32

from msgspec import Struct

from flashq.errors import StorageDamaged
from flashq.storage.port import Put, Write

CENSUS_PART: Final = "census"
"""The part's name."""

_FORM: Final = struct.Struct("<QIQ")
_SEAL: Final = struct.Struct("<I")


class Census(Struct, frozen=True):
    """What the census says.

    Args:
        number: of the last change; 0 before the first.
        count: how many parts there are beside it.
        total: the sum over their names and contents.
    """

    number: int = 0
    count: int = 0
    total: int = 0

    def put(self) -> Put:
        """Return what stores it."""
        body = _FORM.pack(self.number, self.count, self.total)
        return Put(CENSUS_PART, body + _SEAL.pack(crc32(body)))

    def after(self, parts: Mapping[str, bytes], writes: Sequence[Write], number: int) -> Census:
        """Return the census once these writes are carried out.

        Args:
            parts: as they are before.
            writes: some of which put parts.
            number: of the change.
        """
        put = {write.name: write.content for write in writes if isinstance(write, Put)}
        put.pop(CENSUS_PART, None)
        count, total = self.count, self.total
        for name, content in put.items():
            before = parts.get(name, b"")
            count += bool(content) - bool(before)
            total += _sum(name, content) - _sum(name, before)
        return Census(number, count, total)


def _sum(name: str, content: bytes) -> int:
    if not content:
        return 0
    return crc32(content, crc32(name.encode("utf-8", "surrogatepass")))


def taken(parts: Mapping[str, bytes], number: int) -> Census:
    """Return the census of parts as they are.

    Args:
        parts: the coordinator's.
        number: of the last change.
    """
    others = [(name, content) for name, content in parts.items() if name != CENSUS_PART]
    return Census(number, len(others), sum(_sum(name, content) for name, content in others))


def read_census(parts: Mapping[str, bytes]) -> Census:
    """Return the census that parts have, and see that they fit it.

    Raises:
        StorageDamaged: they do not, or it cannot be read.
    """
    content = parts.get(CENSUS_PART)
    if content is None:
        if not parts:
            return Census()
        raise StorageDamaged(detail="the part that counts the coordinator's other ones is missing")
    body, seal = content[: _FORM.size], content[_FORM.size :]
    if len(body) != _FORM.size or seal != _SEAL.pack(crc32(body)):
        raise StorageDamaged(detail="the part that counts the coordinator's other ones is broken")
    census = Census(*_FORM.unpack(body))
    found = taken(parts, census.number)
    if found != census:
        raise StorageDamaged(
            detail=f"the coordinator's parts are not as they were written: there are {found.count}"
            f" of {census.count}" + ("" if found.count != census.count else ", but not the same")
        )
    return census
