"""How the coordinator's own parts are stored: one value under each name, in a form with a version.

Owns the first byte of each content, which is the version, and what is said of a part that cannot be
read. What the parts are is the business of those that keep them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

from msgspec import msgpack

from flashq.errors import ConfigError, StorageDamaged
from flashq.storage.census import CENSUS_PART
from flashq.storage.form import FORM_PART
from flashq.storage.port import Put

T = TypeVar("T")


class Form(Generic[T]):
    """One kind of part.

    Args:
        prefix: what its names begin with.
        kind: the type of its values.
        version: of the form; another one cannot be read.
    """

    def __init__(self, prefix: str, kind: type[T], version: int = 1) -> None:
        self.prefix: Final = prefix
        self.kind: Final = kind
        self._version: Final = version
        self._decode: Final = msgpack.Decoder(kind).decode

    def put(self, rest: object, value: T) -> Put:
        """Return what stores a value.

        Args:
            rest: of the name, behind the prefix.
        """
        return Put(f"{self.prefix}{rest}", bytes((self._version,)) + msgpack.encode(value))

    def drop(self, rest: object) -> Put:
        """Return what removes a value."""
        return Put(f"{self.prefix}{rest}", b"")

    def stored(self, parts: Mapping[str, bytes]) -> Iterator[tuple[str, T]]:
        """Yield the rest of the name and the value of each part of this kind.

        Raises:
            ConfigError: one has another version.
            StorageDamaged: one cannot be read.
        """
        for name, content in parts.items():
            if name.startswith(self.prefix):
                yield name.removeprefix(self.prefix), self._read(name, content)

    def _read(self, name: str, content: bytes) -> T:
        if content[:1] != bytes((self._version,)):
            raise ConfigError(
                f"the coordinator's part {name} in storage has form {content[0]}, and this flashq "
                f"knows form {self._version}; start the version of flashq that wrote it"
            )
        try:
            return self._decode(memoryview(content)[1:])
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise StorageDamaged(detail=f"coordinator's part {name}: {error}") from None


def check_known(parts: Iterable[str], forms: Iterable[Form[Any]]) -> None:
    """Refuse parts that nobody here knows: to ignore them would lose what they say.

    Raises:
        ConfigError: there is one.
    """
    prefixes = tuple(form.prefix for form in forms)
    for name in parts:
        if name not in (FORM_PART, CENSUS_PART) and not name.startswith(prefixes):
            raise ConfigError(
                f"storage has a part {name} of the coordinator that this flashq does not know; "
                "start the version of flashq that wrote it"
            )
