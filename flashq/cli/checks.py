"""What `flashq doctor` checks: one function for each question, each answer a finding.

A check never raises for what it looks at. It changes nothing, and of a value that may hold a
secret it tells only what a refused setting tells too.
"""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import zmq
from msgspec import Struct

from flashq.cli.asking import ask, obstacle
from flashq.cli.findings import Finding, ok
from flashq.cli.supervision import check_supervisor
from flashq.cli.wording import duration, plural, size
from flashq.clock import SystemClock
from flashq.config import MEMORY, Settings, load_settings, names_without_effect
from flashq.errors import AuthenticationRequired, FlashQError
from flashq.privacy import OTHERS
from flashq.protocol.base import Reply
from flashq.protocol.crons import CronsReply, ListCrons
from flashq.protocol.framing import ROUTE_COORDINATOR, ROUTE_ROUTER
from flashq.protocol.limits import GIB, MIB, STORAGE_AHEAD_BYTES
from flashq.protocol.server import Stats, StatsReply
from flashq.protocol.sessions import Goodbye, Hello, HelloReply, Unsubscribe
from flashq.rundir import RunDir
from flashq.version import __version__
from flashq.walltime import JUMP_LASTS_MS

ANSWER_TIMEOUT_MS: Final = 2000
LIBZMQ_MINIMUM: Final = (4, 3)
DESCRIPTORS_BASE: Final = 256
"""Descriptors that a program needs for itself; the router adds some for each shard."""
DESCRIPTORS_COMFORTABLE: Final = 4096
"""Below so many, the number of clients over TCP is what reaches its end first."""
DISK_WRONG_BYTES: Final = 100 * MIB
DISK_TIGHT_BYTES: Final = GIB
TROUBLE_MS: Final = 3_600_000
"""For so long what was wrong with storage is worth a warning after it is over."""
LOG_TIGHT: Final = 0.7
"""The share of its bound from which on the log is worth a warning."""
_PACKAGES: Final = ("pyzmq", "msgspec", "msgpack", "click", "rich")
_SERVER_PACKAGES: Final = ("croniter", "setproctitle", "structlog")


# --- this installation


def check_versions() -> Iterator[Finding]:
    """Python, libzmq and the packages that are needed."""
    yield ok("python", f"Python {platform.python_version()} on {platform.platform()}")
    libzmq = zmq.zmq_version()
    if zmq.zmq_version_info()[:2] < LIBZMQ_MINIMUM:
        yield Finding(
            "libzmq",
            "wrong",
            f"libzmq {libzmq} is too old",
            "install a newer pyzmq: pip install -U pyzmq",
        )
    else:
        yield ok("libzmq", f"libzmq {libzmq}")
    found, missing = _installed(_PACKAGES)
    yield ok("packages", f"flashq {__version__}, " + ", ".join(found))
    found, missing = _installed(_SERVER_PACKAGES)
    if missing:
        yield Finding(
            "server packages",
            "warning",
            f"{', '.join(missing)} missing, so this installation can be a client only",
            "to run a server here: pip install 'flashq[server]'",
        )
    else:
        yield ok("server packages", ", ".join(found))


def _installed(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    return found, missing


def check_settings(
    environ: Mapping[str, str], config_file: str | None, run_dir: str | None
) -> tuple[Settings | None, list[Finding]]:
    """Load the settings as a server would, and return them if they can be loaded."""
    flags = {} if run_dir is None else {"run_dir": run_dir}
    try:
        settings = load_settings(flags, environ=environ, config_file=config_file)
    except FlashQError as error:
        advice = "correct it; docs/SETTINGS.md has every name with its bounds"
        return None, [Finding("settings", "wrong", error.text, advice)]
    findings = [
        ok("settings", f"{settings.shards} shards, storage of kind {_storage_kind(settings)}")
    ]
    if ignored := names_without_effect(environ):
        findings.append(
            Finding(
                "older settings",
                "warning",
                f"{', '.join(ignored)} in the environment has no effect in this version",
                "remove it from the environment",
            )
        )
    return settings, findings


def _storage_kind(settings: Settings) -> str:
    return settings.storage.partition(":")[0]


def check_run_dir(run_dir: RunDir, shards: int) -> Iterator[Finding]:
    """The directory of sockets and locks: is it there, safe, and short enough?"""
    try:
        run_dir.check(shards)
    except FlashQError as error:
        yield Finding("socket paths", "wrong", error.text, "name a shorter one in FLASHQ_RUN_DIR")
    else:
        yield ok("socket paths", "every socket's path is short enough for the kernel")
    path = run_dir.path
    try:
        status = path.stat()
    except OSError as error:
        yield Finding(
            "run directory",
            "warning",
            f"{path} cannot be looked at ({(error.strerror or '').lower()})",
            "`flashq serve` makes it; if a server runs elsewhere, name its FLASHQ_RUN_DIR",
        )
        return
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode):
        yield Finding("run directory", "wrong", f"{path} is no directory", "remove it")
    elif status.st_uid != os.geteuid():
        yield Finding(
            "run directory",
            "wrong",
            f"{path} belongs to user {status.st_uid}, and you are user {os.geteuid()}",
            "run as the server's user, or name another one in FLASHQ_RUN_DIR",
        )
    elif mode & OTHERS:
        yield Finding(
            "run directory",
            "wrong",
            f"{path} has mode {mode:04o}: others can reach its sockets, which ask for no token",
            f"chmod 700 {path}",
        )
    else:
        yield ok("run directory", f"{path} has mode {mode:04o}")


# --- limits of the machine


def check_descriptors(shards: int) -> Finding:
    """Is the limit on open files enough?"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = DESCRIPTORS_BASE + 4 * shards
    advice = (
        f"raise it for the server: ulimit -n 65536 (LimitNOFILE= in systemd); hard limit {hard}"
    )
    if soft != resource.RLIM_INFINITY and soft < needed:
        text = f"only {soft} open files are allowed, and {shards} shards need {needed}"
        return Finding("open files", "wrong", text, advice)
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS_COMFORTABLE:
        text = f"{soft} open files are allowed; each client over TCP takes one"
        return Finding("open files", "warning", text, advice)
    return ok("open files", f"{soft} open files are allowed")


def check_disk(check: str, path: Path) -> Finding:
    """Is there room where this path is, or will be?"""
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding(check, "wrong", f"{place} cannot be read ({error.strerror})")
    text = f"{size(free)} free for {path}"
    if free < DISK_WRONG_BYTES:
        return Finding(check, "wrong", text, "make room, or choose another place")
    if free < DISK_TIGHT_BYTES:
        return Finding(check, "warning", text, "make room before it runs out")
    return ok(check, text)


def check_disks(settings: Settings, run_dir: RunDir) -> Iterator[Finding]:
    """Is there room for what the server writes?"""
    yield check_disk("disk, run directory", run_dir.path)
    if settings.storage != MEMORY:
        yield check_disk("disk, data directory", Path(settings.data_dir))


# --- the running server


class Process(Struct, frozen=True):
    """A program that holds its lock in the run directory."""

    program: str
    pid: int


def running(run_dir: RunDir, shards: int) -> list[Process]:
    """Return the programs that hold their locks in a run directory."""
    programs = ["router", "coordinator", *(f"shard-{index}" for index in range(shards))]
    found = []
    for program in programs:
        path = run_dir.lock(program)
        pid = _holder(path)
        if pid is not None:
            found.append(Process(program, pid))
    return found


def _holder(path: Path) -> int | None:
    """Return who holds a lock, without ever keeping anybody from taking it for long."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 32, 0).decode(errors="replace").strip()
        return int(text) if text.isdecimal() else None
    finally:
        os.close(fd)
    return None


def check_router(
    url: str,
    token: str | None,
    timeout_ms: int = ANSWER_TIMEOUT_MS,
    others: Sequence[Process] = (),
) -> tuple[HelloReply | None, list[Finding]]:
    """Does the router answer, and is it of this version?

    Args:
        url: its endpoint.
        token: what it is shown.
        timeout_ms: how long it may take.
        others: programs of its server that run.
    """
    reason = obstacle(url)
    if reason is not None:
        text = f"nothing can be reached at {url} ({reason})"
        advice = "start it with `flashq serve`, or name another with --url or FLASHQ_URL"
        if others:
            text += f", but {plural(len(others), 'program')} of its server run"
            advice = (
                "its supervisor, or systemd, starts it again by itself; if it stays away, the "
                "server's log says why"
            )
        return None, [Finding("router", "wrong", text, advice)]
    session = os.urandom(16)
    try:
        hello = ask(
            url,
            Hello(session=session, client=f"doctor/{os.getpid()}"),
            HelloReply,
            timeout_ms=timeout_ms,
            route=ROUTE_ROUTER,
            token=token,
        )
        ask(
            url,
            Goodbye(session=session),
            Reply,
            timeout_ms=timeout_ms,
            route=ROUTE_ROUTER,
            token=token,
        )
    except FlashQError as error:
        text = f"something listens at {url}, but: {error.text}"
        advice = "look at the server's log; if it is no flashq router, name the right --url"
        return None, [Finding("router", "wrong", text, advice)]
    return hello, [ok("router", f"it answers at {url}, boot {hello.boot}"), _same_version(hello)]


def _same_version(hello: HelloReply) -> Finding:
    if hello.version == __version__:
        return ok("versions", f"client and server are both flashq {__version__}")
    return Finding(
        "versions",
        "warning",
        f"the server is flashq {hello.version}, and this is flashq {__version__}",
        f"install the server's version here: pip install flashq=={hello.version}",
    )


def check_shards(
    url: str, token: str | None, hello: HelloReply, timeout_ms: int = ANSWER_TIMEOUT_MS
) -> Iterator[Finding]:
    """Is every shard ready, does it answer through the router, and what had to be restarted?"""
    down = [index for index, epoch in enumerate(hello.epochs) if not epoch]
    try:
        stats = ask(url, Stats(), StatsReply, timeout_ms=2 * timeout_ms, token=token)
    except FlashQError as error:
        yield Finding("shards", "wrong", error.text, "look at the server's log")
        return
    yield from check_supervisor(stats.supervisor, SystemClock().wall_ms())
    yield _check_storage(stats)
    yield from check_clock(stats)
    silent = sorted({*stats.missing_shards, *down})
    for index in silent:
        word = "has not started" if index in down else "is ready, but does not answer in time"
        yield Finding("shards", "wrong", f"shard {index} {word}", _SHARD_ADVICE)
    if not silent:
        epochs = sorted({shard.epoch for shard in stats.shards})
        yield ok(
            "shards",
            f"{plural(len(stats.shards), 'shard')} answered, "
            f"epochs {epochs[0]} to {epochs[-1]}, with {plural(_jobs(stats), 'job')}",
        )


def _check_storage(stats: StatsReply) -> Finding:
    """Does storage take what it gets, is it quick, and is there room in the log?"""
    unsafe_bytes = sum(shard.unsafe_bytes for shard in stats.shards)
    if stats.storage:
        text = f"changes wait, {size(unsafe_bytes)} of them: {stats.storage}"
        return Finding("storage", "wrong", text, _STORAGE_ADVICE)
    text = f"it is written to; {size(unsafe_bytes)} are under way"
    told = stats.coordinator
    if told is None:
        return ok("storage", text)
    commits = told.commit_seconds
    if commits.count:
        text += (
            f"; {plural(commits.count, 'commit')}, half of them within "
            f"{_milliseconds(commits.quantile(0.5))} and 99% within "
            f"{_milliseconds(commits.quantile(0.99))}"
        )
    text += f"; the log has {size(told.log_bytes)} of at most {size(told.log_bytes_max)}"
    if told.losses:
        text += f"; it came back without something that it had {plural(told.losses, 'time')}"
        return Finding("storage", "warning", text, _LOSSES_ADVICE)
    if told.ahead_bytes > STORAGE_AHEAD_BYTES:
        text += f"; {size(told.ahead_bytes)} are written ahead, and cannot go into the file"
        return Finding("storage", "warning", text, _AHEAD_ADVICE)
    ago_ms = SystemClock().wall_ms() - told.trouble_at
    if ago_ms < TROUBLE_MS:
        text += f"; {duration(max(0, ago_ms))} ago: {told.trouble}"
        return Finding("storage", "warning", text, _TROUBLE_ADVICE)
    if told.log_bytes > LOG_TIGHT * told.log_bytes_max:
        return Finding("storage", "warning", text, _LOG_ADVICE)
    return ok("storage", text)


def check_clock(stats: StatsReply) -> Iterator[Finding]:
    """Does the wall clock go as it should?"""
    told = stats.coordinator
    if told is None:
        return
    if told.clock_off_ms:
        way = "ahead" if told.clock_off_ms > 0 else "behind"
        text = f"the wall clock has jumped: {duration(abs(told.clock_off_ms))} {way} of what it was"
        yield Finding("clock", "warning", text, _OFF_ADVICE)
    elif told.clock_jumps:
        text = f"the wall clock has jumped {plural(told.clock_jumps, 'time')}, and was believed"
        yield Finding("clock", "warning", text, _JUMPS_ADVICE)
    else:
        yield ok("clock", "the wall clock goes as the monotonic one")


_OFF_ADVICE: Final = (
    f"set it right: until the jump has lasted {JUMP_LASTS_MS // 1000} s the server goes on as if "
    "there had been none"
)
_JUMPS_ADVICE: Final = (
    "let a time service steer it in small steps; jobs that were pushed meanwhile have its dates"
)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:g} ms"


_LOSSES_ADVICE: Final = (
    "what the server still had was written again; see that a copy takes over only when it has "
    "everything, such as with synchronous replication"
)
_AHEAD_ADVICE: Final = (
    "somebody reads the file and does not end: look for a backup or a `sqlite3` that is stopped "
    "(`fuser` on the file names it)"
)
_TROUBLE_ADVICE: Final = "it is over; the server's log says more"
_LOG_ADVICE: Final = (
    "checkpoints do not keep up; give storage a faster disk, or raise log_bytes_max"
)
_STORAGE_ADVICE: Final = (
    "bring it back, or make room; the server tries again by itself and goes on where it was"
)
_SHARD_ADVICE: Final = (
    "the supervisor starts it again by itself; if that does not help, look at the server's log"
)


def _jobs(stats: StatsReply) -> int:
    return sum(shard.jobs for shard in stats.shards)


def check_shard_sockets(
    run_dir: RunDir, hello: HelloReply, timeout_ms: int = ANSWER_TIMEOUT_MS
) -> Iterator[Finding]:
    """Does every shard answer at its own socket, under the epoch that the router knows?"""
    wrong = 0
    for index, epoch in enumerate(hello.epochs):
        finding = _check_shard_socket(run_dir.shard(index), index, epoch, timeout_ms)
        if finding is not None:
            wrong += 1
            yield finding
    if not wrong:
        yield ok("shard sockets", f"{plural(len(hello.epochs), 'socket')} answered")


def _check_shard_socket(url: str, index: int, epoch: int, timeout_ms: int) -> Finding | None:
    check = "shard sockets"
    reason = obstacle(url)
    if reason is not None:
        text = f"shard {index} cannot be reached at {url} ({reason})"
        return Finding(check, "wrong", text, _SHARD_ADVICE)
    try:
        own = ask(url, Stats(), StatsReply, timeout_ms=timeout_ms, route=index).shards[0].epoch
    except FlashQError as error:
        return Finding(check, "wrong", f"shard {index}: {error.text}", _SHARD_ADVICE)
    if own != epoch:
        text = f"shard {index} is in epoch {own}, and the router believes in {epoch}"
        return Finding(check, "warning", text, "ask again; it may just have started anew")
    return None


def check_openness(url: str, timeout_ms: int = ANSWER_TIMEOUT_MS) -> Finding:
    """Does the server ask for a token?"""
    harmless = Unsubscribe(queue="*")
    try:
        ask(url, harmless, Reply, timeout_ms=timeout_ms, route=ROUTE_ROUTER)
    except AuthenticationRequired:
        return ok("tokens", "every client has to show one")
    except FlashQError as error:
        return Finding("tokens", "warning", error.text, "ask again")
    return Finding(
        "tokens",
        "warning",
        "the server is open: whoever reaches it may do everything",
        "make a token with `flashq token`, and set FLASHQ_TOKENS_FILE where the server is started",
    )


def check_coordinator(url: str, token: str | None, timeout_ms: int = ANSWER_TIMEOUT_MS) -> Finding:
    """Does the coordinator answer, through the router?"""
    try:
        found = ask(
            url,
            ListCrons(),
            CronsReply,
            timeout_ms=timeout_ms,
            route=ROUTE_COORDINATOR,
            token=token,
        )
    except FlashQError as error:
        advice = "look at the server's log; while storage is away, what concerns its changes waits"
        return Finding("coordinator", "wrong", error.text, advice)
    count = plural(len(found.crons), "cron")
    more = " and more" if found.next is not None else ""
    return ok("coordinator", f"it answers, with {count}{more}")
