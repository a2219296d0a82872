"""Jobs as bytes, for checkpoints: a page is the jobs of 1,024 sequences.

Owns the encoding and nothing else. An image is exact: reading it gives an equal job.
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw, Struct, msgpack

from flashq.errors import BadMessage
from flashq.protocol.columns import column_of, values_of
from flashq.protocol.limits import MIB
from flashq.protocol.records import Options
from flashq.shard.indexes import PAGE_SEQUENCES, Page
from flashq.shard.lifecycle import Extra, Job, is_special, is_volatile, special_of

BLOCK_SEQUENCES: Final = 16
PAGE_BYTES_MAX: Final = 2 * MIB
"""A page with more than so many bytes of payload is cut: each block of 16 sequences is written by
itself, and only when it has changed."""
MANY_OF_A_PAGE: Final = 100
"""So many jobs of a page take longer to keep aside than the whole page to encode."""


class ExtraImage(Struct, array_like=True):
    """`lifecycle.Extra`, in its order of fields."""

    progress: int
    progress_msg: str | None
    last_heartbeat: int
    stall_count: int
    lost: int
    last_token: int
    error: str | None
    result: bytes | None
    logs: list[tuple[int, str, str]] | None
    history: list[tuple[int, str, str | None, int]] | None
    watchers: list[int] | None
    asked: set[int] | None
    open: set[int] | None
    children: list[int] | None
    children_queues: list[str] | None
    children_completed: int
    rejected: tuple[str, str] | None
    doomed: str | None
    ttl_since: int
    result_dropped: bool
    cancel_reason: str | None


class JobImage(Struct, array_like=True):
    """`lifecycle.Job`, with its lease as token and session."""

    id: int
    queue: str
    data: bytes
    priority: int
    created_at: int
    run_at: int
    state: int
    attempts: int
    options: Options | None
    started_at: int
    ended_at: int
    token: int
    session: bytes
    extra: ExtraImage | None = None


class Columns(Struct, array_like=True):
    """Jobs without options and extra, as columns in line with `id`: encoded and read in a fraction
    of the time that their images take. A column of one stands for all."""

    id: list[int]
    queue: list[str]
    data: list[bytes]
    priority: list[int]
    created_at: list[int]
    run_at: list[int]
    state: list[int]
    attempts: list[int]
    options: list[Options | None]
    started_at: list[int]
    ended_at: list[int]
    token: list[int]
    session: list[bytes]


_encode: Final = msgpack.Encoder().encode
_decode_page: Final = msgpack.Decoder(tuple[Columns | None, list[JobImage]]).decode
_EXTRA_FIELDS: Final = Extra.__struct_fields__
assert ExtraImage.__struct_fields__ == _EXTRA_FIELDS


def image_of(job: Job) -> bytes:
    """Return the job as it is now."""
    lease, extra = job.lease, job.extra
    return _encode(
        JobImage(
            job.id,
            job.queue,
            job.data,
            job.priority,
            job.created_at,
            job.run_at,
            job.state,
            job.attempts,
            job.options,
            job.started_at,
            job.ended_at,
            0 if lease is None else lease.token,
            b"" if lease is None else lease.session,
            None
            if extra is None
            else ExtraImage(*(getattr(extra, name) for name in _EXTRA_FIELDS)),
        )
    )


def encode_page(images: list[bytes], plain: list[Job] | None = None) -> bytes:
    """Return a page's content: empty when it has no jobs.

    Args:
        images: of any jobs.
        plain: more jobs, which have no options (but for JSON_ONLY) and no extra.
    """
    if not images and not plain:
        return b""
    return _encode((_columns(plain) if plain else None, [Raw(image) for image in images]))


def _columns(jobs: list[Job]) -> Columns:
    leases = [job.lease for job in jobs]
    return Columns(
        [job.id for job in jobs],
        column_of([job.queue for job in jobs]),
        [job.data for job in jobs],
        column_of([job.priority for job in jobs]),
        column_of([job.created_at for job in jobs]),
        column_of([job.run_at for job in jobs]),
        column_of([job.state for job in jobs]),
        column_of([job.attempts for job in jobs]),
        column_of([job.options for job in jobs]),
        column_of([job.started_at for job in jobs]),
        column_of([job.ended_at for job in jobs]),
        column_of([0 if lease is None else lease.token for lease in leases]),
        column_of([b"" if lease is None else lease.session for lease in leases]),
    )


def size_of(page: Page) -> int:
    """Return the bytes that a page to be written takes, about: those of its payloads."""
    kept = (page.aside or {}).values()
    return sum([len(job.data) for job in page.jobs if job is not None]) + sum(
        [len(image) for image in kept if image is not None]
    )


def content_of(page: Page, first: int = 0, stop: int = PAGE_SEQUENCES) -> tuple[bytes, int]:
    """Return a page, or a part of it, as it was when the checkpoint under way began.

    Args:
        page: one that is to be written.
        first, stop: the places that count.

    Returns:
        The content, and the number of its jobs.
    """
    aside, places = page.aside, page.jobs[first:stop]
    assert aside is not None, "a page that is to be written keeps aside what changes"
    if aside:
        left = [job for place, job in enumerate(places, first) if place not in aside]
        jobs = [job for job in left if job is not None]
    else:
        jobs = [job for job in places if job is not None]
    images = [
        image for place, image in aside.items() if image is not None and first <= place < stop
    ]
    special = special_of(jobs)
    if special:
        jobs = [job for job in jobs if not is_special(job)]
        images += [image_of(job) for job in special if not is_volatile(job)]
    return encode_page(images, jobs), len(images) + len(jobs)


def decode_page(content: bytes) -> list[JobImage]:
    """Read a page's content.

    Raises:
        BadMessage: it is damaged.
    """
    try:
        columns, images = _decode_page(content)
        return images if columns is None else _images_of(columns) + images
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise BadMessage(detail=f"page: {error}") from None


def _images_of(columns: Columns) -> list[JobImage]:
    """Return the images of jobs that stand in columns.

    Raises:
        ValueError: the columns are not in line.
    """
    count = len(columns.id)
    fields = (getattr(columns, name) for name in Columns.__struct_fields__)
    whole = [values_of(field, count) for field in fields]
    return [JobImage(*values) for values in zip(*whole, strict=True)]


def extra_of(image: ExtraImage) -> Extra:
    """Return the `Extra` of an image."""
    return Extra(*(getattr(image, name) for name in _EXTRA_FIELDS))
