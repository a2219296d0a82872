"""Subscriptions on their way to the router."""

from __future__ import annotations

import pytest

from flashq.errors import (
    RequestTimeout,
)
from flashq.gateway.pending import ANSWER_MS
from tests.unit.gateway.router import Site


@pytest.fixture
def site() -> Site:
    """Return an upstream that has been greeted."""
    return Site()


def test_subscriptions_are_passed_on(site: Site) -> None:
    """And ended."""
    site.subscribe("a")
    site.subscribe("a")
    assert site.one().fields == {"cmd": "SUBSCRIBE", "queue": "a", "events": ["*"]}
    event = {"seq": 1, "shard": 0, "epoch": 1, "event": "pushed", "queue": "a", "at": 1}
    site.notice(notice="event", event=event | {"ids": [1]})
    site.notice(notice="gap", shard=0, first_missed=2, next=4)
    site.notice(notice="closing")
    assert len(site.notices) == 2
    site.upstream.unsubscribe("a")
    assert site.one().cmd == "UNSUBSCRIBE"


def test_a_subscription_before_the_hello() -> None:
    """It is asked for once the router is there."""
    site = Site(greet=False)
    site.subscribe("a")
    site.greet(site.one())
    assert site.one().cmd == "SUBSCRIBE"
    assert site.interruptions == 0


def test_a_listener_is_ready_when_the_router_says_so(site: Site) -> None:
    """Whoever comes later is so at once."""
    site.subscribe("a")
    site.subscribe("a")
    wish = site.one()
    assert site.ready == []
    site.answer(wish)
    site.subscribe("a")
    assert site.ready == [None] * 3


def test_a_router_that_was_not_greeted_yet_is_greeted_first(site: Site) -> None:
    """1. the router is another one; 2. SUBSCRIBE is refused, as it needs a hello before it;
    3. hello, and SUBSCRIBE again. Whoever waits notices nothing."""
    site.subscribe("a")
    site.refuse(site.one(), "invalid")
    hello = site.one()
    site.greet(hello, boot=2)
    site.answer(site.one())
    assert site.ready == [None]


def test_a_silent_router_is_told_of_and_asked_again(site: Site) -> None:
    """Whoever waits gets an error; who listens already has his events later."""
    site.subscribe("a")
    site.sent()
    site.now += ANSWER_MS
    site.upstream.tick(site.now)
    (error,) = site.ready
    assert isinstance(error, RequestTimeout)
    assert [pair.cmd for pair in site.sent()] == ["SESSIONHEARTBEAT", "SUBSCRIBE"]


def test_a_wish_that_is_withdrawn_is_not_sent(site: Site) -> None:
    """Or it would stand behind its withdrawal."""
    site.subscribe("a")
    site.upstream.unsubscribe("a")
    assert site.one().cmd == "UNSUBSCRIBE"
    assert site.ready == []


def test_the_answer_to_an_older_wish_makes_nobody_ready(site: Site) -> None:
    """The router has ended that subscription in between."""
    site.subscribe("a")
    first = site.one()
    site.upstream.unsubscribe("a")
    site.subscribe("a")
    _, second = site.sent()
    site.answer(first)
    assert site.ready == []
    site.answer(second)
    assert site.ready == [None]
