"""Images of jobs: reading one gives an equal job, whatever is on it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from flashq.errors import BadMessage
from flashq.protocol.records import Options
from flashq.shard.lifecycle import ACTIVE, JSON_ONLY, WAITING, Delivery, Extra, Job
from flashq.shard.pages import ExtraImage, decode_page, encode_page, extra_of, image_of

EXTRA = Extra(
    progress=5,
    progress_msg="m",
    last_heartbeat=9,
    stall_count=1,
    lost=2,
    last_token=2**53 - 1,
    error="e",
    result=b"\xc0",
    logs=[(1, "message", "info")],
    history=[(1, "failed", None, 0), (2, "lost", "text", 7)],
    watchers=[3, 4],
    asked={5},
    open={6, 7},
    children=[8, 0],
    children_completed=1,
    rejected=("text", "code"),
    doomed="why",
)
OPTIONS = Options(ttl=1, unique_key="k", tags=("a",), depends_on=(1, 2), parent=9, json=True)


def job(**changes: Any) -> Job:
    """Return a job with these fields."""
    plain = Job(7, "q", b"\x01", -1, 10, 20, WAITING, 3, None, 30, 0, None, None)
    return replace(plain, **changes)


def test_a_plain_job() -> None:
    """Every field of a job without options and extra."""
    (image,) = decode_page(encode_page([image_of(job())]))
    assert (image.id, image.queue, image.data, image.priority) == (7, "q", b"\x01", -1)
    assert (image.created_at, image.run_at, image.started_at, image.attempts) == (10, 20, 30, 3)
    assert (image.token, image.session, image.extra, image.options) == (0, b"", None, None)


def test_everything_that_can_be_on_a_job() -> None:
    """Options, lease and each field of the extra."""
    held = Delivery(5, b"s" * 16, [], 1, ())
    full = job(extra=EXTRA, options=OPTIONS, lease=held, state=ACTIVE)
    (image,) = decode_page(encode_page([image_of(full)]))
    assert image.options == OPTIONS
    assert (image.token, image.session, image.state) == (5, b"s" * 16, ACTIVE)
    assert image.extra is not None
    assert extra_of(image.extra) == EXTRA


def test_the_image_has_every_field_of_the_extra() -> None:
    """A field that is added to one and not to the other would be lost in a checkpoint."""
    assert Extra.__struct_fields__ == ExtraImage.__struct_fields__


def test_many_jobs_and_none() -> None:
    """A page without jobs is empty, so that storage drops it."""
    images = [image_of(job()) for _ in range(3)]
    assert len(decode_page(encode_page(images))) == 3
    assert encode_page([]) == b""


def test_plain_jobs_stand_in_columns_beside_the_images_of_others() -> None:
    """What differs from job to job is kept, and what does not."""
    held = Delivery(5, b"s" * 16, [], 1, ())
    plain = [
        job(),
        job(id=39, queue="r", state=ACTIVE, lease=held, started_at=40, attempts=2),
        job(id=71, options=JSON_ONLY, data=b"{}", priority=4, ended_at=50),
    ]
    special = job(id=103, extra=EXTRA, options=OPTIONS)
    together = decode_page(encode_page([image_of(special)], plain))
    alone = [decode_page(encode_page([image_of(one)]))[0] for one in (*plain, special)]
    assert together == alone


def test_columns_out_of_line_are_damage() -> None:
    """A page is read whole or not at all."""
    columns, images = msgspec.msgpack.decode(encode_page([], [job(), job(id=39)]))
    columns[2].append(b"one too many")
    with pytest.raises(BadMessage, match="page"):
        decode_page(msgspec.msgpack.encode((columns, images)))


@pytest.mark.parametrize("content", [b"", b"\x91", b"\x91\x01", b"\xc1", b"\x90\x00", b"text"])
def test_damage_is_noticed(content: bytes) -> None:
    """A torn page is refused, not read in part."""
    with pytest.raises(BadMessage, match="page"):
        decode_page(content)
