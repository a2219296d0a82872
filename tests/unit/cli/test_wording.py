"""How times, sizes and values read."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from flashq.cli import wording
from flashq.client.results import Job
from flashq.protocol.codec import encode_msgpack
from flashq.protocol.queues import RetriedReply


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0 ms"), (999, "999 ms"), (1500, "1.5 s"), (59_990, "60 s"), (61_000, "1 min 1 s"),
     (3_600_000, "1 h"), (90_061_000, "1 d 1 h")],
)  # fmt: skip
def test_durations(ms: int, text: str) -> None:
    """Two units say enough."""
    assert wording.duration(ms) == text


def test_distances() -> None:
    """Before, after, and never."""
    assert wording.distance(1000, 4000) == "3 s ago"
    assert wording.distance(4000, 1000) == "in 3 s"
    assert wording.distance(0, 1000) == "–"
    assert wording.moment(0, 1000) == "–"
    assert wording.moment(1000, 4000).startswith("3 s ago (19")


def test_sizes() -> None:
    """Bytes are whole, the rest has one digit."""
    assert [wording.size(count) for count in (0, 1023, 1536, 5 * 1024**3, 3 * 1024**5)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "5.0 GiB",
        "3072.0 TiB",
    ]


def test_json_of_what_json_cannot_hold() -> None:
    """MessagePack holds bytes and times, and payloads of other clients have them."""
    at = datetime(2026, 11, 2, 13, 4, 5, tzinfo=UTC)
    assert wording.json_text({"b": b"\0\1", "t": at}) == '{"b":"AAE=","t":"2026-11-02T13:04:05Z"}'


@pytest.mark.parametrize("looked_at", [False, True])
def test_json_of_a_job(looked_at: bool) -> None:
    """The payload is in it whether or not somebody has decoded it before."""
    body = encode_msgpack({"id": 7, "queue": "mail", "data": {"to": "ada"}})
    job = msgspec.msgpack.decode(body, type=Job)
    if looked_at:
        assert job.data == {"to": "ada"}
    assert wording.json_text(job) == '{"id":7,"queue":"mail","data":{"to":"ada"}}'


def test_json_of_a_reply_is_without_ok() -> None:
    """The exit status says it."""
    assert wording.json_text(RetriedReply(ids=[3])) == '{"ids":[3]}'


def test_long_texts_are_shortened() -> None:
    """A table's row is one line."""
    assert wording.shortened("12345", 5) == "12345"
    assert wording.shortened("123456", 5) == "1234…"
