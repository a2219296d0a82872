"""Parts are stored in forms with versions; what cannot be read is refused, and named."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct

from flashq.coordinator.parts import Form, check_known
from flashq.errors import ConfigError, FlashQError, StorageDamaged
from flashq.storage.form import FORM_PART, form_part
from flashq.storage.memory import MemoryStorage
from flashq.storage.port import Put
from tests.unit.coordinator import stored_parts
from tests.unit.coordinator.bench import NOW_MS, SHARDS, Bench


class Thing(Struct, array_like=True):
    """What a part may be."""

    name: str
    count: int = 0


def test_a_part_is_read_as_it_was_stored() -> None:
    """Each kind finds its own among all."""
    things, numbers = Form("thing.", Thing), Form("number.", int)
    parts = {
        put.name: put.content
        for put in (things.put("a", Thing("a", 2)), things.put("b", Thing("b")), numbers.put(1, 7))
    }
    assert dict(things.stored(parts)) == {"a": Thing("a", 2), "b": Thing("b")}
    assert dict(numbers.stored(parts)) == {"1": 7}
    assert things.drop("a") == Put("thing.a", b"")


def test_a_part_of_another_version_is_refused_and_named() -> None:
    """An older flashq on a newer one's storage would guess, and write its guess down."""
    newer = Form("thing.", int, version=2).put("a", 1)
    with pytest.raises(ConfigError, match=r"thing\.a in storage has form 2.* knows form 1"):
        list(Form("thing.", int).stored({newer.name: newer.content}))


def test_a_part_that_cannot_be_read_is_damage_and_named() -> None:
    """Broken off, or of another shape."""
    for content in (b"\x01", b"\x01\xc1", b"\x01\xa1x"):
        with pytest.raises(StorageDamaged, match=r"thing\.a"):
            list(Form("thing.", Thing).stored({"thing.a": content}))


def test_a_part_that_nobody_knows_is_refused() -> None:
    """A newer flashq has it, and needs it."""
    forms: list[Form[Any]] = [Form("thing.", Thing), Form("incarnation", int)]
    check_known(["thing.a", "incarnation"], forms)
    with pytest.raises(ConfigError, match=r"tenant\.a"):
        check_known(["thing.a", "tenant.a"], forms)


@pytest.mark.parametrize(
    "part", [Put("cron.nightly", b"\x09x"), Put("cron.nightly", b"\x01\xc1"), Put("tenant.a", b"x")]
)
def test_a_coordinator_does_not_start_with_what_it_cannot_read(part: Put) -> None:
    """It says which part, instead of what a decoder thinks of it."""
    storage = MemoryStorage(NOW_MS, bytes(16))
    storage.open(SHARDS)
    storage.write([part])
    with pytest.raises(FlashQError, match=part.name):
        Bench(storage)


@pytest.mark.parametrize("said", [b"1", b"", b"\xff"])
def test_a_coordinator_does_not_start_with_logs_of_another_form(said: bytes) -> None:
    """Nothing is read, and nothing written: the flashq that wrote it can still be started."""
    storage = MemoryStorage(NOW_MS, bytes(16))
    Bench(storage).start_shard(1)
    storage.write([Put(FORM_PART, said)])
    before = storage.open(SHARDS)
    with pytest.raises(ConfigError, match=r"has logs .* form.* reads form"):
        Bench(storage)
    assert storage.open(SHARDS) == before


def test_an_empty_storage_is_told_its_form_before_anything_is_in_it() -> None:
    """So no log is ever without; and one storage keeps what it was told."""
    storage = MemoryStorage(NOW_MS, bytes(16))
    bench = Bench(storage)
    bench.start_shard(1)
    assert storage.open(SHARDS).parts[FORM_PART] == form_part().content
    Bench(storage).start_shard(1)


def test_parts_are_stored_as_before_or_have_another_version() -> None:
    """A field that is new, gone, moved or of another type is read as another one."""
    assert not stored_parts.changed_under_one_version(), "raise the version of these forms"
    assert stored_parts.committed() == stored_parts.written(), (
        "run `python -m tests.unit.coordinator.stored_parts`"
    )
