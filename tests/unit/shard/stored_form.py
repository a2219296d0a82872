"""A small log and a checkpoint with everything in them, and how what is stored is described.

`python -m tests.unit.shard.stored_form` writes them anew into `stored_form.json`, under the number
that `STORED_FORM` has by then; it refuses to change what a number stands for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from pprint import pformat
from typing import Any, Final

import msgspec.inspect as inspect
from msgspec import NODEFAULT

from flashq import ids
from flashq.protocol import internal as m
from flashq.protocol import records as r
from flashq.protocol.records import STORED_FORM, AnyRecord, Entry, encode_entries
from flashq.shard.checkpoint import Checkpoint, Part
from flashq.shard.evolve import evolve
from flashq.shard.invariants import canonical
from flashq.shard.pages import Columns, JobImage, encode_page, image_of
from flashq.shard.state import ShardState

FILE: Final = Path(__file__).with_name("stored_form.json")
SHARD: Final = 1
SHARD_COUNT: Final = 2
NOW_MS: Final = 1_800_000_000_000
ALICE: Final = b"alice-0123456789"
BOB: Final = b"bob-012345678901"

OPTIONS: Final = r.Options(
    ttl=600_000,
    timeout=5000,
    max_attempts=4,
    backoff=100,
    jitter=0.5,
    unique_key="unique",
    custom_id="custom",
    tags=("red", "blue"),
    on_dependency_failure="ignore",
    lifo=True,
    remove_on_fail=True,
    stall_timeout=9000,
    keep_completed_age=70_000,
    keep_completed_count=8,
    level="durable",
    json=True,
    parent_queue="flow",
)


def job_id(sequence: int) -> int:
    """Return the id that a sequence makes."""
    return ids.job_id(sequence, SHARD, SHARD_COUNT)


def _raised() -> bytes:
    """Return the page of a job that was of level memory, at sequence 12."""
    state = ShardState(SHARD, SHARD_COUNT)
    evolve(state, Entry(NOW_MS, [r.Pushed("mail", 12, [b"\xa2up"], [1], NOW_MS, None)]))
    job = state.index.get(job_id(12))
    assert job is not None
    return encode_page([image_of(job)])


def _before() -> list[list[AnyRecord]]:
    """Return the records of the entries that the checkpoint replaces."""
    plain, all_said, waits, doomed, parent = (job_id(each) for each in (1, 4, 5, 6, 7))
    return [
        [r.Begun(77)],
        [r.Pushed("mail", 1, [b"\x01", b"\x02", b"\x03"], [0], NOW_MS, None)],
        [r.Pushed("mail", 4, [b'{"a":1}'], [5], NOW_MS + 60_000, OPTIONS)],
        [
            r.Parked("mail", 5, b"\x05", 0, NOW_MS, r.Options(depends_on=(plain, 4)), []),
            r.DependencyKnown(waits, plain),
            r.WatchedBy(plain, waits),
            r.Sent(0, m.Watch(4, waits)),
            r.Awaited(waits, "push", [waits], [], [waits], ALICE, 3, 1),
        ],
        [
            r.Parked("mail", 6, b"\x06", 0, NOW_MS, r.Options(depends_on=(plain, 8)), []),
            r.Sent(0, m.Watch(8, doomed)),
            r.Awaited(doomed, "batch", [None, doomed], [(0, "no", "busy")], [doomed], BOB, 1),
        ],
        [
            r.Parked("flow", 7, b"\x07", 2, NOW_MS, None, ["mail", "far"]),
            r.Sent(0, m.CreateChild(parent, 0, "a", b"\x08", 1, 50, b"\x90")),
            r.Sent(0, m.CreateChild(parent, 1, "b", b"\x09", 1, 0, b"\x90")),
            r.Awaited(parent, "flow", [parent, None, None], [], [parent], b"", 0),
        ],
        [r.Delivered("mail", [plain, job_id(2)], 5 << 32 | 1, ALICE)],
        [
            r.ProgressSet(plain, 40, "half way"),
            r.Beaten(plain),
            r.Logged(plain, "info", "seen", 10),
        ],
        [r.QueueSet("mail", r.QueueSettings(True, 10, 3, "async", 1000, 7))],
        [r.DebounceStarted("mail", "twice", NOW_MS + 90_000)],
        [r.Received(0, 44, 6), r.ChildMade(parent, 0, 16)],
        [r.Received(0, 44, 7), r.DependencyKnown(doomed, 8, rejects=("none", "not_found"))],
        [r.PrioritySet(job_id(3), -7), r.DataSet(all_said, b"\xa3new", False)],
        [r.SessionEnded(b"carl-01234567890")],
    ]


def _after() -> list[list[AnyRecord]]:
    """Return the records of the log behind the checkpoint."""
    plain, second, third, all_said, waits, doomed, parent = map(job_id, range(1, 8))
    return [
        [r.Acked([plain], [b"\xa4done"]), r.Sent(SHARD, m.DependencyAnswer(1, waits, "completed"))],
        [r.MailTaken(SHARD, 1), r.Received(SHARD, 77, 1), r.DependencyKnown(waits, plain, True)],
        [r.Removed([doomed], "rejected")],
        [r.AwaitedDone(doomed)],
        [
            r.Received(0, 44, 8),
            r.DependencyKnown(waits, 4, True),
            r.Confirmed(waits),
            r.Freed(waits, "free"),
        ],
        [r.Received(0, 44, 9), r.ChildMade(parent, 1, 18), r.Confirmed(parent)],
        [r.Received(0, 44, 10), r.ChildDone(parent, 16, True)],
        [r.MailTaken(0, 2)],
        [r.Failed(second, "failed", "broke", NOW_MS + 5000, False, True)],
        [r.Promoted(all_said)],
        [r.Delivered("mail", [all_said], 5 << 32 | 2, BOB)],
        [r.Requeued([all_said], "moved", NOW_MS + 30_000)],
        [r.Adopted([third], 4 << 32 | 9, BOB)],
        [r.Failed(third, "stalled", None, 0, True, False)],
        [r.Retried([third])],
        [r.ResultsDropped([plain])],
        [r.Raised(_raised())],
        [r.Cancelled([third], "not needed")],
        [r.QueueSet("gone", r.QueueSettings(concurrency=1))],
        [r.QueueGone("gone")],
        [r.Sent(0, m.ChildCreated(4, 0, plain)), r.Sent(0, m.ChildEnded(4, plain, "no", True))],
        [r.Sent(m.COORDINATOR, m.Obliterated("gone"))],
        [r.Sent(m.COORDINATOR, m.Happened("failed", "mail", NOW_MS, [third], "no", [None, b"x"]))],
    ]


def _entries(some: list[list[AnyRecord]], began_ms: int) -> list[Entry]:
    """Return entries, 10 ms after one another; the last one has an answer."""
    entries = [Entry(began_ms + 10 * place, records) for place, records in enumerate(some)]
    entries[-1].answer = r.Answer(ALICE, 4, 2, b"\x81\xa2ok\xc3")
    entries[-2].answer = r.Answer(BOB, 7, 7, b"", 5 << 32 | 2)
    return entries


def fresh() -> ShardState:
    """Return the state from which the log begins."""
    return ShardState(SHARD, SHARD_COUNT)


def text_of(state: ShardState) -> list[str]:
    """Return a state as lines that can be compared and read."""
    return pformat(canonical(state), width=100, sort_dicts=False).splitlines()


def written() -> dict[str, Any]:
    """Return what this flashq stores: descriptions, bytes in hexadecimal, and the state."""
    state, before, after = fresh(), _entries(_before(), NOW_MS), _entries(_after(), NOW_MS + 1000)
    for entry in before:
        evolve(state, entry)
    checkpoint = Checkpoint(state, full=True)
    [(_, part)] = checkpoint.take_part()
    pages = checkpoint.next_pages(10**6, 10**9)
    for entry in after:
        evolve(state, entry)
    return {
        "form": STORED_FORM,
        "types": described([list[Entry], Part, Columns, JobImage]),
        "before": encode_entries(before).hex(),
        "part": part.hex(),
        "pages": {str(key): content.hex() for key, content in pages},
        "after": encode_entries(after).hex(),
        "state": text_of(state),
    }


def described(types: list[Any]) -> list[str]:
    """Return a line for each Struct that is encoded as a part of these types: its tag, how it is
    laid out, and its fields in order with their types and defaults."""
    found: dict[str, str] = {}
    for each in inspect.multi_type_info(types):
        describe(each, found)
    return [f"{name}: {line}" for name, line in sorted(found.items())]


def describe(kind: Any, found: dict[str, str]) -> str:
    """Return the name of a type; a Struct, and those in it, are added to what was found."""
    match kind:
        case inspect.StructType():
            name = str(kind.cls.__name__)
            if name not in found:
                found[name] = ""
                fields = ", ".join(_field(field, found) for field in kind.fields)
                config = kind.cls.__struct_config__
                layout = "array" if config.array_like else "map"
                less = " omitting defaults" if config.omit_defaults else ""
                found[name] = f"{layout}{less}, tag {kind.tag_field}={kind.tag!r}: {fields}"
            return name
        case inspect.NamedTupleType():
            return f"({', '.join(_field(field, found) for field in kind.fields)})"
        case inspect.UnionType():
            return " | ".join(sorted(describe(each, found) for each in kind.types))
        case inspect.DictType():
            return f"dict[{describe(kind.key_type, found)}, {describe(kind.value_type, found)}]"
        case inspect.TupleType():
            return f"tuple[{', '.join(describe(each, found) for each in kind.item_types)}]"
        case inspect.CollectionType():
            name = type(kind).__name__.removesuffix("Type").lower()
            return f"{name}[{describe(kind.item_type, found)}]"
        case _:
            return type(kind).__name__.removesuffix("Type").lower()


def _field(field: inspect.Field, found: dict[str, str]) -> str:
    default = "" if field.default is NODEFAULT else f" = {field.default!r}"
    return f"{field.encode_name} {describe(field.type, found)}{default}"


def committed() -> dict[str, Any]:
    """Return what was committed under the number that counts."""
    content: dict[str, Any] = json.loads(FILE.read_text())
    return content


def main() -> int:
    """Write the file anew, if the number was raised."""
    content = written()
    if FILE.exists():
        known = committed()
        if known == content:
            print(f"{FILE.name} is up to date")
            return 0
        if known["form"] >= STORED_FORM:
            print(f"raise STORED_FORM in flashq/protocol/records.py above {known['form']} first")
            return 1
    FILE.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{FILE.name} is of form {STORED_FORM}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
