"""Jobs as bytes, for checkpoints: a page is the images of the jobs of 1,024 sequences.

Owns the encoding and nothing else. An image is exact: reading it gives an equal job.
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw, Struct, msgpack

from flashq.errors import BadMessage
from flashq.protocol.records import Options
from flashq.shard.lifecycle import Extra, Job


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
    children_completed: int
    rejected: tuple[str, str] | None
    doomed: str | None


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
    extra: ExtraImage | None


_encode: Final = msgpack.Encoder().encode
_decode_page: Final = msgpack.Decoder(list[JobImage]).decode
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


def encode_page(images: list[bytes]) -> bytes:
    """Return a page's content: empty when it has no jobs."""
    return _encode([Raw(image) for image in images]) if images else b""


def decode_page(content: bytes) -> list[JobImage]:
    """Read a page's content.

    Raises:
        BadMessage: it is damaged.
    """
    try:
        return _decode_page(content)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise BadMessage(detail=f"page: {error}") from None


def extra_of(image: ExtraImage) -> Extra:
    """Return the `Extra` of an image."""
    return Extra(*(getattr(image, name) for name in _EXTRA_FIELDS))
