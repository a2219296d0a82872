"""Sessions, request numbers and leases of a gateway."""

from __future__ import annotations

import itertools
import json

import msgpack

from flashq.gateway.asking import read_ask
from flashq.gateway.lanes import Holder, Lane, Lanes
from flashq.protocol.codec import decode_request

SESSION = bytes(range(16))


def lanes() -> Lanes:
    """Return sessions with ids that can be told apart."""
    numbers = itertools.count()
    return Lanes(lambda: next(numbers).to_bytes(16, "big"))


def test_a_stamp_says_session_number_and_what_is_done() -> None:
    """In both encodings, as the shard reads it."""
    lane = Lane(SESSION, 3, None)
    first, second, third = lane.number(), lane.number(), lane.number()
    lane.end(first)
    for is_json in (False, True):
        fields = {"cmd": "PUSH", "queue": "q", "data": 1}
        body = json.dumps(fields).encode() if is_json else msgpack.packb(fields)
        request = decode_request(lane.stamp(body, third, json=is_json), json=is_json)
        assert (request.session, request.n, request.done_below) == (SESSION, third, second)
    lane.end(third)
    lane.end(second)
    body = lane.stamp(b'{"cmd":"PUSH","queue":"q","data":1}', 4, json=True)
    assert decode_request(body, json=True).done_below == 4


def test_a_renewed_session_goes_on_counting() -> None:
    """A number is never used twice, under whatever session."""
    lane = Lane(SESSION, 3, None)
    assert lane.number() == 1
    lane.renew(bytes(16))
    assert lane.number() == 2


def test_each_holder_has_a_session_of_its_own() -> None:
    """So that the end of one gives back nothing of another's."""
    book, one, other = lanes(), Holder(), Holder()
    sessions = {book.park(holder, route).session for holder in (one, other) for route in (0, 1)} | {
        book.own(0).session
    }
    assert len(sessions) == 3
    assert len({id(lane) for lane in one.lanes.values()}) == 2
    assert book.park(one, 0) is book.park(one, 0)
    assert book.own(0) is book.own(0)


def test_jobs_are_held_until_they_are_settled() -> None:
    """By whomever: a client may use another connection for it."""
    book, holder = lanes(), Holder()
    lane = book.park(holder, 1)
    book.take(lane, [(5, 50), (9, 90)])
    assert holder.leases == 2
    assert book.holds(5, 50)
    assert not book.holds(5, 51)
    book.settle([5, 77])
    assert lane.leases == {9: 90}
    lane.parked = 0
    book.settle([9])
    assert not lane.is_live
    assert book.live() == []


def test_a_job_handed_out_anew_belongs_to_the_later_one() -> None:
    """1. a job's lease ends unheard; 2. another connection is handed it; 3. the first one goes:
    the second still holds it."""
    book, one, other = lanes(), Holder(), Holder()
    first, second = book.park(one, 1), book.park(other, 1)
    book.take(first, [(5, 50)])
    book.take(second, [(5, 51)])
    assert book.leave(one) == [first]
    assert book.holds(5, 51)
    assert second.leases == {5: 51}


def test_a_holder_is_one_worker_to_all_shards() -> None:
    """Its sessions have one name, until a shard has forgotten it; when it goes, all of them end,
    also those that have nothing left."""
    book, holder = lanes(), Holder()
    first, second = book.park(holder, 1), book.park(holder, 2)
    assert first.session == second.session != book.park(Holder(), 1).session
    first.parked = second.parked = 0
    assert book.leave(holder) == [first, second]


def test_a_heartbeats_answer_takes_away_what_it_named() -> None:
    """Not what was handed out since, and not what is just being settled."""
    book, holder = lanes(), Holder()
    lane = book.park(holder, 1)
    book.take(lane, [(5, 50), (9, 91), (13, 130)])
    book.lose(lane, [5, 9, 13], {5: 50, 9: 90, 13: 130}, being_settled={13})
    assert lane.leases == {9: 91, 13: 130}
    assert not book.holds(5, 50)


def test_the_asker_is_named_as_holder_on_one_shard_or_several() -> None:
    """A batch over several shards names the leases of each."""
    book, holder = lanes(), Holder()
    assert not book.name_leases(read_ask(b'{"cmd":"ACK","id":5}', json=True), holder, 1)
    book.take(book.park(holder, 1), [(5, 50)])
    book.take(book.park(holder, 2), [(6, 60)])
    ask = read_ask(b'{"cmd":"ACKB","ids":[5,6,7]}', json=True)
    assert book.name_leases(ask, holder, 0xFFFF)
    assert decode_request(ask.body, json=True).tokens == [50, 60, None]
    stranger = read_ask(b'{"cmd":"ACKB","ids":[5,6]}', json=True)
    assert not book.name_leases(stranger, Holder(), 0xFFFF)
