"""What is stored stays readable as what it was, or gets another number.

`stored_form.json` has a log and a checkpoint with everything in them as bytes, and the state that
they give. Storage written by a flashq with the same `STORED_FORM` is read without a question, so
neither their encoding nor their meaning may change under that number.
"""

from __future__ import annotations

from typing import Final, get_args

import pytest

from flashq.protocol.internal import AnyPeerMessage, Fire
from flashq.protocol.records import (
    STORED_FORM,
    AnyRecord,
    Entry,
    Options,
    Sent,
    decode_entries,
)
from flashq.shard.evolve import evolve
from flashq.shard.invariants import validate
from tests.unit.shard import stored_form
from tests.unit.shard.harness import recovered
from tests.unit.shard.stored_form import OPTIONS, committed, fresh, text_of, written

HOW: Final = (
    "what shards store has changed: raise STORED_FORM in flashq/protocol/records.py, so that "
    "storage of before is refused, and run `python -m tests.unit.shard.stored_form`"
)


def _log(name: str) -> list[Entry]:
    return decode_entries(bytes.fromhex(committed()[name]))


def test_the_number_is_that_of_what_was_committed() -> None:
    """Who raises it commits what it stands for."""
    assert committed()["form"] == STORED_FORM, "run `python -m tests.unit.shard.stored_form`"


def test_what_is_stored_is_described_as_before() -> None:
    """A field that is new, gone, moved or of another type, also one that is left out at its
    default."""
    assert written()["types"] == committed()["types"], HOW


@pytest.mark.parametrize("name", ["before", "part", "pages", "after"])
def test_what_is_stored_is_encoded_as_before(name: str) -> None:
    """Byte by byte."""
    assert written()[name] == committed()[name], HOW


def test_a_log_means_what_it_meant() -> None:
    """Played from its beginning it gives the same state."""
    state = fresh()
    for entry in _log("before") + _log("after"):
        evolve(state, entry)
    validate(state)
    assert text_of(state) == committed()["state"], HOW


def test_a_checkpoint_means_what_it_meant() -> None:
    """With the log behind it it gives the same state."""
    content = committed()
    pages = {int(key): bytes.fromhex(page) for key, page in content["pages"].items()}
    state = recovered(fresh(), bytes.fromhex(content["part"]), pages, _log("after"))
    validate(state)
    assert text_of(state) == content["state"], HOW


def test_everything_is_in_the_log() -> None:
    """Each kind of record and of message, each option, each field of an answer. `Fire` comes from
    the coordinator, and is in no shard's log."""
    entries = _log("before") + _log("after")
    records = [record for entry in entries for record in entry.records]
    assert {type(record) for record in records} == set(get_args(AnyRecord))
    bodies = {type(record.body) for record in records if isinstance(record, Sent)}
    assert bodies == set(get_args(AnyPeerMessage)) - {Fire}
    default = Options()
    unsaid = {
        name
        for name in Options.__struct_fields__
        if getattr(OPTIONS, name) == getattr(default, name)
    }
    assert unsaid == {"depends_on", "remove_on_complete", "parent", "position"}


def test_the_file_is_not_written_anew_under_the_same_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That would let what was stored before be misread."""
    changed = {**written(), "types": []}
    monkeypatch.setattr(stored_form, "written", lambda: changed)
    assert stored_form.main() == 1
    assert "raise STORED_FORM" in capsys.readouterr().out
