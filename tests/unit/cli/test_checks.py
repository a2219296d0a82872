"""What the doctor checks, one question at a time."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from flashq.cli import checks
from flashq.cli.checks import Process
from flashq.cli.findings import Finding
from flashq.config import load_settings
from flashq.lockfile import Lockfile
from flashq.protocol.histogram import Distribution
from flashq.protocol.limits import GIB, MIB
from flashq.protocol.server import CoordinatorStats, StatsReply
from flashq.protocol.sessions import HelloReply
from flashq.rundir import RunDir
from flashq.version import __version__
from tests.unit.cli.replies import REPLIES, SHARD, teach
from tests.unit.client.fake_server import FakeServer, error


class Usage(NamedTuple):
    """What `shutil.disk_usage` returns."""

    total: int
    used: int
    free: int


def verdicts(findings: list[Finding]) -> dict[str, str]:
    """Return the verdict of each check."""
    return {one.check: one.verdict for one in findings}


def test_versions_of_this_installation() -> None:
    """Here everything is installed, or the tests would not run."""
    assert set(verdicts(list(checks.check_versions())).values()) == {"ok"}


def test_an_old_libzmq_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both say what to install."""
    monkeypatch.setattr("zmq.zmq_version_info", lambda: (4, 1, 6))
    monkeypatch.setattr(checks, "_SERVER_PACKAGES", ("no-such-package-anywhere",))
    found = {one.check: one for one in checks.check_versions()}
    assert found["libzmq"].verdict == "wrong"
    assert found["server packages"].verdict == "warning"
    assert "pip install 'flashq[server]'" in found["server packages"].advice


def test_settings() -> None:
    """As a server would load them; the sentence is the server's."""
    settings, found = checks.check_settings({"FLASHQ_SHARDS": "8"}, None, "/tmp/fq")
    assert settings is not None
    assert settings.shards == 8
    assert settings.run_dir == "/tmp/fq"
    assert verdicts(found) == {"settings": "ok"}
    settings, found = checks.check_settings({"FLASHQ_SHARD": "8"}, None, None)
    assert settings is None
    assert found[0].verdict == "wrong"
    assert "did you mean FLASHQ_SHARDS?" in found[0].text


def test_a_secret_in_a_setting_is_not_told() -> None:
    """The URL of a database has a password in it."""
    _, found = checks.check_settings({"DATABASE_URL": "postgresql://me:hidden@host/db"}, None, None)
    assert not [one for one in found if "hidden" in one.text]


def test_older_settings_without_effect_are_named() -> None:
    """Whoever moves over from the older server learns what is not read any more."""
    _, found = checks.check_settings({"CLUSTER_MODE": "1"}, None, None)
    assert verdicts(found)["older settings"] == "warning"


@pytest.mark.parametrize(
    ("mode", "verdict"),
    [(0o700, "ok"), (0o755, "wrong"), (0o710, "wrong"), (0o770, "wrong"), (0o777, "wrong")],
)
def test_modes_of_the_run_directory(run_dir: Path, mode: int, verdict: str) -> None:
    """Whoever can write there can pose as the server."""
    run_dir.chmod(mode)
    found = {one.check: one for one in checks.check_run_dir(RunDir(str(run_dir)), 4)}
    run_dir.chmod(0o700)
    assert found["run directory"].verdict == verdict
    assert verdict == "ok" or found["run directory"].advice == f"chmod 700 {run_dir}"


def test_run_directories_that_cannot_be(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not there (a server makes it), no directory, somebody else's, too long."""
    found = verdicts(list(checks.check_run_dir(RunDir(f"{run_dir}/none"), 4)))
    assert found["run directory"] == "warning"
    (run_dir / "file").touch()
    found = verdicts(list(checks.check_run_dir(RunDir(f"{run_dir}/file"), 4)))
    assert found["run directory"] == "wrong"
    found = verdicts(list(checks.check_run_dir(RunDir(f"{run_dir}/{'x' * 100}"), 4)))
    assert found["socket paths"] == "wrong"
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000_000)
    found = verdicts(list(checks.check_run_dir(RunDir(str(run_dir)), 4)))
    assert found["run directory"] == "wrong"


@pytest.mark.parametrize(
    ("soft", "verdict"),
    [(300, "wrong"), (1024, "warning"), (65_536, "ok"), (resource.RLIM_INFINITY, "ok")],
)
def test_open_files(monkeypatch: pytest.MonkeyPatch, soft: int, verdict: str) -> None:
    """32 shards need some, and clients over TCP need many."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (soft, 65_536))
    assert checks.check_descriptors(32).verdict == verdict


@pytest.mark.parametrize(
    ("free", "verdict"), [(0, "wrong"), (500 * MIB, "warning"), (2 * GIB, "ok")]
)
def test_disk(monkeypatch: pytest.MonkeyPatch, run_dir: Path, free: int, verdict: str) -> None:
    """Of the place where the path will be, when it is not there yet."""
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(10 * GIB, 0, free)

    monkeypatch.setattr("shutil.disk_usage", usage)
    assert checks.check_disk("disk", run_dir / "not" / "there").verdict == verdict
    assert asked == [run_dir]


def test_disks_of_the_settings(run_dir: Path) -> None:
    """With memory: nothing is written to the data directory."""
    flags = {"run_dir": str(run_dir), "storage": "memory:"}
    settings = load_settings(flags, environ={})
    assert [one.check for one in checks.check_disks(settings, settings.run())] == [
        "disk, run directory"
    ]


def test_running_programs_are_those_that_hold_their_lock(run_dir: Path) -> None:
    """A file that a killed program left behind names nobody."""
    names = RunDir(str(run_dir))
    names.lock("router").write_text("1\n")
    lock = Lockfile.acquire(names.lock("shard-1"))
    try:
        (found,) = checks.running(names, 2)
    finally:
        lock.release()
    assert found.program == "shard-1"
    assert checks.running(names, 2) == []


# --- the server


def hello_of(fake: FakeServer) -> HelloReply:
    """Return the fake server's hello, as the doctor gets it."""
    hello, _ = checks.check_router(fake.url, None)
    assert hello is not None
    return hello


def test_a_router_that_answers(fake: FakeServer) -> None:
    """The version is compared, and the session of the question ended."""
    hello, found = checks.check_router(fake.url, None)
    assert hello is not None
    assert verdicts(found) == {"router": "ok", "versions": "warning"}
    assert f"this is flashq {__version__}" in found[1].text
    (goodbye,) = fake.wait_for("GOODBYE")
    assert goodbye["session"] == fake.seen("HELLO")[0]["session"]


def test_a_router_that_does_not(fake: FakeServer, run_dir: Path) -> None:
    """Not there, silent, or not to be spoken to without a token."""
    hello, found = checks.check_router(f"ipc://{run_dir}/other.sock", None)
    assert hello is None
    assert "flashq serve" in found[0].advice
    others = [Process("coordinator", 1), Process("shard-0", 2)]
    _, found = checks.check_router(f"ipc://{run_dir}/other.sock", None, others=others)
    assert found[0].text.endswith("but 2 programs of its server run")
    assert "its supervisor, or systemd, starts it again" in found[0].advice
    fake.answer("HELLO", lambda _: None)
    hello, found = checks.check_router(fake.url, None, timeout_ms=20)
    assert hello is None
    assert "no answer within 20 ms" in found[0].text
    fake.answer("HELLO", lambda _: error("authentication_required", "Authentication required"))
    hello, found = checks.check_router(fake.url, None)
    assert hello is None
    assert found[0].text.endswith("Authentication required")


def test_shards_through_the_router(fake: FakeServer) -> None:
    """All there, one not started, one that does not answer."""
    teach(fake)
    supervisor, storage, found = checks.check_shards(fake.url, None, hello_of(fake))
    assert (supervisor.verdict, storage.verdict, found.verdict) == ("ok", "ok", "ok")
    assert "4 shards answered" in found.text
    fake.epochs = [1, 0, 1, 1]
    stats = {**REPLIES["STATS"], "shards": [SHARD], "missing_shards": [1, 3]}
    fake.answer("STATS", lambda _: {"ok": True, **stats})
    _, _, *wrong = [one.text for one in checks.check_shards(fake.url, None, hello_of(fake))]
    assert wrong == [
        "shard 1 has not started",
        "shard 3 is ready, but does not answer in time",
    ]


def test_storage_that_is_away(fake: FakeServer) -> None:
    """The reason is told, and how much waits."""
    teach(fake)
    stats = {**REPLIES["STATS"], "storage": "storage unavailable: no space left"}
    fake.answer("STATS", lambda _: {"ok": True, **stats})
    _, found, _ = checks.check_shards(fake.url, None, hello_of(fake))
    assert (found.check, found.verdict) == ("storage", "wrong")
    assert found.text.startswith("changes wait, ")
    assert found.text.endswith("no space left")


@pytest.mark.parametrize(
    ("more", "verdict", "words"),
    [
        ({}, "ok", "2 commits, half of them within 5 ms and 99% within 20 ms; the log has 100 by"),
        ({"losses": 1}, "warning", "without something that it had 1 time"),
        ({"log_bytes": 800}, "warning", "800 bytes of at most 1000 bytes"),
        ({"ahead_bytes": 2**28}, "warning", "256.0 MiB are written ahead"),
        ({"trouble": "it was away", "trouble_at": 2**52}, "warning", "ago: it was away"),
        ({"trouble": "it was away", "trouble_at": 1000}, "ok", "2 commits"),
    ],
)
def test_how_storage_does(fake: FakeServer, more: Any, verdict: str, words: str) -> None:
    """How quick it is and how full the log is; that it lost something, and that it is nearly full,
    is worth a warning."""
    teach(fake)
    told = {
        "lag_ms": 0,
        "log_bytes": 100,
        "log_bytes_max": 1000,
        "committed_bytes": 5000,
        "losses": 0,
        "commit_seconds": {"bounds": [0.005, 0.02], "cumulative": [1, 2, 2], "sum": 0.02},
    }
    stats = {**REPLIES["STATS"], "coordinator": {**told, **more}}
    fake.answer("STATS", lambda _: {"ok": True, **stats})
    _, found, *_ = checks.check_shards(fake.url, None, hello_of(fake))
    assert (found.check, found.verdict) == ("storage", verdict)
    assert words in found.text


@pytest.mark.parametrize(
    ("off_ms", "jumps", "verdict", "text"),
    [
        (0, 0, "ok", "the wall clock goes as the monotonic one"),
        (7_200_000, 0, "warning", "the wall clock has jumped: 2 h ahead of what it was"),
        (-7_200_000, 3, "warning", "the wall clock has jumped: 2 h behind of what it was"),
        (0, 2, "warning", "the wall clock has jumped 2 times, and was believed"),
    ],
)
def test_a_wall_clock_that_jumps(off_ms: int, jumps: int, verdict: str, text: str) -> None:
    """Also one that is over: jobs have its dates."""
    told = CoordinatorStats(
        lag_ms=0, log_bytes=0, log_bytes_max=1, committed_bytes=0, losses=0,
        commit_seconds=Distribution(bounds=[], cumulative=[0], sum=0),
        clock_off_ms=off_ms, clock_jumps=jumps,
    )  # fmt: skip
    stats = msgspec.convert({"ok": True, **REPLIES["STATS"]}, StatsReply)
    stats.coordinator = told
    (found,) = checks.check_clock(stats)
    assert (found.check, found.verdict, found.text) == ("clock", verdict, text)


def test_stats_that_do_not_come(fake: FakeServer) -> None:
    """One finding, no exception."""
    fake.answer("STATS", lambda _: error("busy", "busy: too much"))
    (found,) = checks.check_shards(fake.url, None, hello_of(fake))
    assert (found.verdict, found.text) == ("wrong", "busy: too much")


def test_sockets_of_shards(fake: FakeServer, run_dir: Path) -> None:
    """Each shard is asked itself: one that is not there and one of another epoch are told."""
    names = RunDir(str(run_dir))
    hello = hello_of(fake)
    with FakeServer(names.shard(0)) as right, FakeServer(names.shard(1)) as newer:
        teach(right)
        stats = {**REPLIES["STATS"], "shards": [{**SHARD, "epoch": 2}]}
        newer.answer("STATS", lambda _: {"ok": True, **stats})
        found = list(checks.check_shard_sockets(names, hello))
    assert [one.verdict for one in found] == ["warning", "wrong", "wrong"]
    assert found[0].text == "shard 1 is in epoch 2, and the router believes in 1"
    assert "shard 2 cannot be reached" in found[1].text


def test_coordinator(fake: FakeServer) -> None:
    """Asked for its crons, since it has nothing else to say to people."""
    teach(fake)
    assert checks.check_coordinator(fake.url, None).text == "it answers, with 1 cron"
    fake.answer("CRONLIST", lambda _: None)
    assert checks.check_coordinator(fake.url, None, timeout_ms=20).verdict == "wrong"
