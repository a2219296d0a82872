"""Log entries, cut up by the jobs that they are about: the part of each that is about one page.

Pure. What a record does to a job depends on that job, on other jobs of the record only for the
sums that a state keeps, and on time. So the jobs of a page are what the entries' excerpts make of
the page, whatever became of other pages; `paging` reads storage so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from msgspec.structs import replace

from flashq.errors import BadMessage
from flashq.ids import sequence_of_job
from flashq.protocol import records as r
from flashq.protocol.records import AnyRecord, Entry
from flashq.shard.lifecycle import Damage
from flashq.shard.pages import decode_page

OF_ONE_JOB: Final = {
    r.Confirmed: "id",
    r.DependencyKnown: "id",
    r.ChildMade: "parent",
    r.ChildDone: "parent",
    r.Freed: "id",
    r.WatchedBy: "id",
    r.Failed: "id",
    r.ProgressSet: "id",
    r.Beaten: "id",
    r.Logged: "id",
    r.PrioritySet: "id",
    r.Promoted: "id",
    r.DataSet: "id",
}
"""Records about one job, with the field that names it."""
OF_JOBS: Final = {
    r.Awaited: "pending",
    r.Delivered: "ids",
    r.Adopted: "ids",
    r.Requeued: "ids",
    r.Removed: "ids",
    r.ResultsDropped: "ids",
    r.Retried: "ids",
    r.Cancelled: "ids",
}
"""Records about several jobs, with the field that names them."""
OF_NO_JOB: Final = frozenset({
    r.AwaitedDone, r.QueueSet, r.QueueGone, r.DebounceStarted, r.SessionEnded, r.Sent,
    r.MailTaken, r.Received, r.Begun,
})  # fmt: skip
"""Records that leave every job as it is."""


def excerpts(entry: Entry, shard_count: int, span: int) -> dict[int, Entry]:
    """Return what of an entry is about which jobs, without its answer.

    Args:
        entry: one of the shard's log.
        shard_count: of how many shards it is one.
        span: how many sequences belong together: those from each multiple of it on.

    Returns:
        The excerpts, by the first of the sequences.

    Raises:
        Damage: the image of a job in it is damaged.
    """
    found: dict[int, Entry] = {}
    for record in entry.records:
        for first, part in _parts(record, shard_count, span):
            if first not in found:
                found[first] = Entry(entry.at, [], None, entry.due)
            found[first].records.append(part)
    return found


def _parts(record: AnyRecord, shard_count: int, span: int) -> Iterator[tuple[int, AnyRecord]]:
    kind = type(record)
    if kind in OF_NO_JOB:
        return
    if isinstance(record, r.Pushed):
        yield from _parts_of_push(record, span)
    elif isinstance(record, r.Parked):
        yield record.sequence // span * span, record
    elif isinstance(record, r.Acked):
        places = _places(record.ids, shard_count, span)
        for first, some in places.items():
            results = [record.results[place] for place in some] if record.results else []
            yield first, r.Acked([record.ids[place] for place in some], results)
    elif isinstance(record, r.Raised):
        yield sequence_of_job(_id_of(record), shard_count) // span * span, record
    elif kind in OF_JOBS:
        name = OF_JOBS[kind]
        ids: list[int] = getattr(record, name)
        places = _places(ids, shard_count, span)
        for first, some in places.items():
            whole = len(some) == len(ids)
            yield first, record if whole else _with(record, name, [ids[place] for place in some])
    else:
        known: int = getattr(record, OF_ONE_JOB[kind])
        yield sequence_of_job(known, shard_count) // span * span, record


def _parts_of_push(record: r.Pushed, span: int) -> Iterator[tuple[int, AnyRecord]]:
    count = len(record.data)
    start = 0
    while start < count:
        sequence = record.first + start
        first = sequence // span * span
        stop = min(count, start + first + span - sequence)
        priorities = record.priorities
        yield (
            first,
            replace(
                record,
                first=sequence,
                data=record.data[start:stop],
                priorities=priorities if len(priorities) == 1 else priorities[start:stop],
            ),
        )
        start = stop


def _places(ids: Iterable[int], shard_count: int, span: int) -> dict[int, list[int]]:
    """Return where in a list of ids those stand that belong together."""
    found: dict[int, list[int]] = {}
    for place, job_id in enumerate(ids):
        found.setdefault(sequence_of_job(job_id, shard_count) // span * span, []).append(place)
    return found


def _with(record: Any, name: str, ids: list[int]) -> AnyRecord:
    changed: AnyRecord = replace(record, **{name: ids})
    return changed


def _id_of(record: r.Raised) -> int:
    try:
        return decode_page(record.image)[0].id
    except (BadMessage, IndexError) as error:
        raise Damage(f"image of a job: {error}") from None
