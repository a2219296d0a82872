"""What a worker that registers over HTTP says to a shard."""

from __future__ import annotations

import json

import pytest

from flashq.errors import FieldTooLarge
from flashq.gateway.workers import Registration, heartbeat_of
from flashq.protocol.codec import decode_request


def test_every_gateway_says_the_same_of_a_worker() -> None:
    """One session on one shard, so that two gateways keep one entry alive."""
    first = heartbeat_of("w-1", Registration(queues=["q"], concurrency=2, jobs_processed=5), 4)
    second = heartbeat_of("w-1", Registration(), 4)
    other = heartbeat_of("w-2", Registration(), 4)
    assert first.route(4) == second.route(4)
    sessions = [json.loads(ask.body)["session"] for ask in (first, second, other)]
    assert sessions[0] == sessions[1] != sessions[2]
    about = decode_request(first.body, json=True).about
    assert (about.id, about.queues, about.concurrency, about.jobs_processed) == ("w-1", ["q"], 2, 5)


def test_what_it_leaves_out_is_nothing() -> None:
    """Older workers write null."""
    ask = heartbeat_of("w", Registration(concurrency=None, jobs_processed=None), 1)
    about = decode_request(ask.body, json=True).about
    assert (about.queues, about.concurrency, about.jobs_processed) == ([], 0, 0)


def test_a_name_that_is_no_text_is_one_all_the_same() -> None:
    """Half of a surrogate pair has no bytes."""
    ask = heartbeat_of("w\ud800", Registration(), 1)
    assert decode_request(ask.body, json=True).about.id == "w?"


def test_what_it_may_say_is_bounded() -> None:
    """A long queue name is cut, as it is only shown."""
    with pytest.raises(FieldTooLarge):
        heartbeat_of("x" * 257, Registration(), 1)
    with pytest.raises(FieldTooLarge):
        heartbeat_of("x", Registration(queues=["q"] * 1001), 1)
    ask = heartbeat_of("x", Registration(queues=["q" * 300]), 1)
    assert decode_request(ask.body, json=True).about.queues == ["q" * 256]
