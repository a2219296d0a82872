"""The entry: the table of verbs, exit statuses, and how little is imported."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import click
import pytest

from flashq.cli.main import VERBS
from flashq.config import setting_specs
from flashq.version import __version__
from tests.unit.cli.conftest import Run
from tests.unit.client.fake_server import FakeServer, error

HEAVY = ("asyncio", "flashq.client.sync_client", "flashq.protocol.codec", "rich", "zmq")


def test_version(run: Run) -> None:
    """The one line that a bug report needs."""
    outcome = run("--version")
    assert outcome == (0, f"flashq {__version__}\n", "")


def test_overview_names_every_verb(run: Run) -> None:
    """A verb that the overview does not show is not found by anybody."""
    outcome = run("--help")
    assert outcome.status == 0
    assert all(name in outcome.out for name in VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_in_the_table_exists(name: str) -> None:
    """Verbs are imported when they are asked for, so a wrong name would show only then."""
    module, _ = VERBS[name]
    verb = getattr(import_module(module), name)
    assert isinstance(verb, click.Command)
    assert verb.name == name
    assert verb.help


def test_unknown_verb_is_a_usage_error(run: Run) -> None:
    """2 tells a script that it is itself to blame."""
    outcome = run("frobnicate")
    assert outcome.status == 2
    assert "frobnicate" in outcome.err
    assert outcome.out == ""


def test_without_a_server_one_sentence_says_what_to_do(run: Run) -> None:
    """No traceback, no time-out: a server that is down is the commonest thing to go wrong."""
    outcome = run("--url", "ipc:///nowhere/router.sock", "stats")
    assert outcome.status == 1
    assert outcome.out == ""
    assert outcome.err == (
        "flashq: no server at ipc:///nowhere/router.sock (no such file or directory); "
        "start one with `flashq serve`, or name another with --url or FLASHQ_URL\n"
    )


def test_an_error_of_the_server_is_one_sentence(ask: Run, fake: FakeServer) -> None:
    """Also when the server's text has several lines."""
    fake.answer("PAUSE", lambda _: error("not_allowed", "Not allowed:\n  a reader's token"))
    assert ask("queue", "pause", "mail", "--create") == (
        1,
        "",
        "flashq: Not allowed: a reader's token\n",
    )


def test_a_wrong_url_is_refused(run: Run) -> None:
    """An endpoint that ZeroMQ would take, but that no flashq server has."""
    outcome = run("--url", "inproc://here", "stats")
    assert outcome.status == 1
    assert "tcp://host:port or ipc:///path" in outcome.err


def imported_by(*words: str) -> set[str]:
    """Return the modules that one run leaves behind, of those that cost."""
    code = (
        "import sys, threading\n"
        "from flashq.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert threading.active_count() == 1\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules], sep='\\n', end='')"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    ).stdout
    return set(printed.splitlines()) & set(HEAVY)


def test_version_and_overview_import_nothing_heavy() -> None:
    """`flashq --version` in a shell's prompt or a health check costs next to nothing."""
    assert imported_by("--version") == set()
    assert imported_by("--help") == set()


def test_serve_imports_no_client() -> None:
    """The process that forks all others must not carry what it cannot share."""
    assert not imported_by("serve", "--help") & {"flashq.client.sync_client", "rich"}


def test_serve_shows_the_settings(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    """The flags are the supervisor's, so its help is the help."""
    with pytest.raises(SystemExit):
        run("serve", "--help")
    shown = capfd.readouterr().out
    assert [spec.flag for spec in setting_specs() if spec.flag not in shown] == []


def test_serve_hands_its_flags_on(run: Run) -> None:
    """Flags that the command line knows nothing of reach the supervisor, with its exit status."""
    outcome = run("serve", "--shards", "0")
    assert outcome.status == 1
    assert '--shards is "0"' in outcome.err


def test_serve_without_the_servers_packages(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install flashq` is a client; whoever then serves is told what is missing."""
    monkeypatch.delitem(sys.modules, "flashq.supervisor.process", raising=False)
    monkeypatch.setitem(sys.modules, "setproctitle", None)
    outcome = run("serve")
    assert outcome.status == 1
    assert "pip install 'flashq[server]'" in outcome.err
