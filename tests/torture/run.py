"""One run: a server, a crew, a killer, a time of peace, and the books.

Owns the order of things. A run ends with everything killed once more, so that what the server says
of each job in the end comes from storage and from nowhere else.
"""

from __future__ import annotations

import select
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import msgspec
from msgspec import Struct

from flashq.client.sync_client import Client
from flashq.errors import FlashQError, ResultNotKept
from tests.postgres import Postgres
from tests.server import eventually
from tests.torture.books import Books
from tests.torture.checker import HARNESS, Checker, Verdict
from tests.torture.crew import Crew
from tests.torture.killer import WEIGHTS, Killer
from tests.torture.ledger import Found, Kept, Pen, Seen, now, read_all
from tests.torture.site import SHARDS, START_S, Site, remove
from tests.torture.workload import Payload

TICK_S = 0.02
DRAIN_S = 60.0
REST_S = 6.0
"""A shard notices a new coordinator within 2 s when it has nothing to do, and only then gets its
mail; what is lost on the way is sent again after 1 s. The rest is for a machine that stalls."""
SNAPSHOT_IDS = 2000
LOOK_S = 1.0
LOOK_TIMEOUT_MS = 2000
ACTIVE_MAX = 1000
"""More than a crew holds at a time."""
RESULTS_MAX = 500


class Plan(Struct, kw_only=True):
    """What is run.

    Args:
        storage: sqlite or postgres.
        seconds: of killing.
        pause_s: least and most time between two kills.
        soon: how large a part of the kills has to meet a recovery instead.
        seed: of every choice; when what happens is up to the machine.
        level: durable or async.
        sabotage: what is taken out of the server, with commas between.
        kinds: what is killed; empty for everything that there is.
        extra_s: how long a run goes on, at most, in which a kind of process has not yet died with
            work in its hands.
        timeout_s: how long a call may take; longer than anything takes that the killer does.
        drain_s: how long the server has to come to rest.
        say: takes lines about how it goes.
    """

    storage: str
    seconds: float
    pause_s: tuple[float, float] = (1.0, 3.0)
    soon: float = 0.33
    seed: int = 0
    level: str = "durable"
    sabotage: str = ""
    kinds: tuple[str, ...] = ()
    extra_s: float = 0.0
    timeout_s: float = 60.0
    drain_s: float = DRAIN_S
    say: Callable[[str], None] | None = None


class Outcome(Struct):
    """What came of a run.

    Args:
        plan: what was run.
        seconds: how long it took in all.
        verdict: the checker's.
        home: where ledgers and logs are, if they were kept.
    """

    plan: Plan
    seconds: float
    verdict: Verdict
    home: Path | None


def torture(plan: Plan, *, keep_always: bool = False) -> Outcome:
    """Carry out a plan. The ledgers of a run that does not balance are kept."""
    begun = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="fqt", dir="/tmp"))
    postgres = Postgres(None) if plan.storage == "postgres" else None
    try:
        verdict = Run(plan, home, postgres).carry_out()
    finally:
        if postgres is not None:
            postgres.close()
    is_kept = keep_always or not verdict.balances
    if not is_kept:
        remove(home)
    return Outcome(plan, time.monotonic() - begun, verdict, home if is_kept else None)


class Run:
    """See the module.

    Args:
        plan: what is run.
        home: an empty directory.
        postgres: the storage, if it is not SQLite.
    """

    def __init__(self, plan: Plan, home: Path, postgres: Postgres | None) -> None:
        self._plan = plan
        self._home = home
        self._ledgers = home / "ledgers"
        for directory in (self._ledgers, home / "run", home / "data"):
            directory.mkdir(mode=0o700)
        self._site = Site(home, plan.level, postgres, plan.sabotage)
        addresses = {
            "router": self._site.address,
            "tcp": str(self._site.tcp_port),
            "http": str(self._site.http_port),
        }
        self._crew = Crew(self._ledgers, addresses, plan.seed, plan.timeout_s)
        self._pen = Pen(self._ledgers, "killer")
        self._kinds = plan.kinds or tuple(
            kind for kind in WEIGHTS if kind != "postgres" or postgres is not None
        )
        #: what went wrong apart from the books
        self._failures: list[str] = []

    def carry_out(self) -> Verdict:
        """Run it to its end, and return what the books say."""
        try:
            self._site.start()
            self._site.settle()
            self._begin_work()
            killer = Killer(
                Random(self._plan.seed),
                self._plan.pause_s,
                self._plan.soon,
                self._kinds,
                self._site,
                self._crew,
                self._pen,
            )
            with self._watched():
                self._kill(killer)
                self._say("peace")
                self._come_to_rest(killer)
        except AssertionError as error:
            self._failures.append(str(error)[:2000])
        finally:
            self._crew.close()
            self._site.close()
        self._say("checking")
        checker = Checker(Books(read_all(self._ledgers), SHARDS), self._plan.level, self._kinds)
        verdict = checker.check()
        for failure in (*self._failures, *self._crew.failures, *self._complaints()):
            checker.accuse(HARNESS, failure)
        return verdict

    def _say(self, text: str) -> None:
        if self._plan.say is not None:
            self._plan.say(f"{self._plan.storage}: {text}")

    def _begin_work(self) -> None:
        """Wait until everybody has done something."""

        def has_begun() -> bool:
            self._crew.tend()
            self._site.tend()
            return all(path.stat().st_size for path in ledgers)

        self._crew.tend()
        ledgers = self._crew.ledgers()
        eventually(lambda: all(path.exists() for path in ledgers), "a crew", within_s=START_S)
        eventually(has_begun, "everybody at work", within_s=START_S)

    def _kill(self, killer: Killer) -> None:
        ends = time.monotonic() + self._plan.seconds
        latest = ends + self._plan.extra_s
        while (now := time.monotonic()) < ends or (killer.has_turns and now < latest):
            self._crew.tend()
            self._site.tend()
            killer.tick()
            select.select([], [], [], TICK_S)
            if time.monotonic() >= ends and not killer.has_turns and now < latest:
                killer.promise(self._never_held())
        killer.kill_twin()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Write down again and again which jobs are active, while everything else goes on."""
        stopping = threading.Event()
        thread = threading.Thread(target=self._watch, args=(stopping,))
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    def _watch(self, stopping: threading.Event) -> None:
        pen = Pen(self._ledgers, "watcher")
        with Client(self._site.address, timeout=LOOK_TIMEOUT_MS) as client:
            while not stopping.wait(LOOK_S):
                asked = now()
                try:
                    jobs = client.get_jobs(state="active", limit=ACTIVE_MAX)
                except FlashQError:
                    continue  # the server is away
                pen.write(Seen(asked, [(job.id, job.started_at or 0) for job in jobs]))

    def _never_held(self) -> list[str]:
        """Return the kinds of which none has died with work in its hands yet."""
        books = Books(read_all(self._ledgers), SHARDS)
        held = {kill.kind for kill in books.kills if books.was_holding(kill)}
        return [kind for kind in self._kinds if kind not in held]

    def _come_to_rest(self, killer: Killer) -> None:
        """Let everything that was begun come to its end, kill once more, and look at it."""
        self._site.settle()
        self._crew.dismiss("producer")
        with Client(self._site.address, timeout=int(DRAIN_S * 1000)) as client:
            self._drain(client)
        self._crew.dismiss("worker")
        killer.kill_everything()
        self._site.settle()
        with Client(self._site.address, timeout=int(DRAIN_S * 1000)) as client:
            self._look(client)
            if not self._is_empty(client):
                self._failures.append(f"work came back in the end: {client.stats()}"[:800])
        status = self._site.terminate()
        if status:
            self._failures.append(f"the server ended with status {status} on SIGTERM")

    def _drain(self, client: Client) -> None:
        """Wait until there has been nothing to do for so long that nothing is on its way either."""
        empty_since = time.monotonic()

        def is_at_rest() -> bool:
            nonlocal empty_since
            self._crew.tend()
            self._site.tend()
            if not self._is_empty(client):
                empty_since = time.monotonic()
            return time.monotonic() - empty_since > REST_S

        try:
            eventually(is_at_rest, "an empty server", within_s=self._plan.drain_s)
        except AssertionError:
            self._failures.append(f"work was left in the end: {client.stats()}"[:800])

    def _is_empty(self, client: Client) -> bool:
        """Tell whether there is no work, and all is safe."""
        try:
            stats, crons = client.stats(), client.list_crons()
        except FlashQError:
            return False
        if crons or stats.missing_shards or len(stats.shards) != SHARDS:
            return False
        left = stats.queued + stats.processing + stats.delayed + stats.waiting_dependencies
        return not left and not any(
            shard.unsafe_bytes or shard.mailbox_out for shard in stats.shards
        )

    def _look(self, client: Client) -> None:
        """Write down what the server says of every id that anybody was told."""
        books = Books(read_all(self._ledgers), SHARDS)
        ids = sorted(books.acknowledged.keys() | books.deliveries.keys())
        for first in range(0, len(ids), SNAPSHOT_IDS):
            asked = ids[first : first + SNAPSHOT_IDS]
            found = {job.id: job for job in client.get_jobs_batch(asked)}
            for job_id in asked:
                job = found.get(job_id)
                state, error = ("", None) if job is None else (job.state, job.error)
                self._pen.write(Found(job_id, state or "", error or ""))
        done = [
            job_id
            for job_id, ends in books.ends.items()
            if any(end.way == "ack" for end in ends)
            and not books.wanted[books.deliveries[job_id][0].uid].is_removed
        ]
        for job_id in Random(self._plan.seed).sample(done, min(RESULTS_MAX, len(done))):
            try:
                result = client.get_result(job_id)
            except ResultNotKept:
                result = None
            uid = "" if result is None else msgspec.convert(result, Payload).u
            self._pen.write(Kept(job_id, uid))

    def _complaints(self) -> list[str]:
        """Return what programs of the server said that they should not have to say."""
        log = self._site.log()
        if "Traceback" not in log:
            return []
        return [log[log.index("Traceback") :][:2000]]
