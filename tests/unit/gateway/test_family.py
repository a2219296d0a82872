"""GETCHILDREN over several shards: one answer, in the order of the children."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flashq.errors import Busy
from flashq.gateway.asking import Ask, read_ask
from flashq.gateway.family import Family
from flashq.gateway.pending import Done


class Site:
    """One GETCHILDREN, and what it has asked and answered."""

    def __init__(self) -> None:
        self.more: list[tuple[dict[str, Any], Done]] = []
        self.replies: list[tuple[dict[str, Any], bool]] = []
        self.is_busy = False
        ask = read_ask(b'{"cmd":"GETCHILDREN","parent_id":4}', json=True)
        self.family = Family(ask, self._done, self._more)

    def _done(self, body: bytes, ok: bool) -> None:
        self.replies.append((json.loads(body), ok))

    def _more(self, ask: Ask, done: Done) -> None:
        if self.is_busy:
            raise Busy(detail="x")
        self.more.append((json.loads(ask.body), done))

    def parent(self, *here: int, every: tuple[int, ...]) -> None:
        """Let the parent's shard answer."""
        body = {"ok": True, "parent_id": 4, "children": [{"id": child} for child in here]}
        body |= {"children_ids": list(every), "completed": 1, "total": len(every)}
        self.family.parent_known(json.dumps(body).encode(), True)


@pytest.fixture
def site() -> Site:
    """Return one GETCHILDREN."""
    return Site()


def test_children_of_other_shards_are_fetched(site: Site) -> None:
    """Without the state that a list puts beside each job."""
    site.parent(8, every=(5, 8, 6, 7))
    ((asked, done),) = site.more
    assert asked == {"cmd": "GETJOBSBATCH", "ids": [5, 6, 7]}
    jobs = [{"id": child, "state": "waiting", "job": {"id": child}} for child in (6, 5)]
    done(json.dumps({"ok": True, "jobs": jobs}).encode(), True)
    ((reply, ok),) = site.replies
    assert ok
    assert list(reply) == ["ok", "parent_id", "children", "children_ids", "completed", "total"]
    assert reply["children"] == [{"id": 5}, {"id": 8}, {"id": 6}]
    assert (reply["children_ids"], reply["total"]) == ([5, 8, 6, 7], 4)


def test_nothing_is_fetched_when_all_are_there(site: Site) -> None:
    """Nor when there is no such parent."""
    site.parent(8, every=(8,))
    site.family.parent_known(b'{"ok":false,"error":"Parent job 4 not found","code":"x"}', False)
    assert not site.more
    assert [ok for _, ok in site.replies] == [True, False]


def test_what_is_known_is_given_when_the_rest_cannot_be_had(site: Site) -> None:
    """A shard away, or the gateway busy: the ids are all there anyway."""
    site.parent(8, every=(8, 5))
    site.more[0][1](b'{"ok":false,"error":"shard 1 does not answer","code":"x"}', False)
    site.is_busy = True
    site.parent(8, every=(8, 5))
    assert [reply["children"] for reply, _ in site.replies] == [[{"id": 8}]] * 2
    assert [ok for _, ok in site.replies] == [True, True]
