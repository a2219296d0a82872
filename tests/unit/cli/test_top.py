"""`flashq top`: rates, the screen, and its once-only form."""

from __future__ import annotations

import os
import pty
import termios
import threading

import msgspec
import pytest
from rich.console import Console

from flashq.cli import top
from flashq.protocol.codec import encode_msgpack
from flashq.protocol.objects import Metrics, QueueInfo
from flashq.protocol.server import StatsReply
from tests.unit.cli.conftest import Run
from tests.unit.cli.replies import QUEUE, REPLIES, teach
from tests.unit.client.fake_server import FakeServer


def snapshot(at: float, pushed: int, queues: int = 1) -> top.Snapshot:
    """Return what a server says that has had so many pushes."""
    metrics = {**REPLIES["METRICS"]["metrics"], "total_pushed": pushed}
    found = [{**QUEUE, "name": f"mail-{number}", "pending": number} for number in range(queues)]
    return top.Snapshot(
        at,
        msgspec.convert({"ok": True, **REPLIES["STATS"]}, StatsReply),
        msgspec.msgpack.decode(encode_msgpack(metrics), type=Metrics),
        msgspec.convert(found, list[QueueInfo]),
        queues,
    )


def test_rates_are_of_the_time_between() -> None:
    """Not of the interval that was wanted; and a server that was started anew has none below 0."""
    assert top.rates(None, snapshot(1.0, 10)) is None
    assert top.rates(snapshot(1.0, 10), snapshot(3.0, 30)) == (10.0, 0.0, 0.0)
    assert top.rates(snapshot(1.0, 10), snapshot(2.0, 0)) == (0.0, 0.0, 0.0)


def test_the_busiest_queues_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A screen is short; what has the most to do comes first, and the rest is counted."""
    now = snapshot(2.0, 30, queues=5)
    Console(width=100).print(top.picture(snapshot(1.0, 10), now, "tcp://here:1", 2))
    shown = capsys.readouterr().out
    assert "flashq at tcp://here:1: 4 shards" in shown
    assert "20 pushed/s" in shown
    assert shown.index("mail-4") < shown.index("mail-3")
    assert "mail-2" not in shown
    assert "and 3 queues more" in shown


def test_without_a_terminal_it_prints_once(ask: Run, fake: FakeServer) -> None:
    """`flashq top | head` and a cron's mail are not a place for a live table."""
    teach(fake)
    outcome = ask("top")
    assert outcome.status == 0
    assert "mail" in outcome.out
    assert len(fake.seen("LISTQUEUES")) == 1
    assert ask("top", "--json").document["queues"][0]["name"] == "mail"


def test_q_ends_it_and_the_terminal_is_given_back() -> None:
    """Keys arrive at once while it runs; other keys do nothing."""
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        with (
            open(slave, "rb", buffering=0, closefd=False) as keyboard,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr("sys.stdin", keyboard)
            with top._keyboard() as fd:
                assert termios.tcgetattr(slave) != before
                typing = threading.Thread(target=os.write, args=(master, b"xq"))
                typing.start()
                assert top._quit_pressed(fd)
                typing.join()
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)
