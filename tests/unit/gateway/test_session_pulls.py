"""One downstream connection: what strangers may do, and how pulls of older clients end."""

from __future__ import annotations

import pytest

from flashq.gateway.session import SHORT_PULL_MS, STRANGER_BYTES_MAX
from tests.unit.gateway.port import Talk


class TestStrangers:
    def test_a_client_without_a_token_has_few_bytes(self) -> None:
        """60 unfinished lines of 8 MB each once took half a gigabyte."""
        talk = Talk("secret")
        assert talk.conversation.is_stranger
        talk.conversation.receive(b'{"cmd":"PUSH","data":"' + b"x" * STRANGER_BYTES_MAX)
        assert talk.lines() == [{"ok": False, "error": "Message too large"}]
        assert talk.conversation.pending_bytes == 0

    def test_its_token_gives_it_the_others_bytes(self) -> None:
        """The bound is raised on the same connection."""
        talk = Talk("secret")
        talk.line(cmd="AUTH", token="secret")
        assert talk.lines() == [{"ok": True}]
        assert not talk.conversation.is_stranger
        talk.line(cmd="PUSH", queue="q", data="x" * STRANGER_BYTES_MAX)
        assert len(talk.port.asked) == 1

    def test_without_tokens_the_first_byte_makes_a_client_known(self) -> None:
        """There is nothing that it could show."""
        talk = Talk()
        assert talk.conversation.is_stranger
        talk.conversation.receive(b"{")
        assert not talk.conversation.is_stranger

    def test_a_client_is_idle_when_it_waits_for_nothing(self) -> None:
        """One that waits, or listens, says nothing for good reasons."""
        talk = Talk()
        assert talk.conversation.is_idle
        talk.line(cmd="PULL", queue="q", timeout=60_000)
        assert not talk.conversation.is_idle
        talk.port.asked[0].answer(job=None)
        assert talk.conversation.is_idle
        talk.line(cmd="SUBSCRIBE", queue="q", events=["*"])
        assert not talk.conversation.is_idle


class TestPulls:
    @pytest.mark.parametrize("word", ["PULL", "PULLB"])
    @pytest.mark.parametrize("given", [{}, {"timeout": None}])
    def test_one_without_a_time_waits_less_than_its_client(
        self, word: str, given: dict[str, None]
    ) -> None:
        """Three older clients give up after 5 s, and take a late reply for the next one."""
        talk = Talk()
        talk.line(cmd=word, queue="q", count=3, **given)
        assert talk.port.asked[0].fields["timeout"] == SHORT_PULL_MS
        assert talk.port.asked[0].ask.wait_ms == SHORT_PULL_MS

    def test_one_without_a_time_that_brings_nothing_is_an_error(self) -> None:
        """Three older clients take the job of a null reply for a job: Go's has the id 0 and no
        error. The connection goes on, and a late job is a job."""
        for is_json in (True, False):
            talk = Talk()
            for _ in range(2):
                (talk.line if is_json else talk.frame)(cmd="PULL", queue="q")
            talk.port.asked[0].answer(job=None)
            talk.port.asked[1].answer(job={"id": 4})
            empty, full = talk.lines() if is_json else talk.frames()
            assert empty == {
                "ok": False,
                "error": f"Timeout waiting for a job: none came within {SHORT_PULL_MS} ms",
            }
            assert full == {"ok": True, "job": {"id": 4}}

    def test_one_that_named_its_time_gets_null(self) -> None:
        """The TypeScript client always names one, and asks the next queue."""
        talk = Talk()
        talk.line(cmd="PULL", queue="q", timeout=SHORT_PULL_MS, reqId="a")
        talk.line(cmd="PULLB", queue="q", count=2, reqId="b")
        talk.port.asked[0].answer(job=None)
        talk.port.asked[1].answer(jobs=[], job=None)
        assert talk.lines() == [
            {"reqId": "a", "ok": True, "job": None},
            {"reqId": "b", "ok": True, "jobs": [], "job": None},
        ]

    def test_one_without_a_time_gets_an_error_at_a_drain_too(self) -> None:
        """A server that stops must not hand out a phantom."""
        talk = Talk()
        talk.line(cmd="PULL", queue="q")
        talk.conversation.give_up(is_lost=False)
        assert talk.lines() == [{"ok": False, "error": "Connection closed"}]

    def test_one_that_was_repaired_is_bounded_again(self) -> None:
        """A whole float for an integer, as PHP sends it, is asked a second time."""
        talk = Talk()
        talk.line(cmd="PULLB", queue="q", count=2.0)
        assert talk.port.asked[0].fields["timeout"] == SHORT_PULL_MS

    def test_a_time_that_was_given_stays(self) -> None:
        """Whoever says how long knows how long."""
        talk = Talk()
        talk.frame(cmd="PULL", queue="q", timeout=60000)
        assert talk.port.asked[0].fields == {"cmd": "PULL", "queue": "q", "timeout": 60000}

    def test_a_large_count_is_cut(self) -> None:
        """No client means more than it can take."""
        talk = Talk()
        talk.line(cmd="PULLB", queue="q", count=10**9, timeout=0)
        assert talk.port.asked[0].fields["count"] == 1000
