"""Every command of the registry has a verb, or a reason to have none."""

from __future__ import annotations

from typing import Final

import pytest

from flashq.protocol.registry import COMMANDS
from tests.unit.cli.conftest import Run
from tests.unit.cli.replies import teach
from tests.unit.client.fake_server import FakeServer

#: A command line for each command that has a verb.
LINES: Final[dict[str, tuple[str, ...]]] = {
    "PUSH": ("push", "mail", '{"to": "ada"}'),
    "PUSHB": ("push", "mail", "-"),
    "GETCHILDREN": ("job", "children", "3"),
    "PULLB": ("pull", "full"),
    "ACK": ("ack", "4"),
    "ACKB": ("pull", "full", "--ack"),
    "FAIL": ("fail", "4", "--error", "no route"),
    "RELEASE": ("release", "4"),
    "GETLOGS": ("job", "logs", "7"),
    "GETJOB": ("job", "show", "7"),
    "GETSTATE": ("fail", "4"),
    "GETRESULT": ("job", "show", "8"),
    "WAITJOB": ("wait", "7"),
    "GETJOBBYCUSTOMID": ("job", "find", "letter-7"),
    "GETJOBSBATCH": ("job", "list", "7", "8"),
    "GETJOBS": ("job", "list"),
    "GETJOBCOUNTS": ("queue", "counts", "mail"),
    "COUNT": ("queue", "counts", "mail"),
    "CANCEL": ("job", "cancel", "7"),
    "CHANGEPRIORITY": ("job", "priority", "7", "5"),
    "PROMOTE": ("job", "promote", "7"),
    "UPDATEJOB": ("job", "update", "7", "1"),
    "DISCARD": ("job", "discard", "7"),
    "PAUSE": ("queue", "pause", "mail"),
    "RESUME": ("queue", "resume", "mail"),
    "ISPAUSED": ("queue", "counts", "mail"),
    "RATELIMIT": ("queue", "rate-limit", "mail", "100"),
    "RATELIMITCLEAR": ("queue", "rate-limit", "mail", "off"),
    "SETCONCURRENCY": ("queue", "concurrency", "mail", "0"),
    "CLEARCONCURRENCY": ("queue", "concurrency", "mail", "off"),
    "QUEUECONFIG": ("queue", "config", "mail", "--keep-completed-age", "1m"),
    "DRAIN": ("queue", "drain", "mail", "--yes"),
    "OBLITERATE": ("queue", "obliterate", "mail", "--yes"),
    "CLEAN": ("queue", "clean", "mail", "--state", "failed", "--grace", "1h", "--yes"),
    "LISTQUEUES": ("queue", "list"),
    "DLQ": ("dlq", "list", "mail"),
    "RETRYDLQ": ("dlq", "retry", "mail"),
    "PURGEDLQ": ("dlq", "purge", "mail", "--yes"),
    "CRON": ("cron", "add", "nightly", "mail", "1", "--schedule", "0 3 * * *"),
    "CRONDELETE": ("cron", "delete", "nightly", "--yes"),
    "CRONLIST": ("cron", "list"),
    "WEBHOOK": ("webhook", "add", "https://example.com/", "completed", "failed"),
    "WEBHOOKDELETE": ("webhook", "delete", "wh_1", "--yes"),
    "WEBHOOKLIST": ("webhook", "list"),
    "WEBHOOKDEAD": ("webhook", "dead", "wh_1"),
    "WEBHOOKRETRY": ("webhook", "retry"),
    "STATS": ("stats",),
    "METRICS": ("metrics",),
    "LISTWORKERS": ("workers",),
    "METRICSHISTORY": ("metrics", "--history"),
    "HELLO": ("stats",),
    "GOODBYE": ("stats",),
    "AUTH": ("stats", "--token", "secret"),
}

#: Why a command has no verb, or none that a short test can wait for.
WITHOUT_LINE: Final[dict[str, str]] = {
    "FLOW": "a tree of jobs is written in a program, not on one line",
    "PULL": "pull asks with PULLB, which is the same for one job",
    "WITHDRAW": "said by gateways, whose clients go away while they wait",
    "HEARTBEAT": "for a program that works on the job; pull leaves the stall timeout to it",
    "PROGRESS": "said by who works on the job; job show shows it",
    "GETPROGRESS": "job show has it",
    "MOVETODELAYED": "said by who works on the job; for people there are release and fail",
    "LOG": "said by who works on the job; job logs shows it",
    "WEBHOOKPULL": "said by who delivers to webhooks, which gateways do",
    "WEBHOOKDONE": "said by who delivers to webhooks, which gateways do",
    "SESSIONHEARTBEAT": "said by the client, for as long as a verb runs",
    "SUBSCRIBE": "flashq events, whose test is in test_server.py",
    "UNSUBSCRIBE": "flashq events, at its end; its test is in test_server.py",
}


def test_every_command_is_decided_about() -> None:
    """A new command either gets a verb, or somebody writes down why not."""
    words = [command.word for command in COMMANDS]
    assert sorted([*LINES, *WITHOUT_LINE]) == sorted(words)


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize("word", LINES)
def test_a_verb_sends_its_command(
    ask: Run, fake: FakeServer, word: str, form: tuple[str, ...]
) -> None:
    """And takes the reply in, in both forms of output."""
    teach(fake, without=("GETJOB",))
    fake.answer("GETJOB", _completed_job)
    ask("push", "full", '"first, with the id 4"')
    if word in ("ACK", "FAIL", "GETSTATE", "RELEASE"):
        assert ask("pull", "full").status == 0
        (held,) = fake.active
        line = tuple(str(held) if part == "4" else part for part in LINES[word])
    else:
        line = LINES[word]
    outcome = ask(*form, *line, stdin=b'{"to": "ada"}\n')
    assert outcome.status == 0, outcome.err
    assert outcome.err == ""
    assert fake.seen(word)
    if form:
        assert outcome.documents is not None


def _completed_job(body: dict[str, object]) -> dict[str, object]:
    job = {"id": body["id"], "queue": "mail", "data": None}
    return {"ok": True, "job": job, "state": "completed"}
