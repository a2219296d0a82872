"""Which queues' events are wanted, whatever comes and goes."""

from __future__ import annotations

from flashq.protocol.framing import ALL_QUEUES, pack_wish
from flashq.shard.audience import Audience


def audience_of(*queues: str) -> Audience:
    """An audience with a wish for each."""
    audience = Audience()
    for number, queue in enumerate(queues):
        audience.add(pack_wish(number, queue))
    return audience


def test_only_the_queues_that_are_wished_for_are_wanted() -> None:
    """Not those whose names begin alike."""
    audience = audience_of("mail")
    assert audience
    assert "mail" in audience
    assert "mails" not in audience
    assert "mai" not in audience


def test_a_wish_for_all_is_one_for_each() -> None:
    """Until it is gone."""
    audience = audience_of("mail", ALL_QUEUES)
    assert "other" in audience
    audience.remove(pack_wish(1, ALL_QUEUES))
    assert "other" not in audience
    assert "mail" in audience


def test_a_wish_stands_until_it_was_let_go_as_often_as_it_was_made() -> None:
    """The link breaks: it is made again before the shard learns that the old one is gone."""
    audience, wish = audience_of("mail"), pack_wish(0, "mail")
    audience.add(wish)
    audience.remove(wish)
    assert "mail" in audience
    audience.remove(wish)
    assert not audience
    audience.remove(wish)
    assert not audience


def test_a_second_wish_for_a_queue_outlives_the_first() -> None:
    """They have numbers."""
    audience = audience_of("mail", "mail")
    audience.remove(pack_wish(0, "mail"))
    assert "mail" in audience
    audience.remove(pack_wish(1, "mail"))
    assert not audience
