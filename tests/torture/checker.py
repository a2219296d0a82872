"""The checker: whether the books balance.

Owns what the README promises, as checks over the books, and knows nothing else of flashq. Where
the time of something is only known within bounds, a check takes the bound that accuses nobody
wrongly. At level `async` the last of what was acknowledged may be undone by a kill; what lies
within the stated window is counted apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Final

from msgspec import Struct, field

from tests.torture.books import FOREVER, Books, End, Request
from tests.torture.ledger import Acknowledged, Refused, Unanswered, Wanted
from tests.torture.window import MS, Breach, Window

LOST: Final = "lost"
INVENTED: Final = "invented"
DUPLICATED: Final = "duplicated"
UNDONE: Final = "undone"
ORDER: Final = "run too early"
KEYS: Final = "key held twice"
CRON: Final = "cron miscounted"
REUSED: Final = "id reused"
TORN: Final = "torn"
FALSE: Final = "false answer"
HUNG: Final = "never answered"
STUCK: Final = "stuck"
HARNESS: Final = "harness"

KINDS: Final = (
    *(
        LOST,
        INVENTED,
        DUPLICATED,
        UNDONE,
        ORDER,
        KEYS,
        CRON,
        REUSED,
        TORN,
        FALSE,
        HUNG,
        STUCK,
        HARNESS,
    ),
)
TIMEOUT_CODE: Final = "request_timeout"
EXAMPLES_MAX: Final = 10
UNHELD_MS_MAX: Final = 30_000
"""How long a job may be active without a worker that lives: its session or lease ends in 3 s, a
shard that was started anew waits 10 s for heartbeats, and the rest is for a machine that stalls."""
PARKED: Final = ("waitingchildren", "waitingparent")
ENDED: Final = ("completed", "failed", "cancelled", "")


class Deaths(Struct):
    """How often one kind of process was killed."""

    killed: int = 0
    holding: int = 0
    """With work in its hands that was not acknowledged."""
    recovering: int = 0
    """While something was coming back from the kill before."""


class Verdict(Struct):
    """What the checker found."""

    counts: dict[str, int] = {}
    """By what was counted, in the order of the report."""
    violations: Counter[str] = field(default_factory=Counter)
    """By kind; those that `async` allows are not among them."""
    excused: Counter[str] = field(default_factory=Counter)
    examples: list[str] = []
    """Some of the violations, in words."""
    deaths: dict[str, Deaths] = {}
    refusals: Counter[str] = field(default_factory=Counter)
    """Codes of errors that producers got."""

    @property
    def balances(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations

    @property
    def counts_as_run(self) -> bool:
        """Whether each kind of process died with work in its hands."""
        return bool(self.deaths) and all(deaths.holding for deaths in self.deaths.values())


class Checker:
    """See the module.

    Args:
        books: of the run.
        level: durable or async.
        kinds: of processes that had to be killed.
    """

    def __init__(self, books: Books, level: str, kinds: tuple[str, ...]) -> None:
        self._books = books
        self._is_async = level == "async"
        self._kinds = kinds
        self._verdict = Verdict()
        self._lost: set[int] = set()
        self._window = Window(books)

    def check(self) -> Verdict:
        """Carry out all checks."""
        self._check_ids()
        self._check_ends()
        self._check_answers()
        self._check_deliveries()
        self._check_order()
        self._check_keys()
        self._check_custom_ids()
        self._check_crons()
        self._check_wholeness()
        self._check_holders()
        self._check_declined()
        self._judge()
        self._count()
        return self._verdict

    def accuse(self, kind: str, text: str) -> None:
        """Note that a promise was broken."""
        self._verdict.violations[kind] += 1
        if len(self._verdict.examples) < EXAMPLES_MAX:
            self._verdict.examples.append(f"{kind}: {text}")

    def _undone(self, kind: str, text: str, asked: int, told: int, queue: str) -> None:
        """Note that something does not hold any more, which at level async a kill may excuse."""
        if self._is_async:
            shard = self._books.shard_of(queue)
            self._window.note(Breach(kind, text, asked, told, shard))
        else:
            self.accuse(kind, text)

    def _undone_end(self, kind: str, text: str, job_id: int, end: End, queue: str) -> None:
        """The same of an ack or a fail."""
        begun = [each.at for each in self._books.endings[job_id] if each.token == end.token]
        self._undone(kind, text, max(at for at in begun if at <= end.at), end.at, queue)

    def _judge(self) -> None:
        breaches, excused = self._window.judge(self._lost)
        for breach in breaches:
            self.accuse(breach.kind, breach.text)
        self._verdict.excused.update(breach.kind for breach in excused)

    # --- the checks

    def _check_ids(self) -> None:
        """An id names one job for ever, and nobody gets a job that nobody asked for."""
        books = self._books
        owner = {job_id: job.uid for job_id, (job, _) in books.acknowledged.items()}
        for job_id, deliveries in books.deliveries.items():
            uids = {delivery.uid for delivery in deliveries}
            if len(uids) > 1:
                self.accuse(REUSED, f"id {job_id} was delivered as {sorted(uids)}")
            for uid in uids:
                wanted, asked = books.wanted.get(uid), books.request_of.get(uid)
                if wanted is None or asked is None:
                    self.accuse(INVENTED, f"id {job_id} is {uid}, which nobody asked for")
                elif asked.is_refused:
                    self.accuse(INVENTED, f"id {job_id} is {uid}, whose push was refused")
                elif {delivery.queue for delivery in deliveries} != {wanted.queue}:
                    self.accuse(INVENTED, f"{uid} came from another queue than {wanted.queue}")
                elif job_id in owner and wanted.custom is None and owner[job_id] != uid:
                    self.accuse(REUSED, f"id {job_id} is {owner[job_id]}, and came as {uid}")
        for request in books.requests:
            for job in request.attempt.jobs:
                ids = books.ids_of(job.uid)
                if job.custom is None and job.firings == 1 and len(ids) > 1:
                    self._check_doubled(request, job, ids)
        for job_id, (job, request) in books.acknowledged.items():
            if job.custom is None and owner[job_id] != job.uid:
                self.accuse(REUSED, f"id {job_id} answered {request.attempt.at} and another push")

    def _check_doubled(self, request: Request, job: Wanted, ids: set[int]) -> None:
        """One push is one job; only async may have handed out one that a kill then undid, together
        with the push, of which nobody had been told."""
        known = set(request.answer.ids) if isinstance(request.answer, Acknowledged) else set()
        if self._is_async and not any(self._books.state_of(job_id) for job_id in ids - known):
            self._verdict.excused[INVENTED] += 1
        else:
            self.accuse(INVENTED, f"{job.uid} became jobs {sorted(ids)}")

    def _check_ends(self) -> None:
        """What was acknowledged was delivered, has ended, and stays so."""
        books = self._books
        for job_id, (job, request) in books.acknowledged.items():
            assert request.answer is not None
            if books.deliveries.get(job_id) or self._is_spared(job_id, job, request):
                continue
            state = books.state_of(job_id) or "unknown"
            causes = self._causes(job, request)
            if causes and state in PARKED and all(map(self._has_ended, causes)):
                text = f"{job.uid}, id {job_id}, is {state}, and all that it waited for has ended"
                self.accuse(STUCK, text)
                continue
            self._lost.add(job_id)
            text = f"{job.uid} ({request.attempt.kind}), id {job_id}, is {state}, never delivered"
            self._undone(LOST, text, request.attempt.at, request.answer.at, job.queue)
        for job_id, deliveries in books.deliveries.items():
            if job_id not in books.found:
                continue  # the end of the run did not come
            wanted = books.wanted.get(deliveries[0].uid)
            if wanted is not None:
                self._check_end(job_id, wanted)

    def _check_end(self, job_id: int, job: Wanted) -> None:
        books = self._books
        state, name = books.state_of(job_id), f"{job.uid}, id {job_id}"
        ends = [end for end in books.ends.get(job_id, ()) if end.way == "ack"]
        begun = any(end.way == "ack" for end in books.endings.get(job_id, ()))
        if ends and state != "completed" and not (job.is_removed and not state):
            text = f"{name}, is {state or 'unknown'}, and was acked"
            self._undone_end(UNDONE, text, job_id, ends[0], job.queue)
        elif not state and not (job.is_removed and begun):
            self._check_gone(job_id, job)
        elif state not in ("completed", "failed", ""):
            self.accuse(LOST, f"{name}, was delivered and is still {state}")
        elif state == "completed" and not begun:
            self.accuse(FALSE, f"{name}, is completed, and nobody did it")
        elif state == "failed" and not job.is_mortal:
            error = books.error_of(job_id)
            if not error.startswith("poison"):
                self.accuse(FALSE, f"{name}, has failed: {error}")

    def _check_gone(self, job_id: int, job: Wanted) -> None:
        """A job was delivered, and the server does not know it any more."""
        text = f"{job.uid}, id {job_id}, was delivered and is unknown"
        if job_id in self._books.acknowledged:
            _, request = self._books.acknowledged[job_id]
            assert request.answer is not None
            self._lost.add(job_id)
            self._undone(LOST, text, request.attempt.at, request.answer.at, job.queue)
        elif self._is_async:  # nobody was told that it is there
            self._verdict.excused[LOST] += 1
        else:
            self.accuse(LOST, text)

    def _is_spared(self, job_id: int, job: Wanted, request: Request) -> bool:
        """Tell whether a job failed, and had to, since what it waited for has failed."""
        books = self._books
        return (
            books.state_of(job_id) == "failed"
            and not job.is_forgiving
            and any(books.state_of(cause) in ("failed", "") for cause in self._causes(job, request))
        )

    def _causes(self, job: Wanted, request: Request) -> list[int]:
        """Return what has to end before a job runs."""
        causes = list(job.after)
        is_parent = request.attempt.kind == "flow" and request.attempt.jobs[0] is job
        if is_parent and isinstance(request.answer, Acknowledged):
            causes += request.answer.ids[1:]
        return causes

    def _has_ended(self, job_id: int) -> bool:
        return job_id in self._books.found and self._books.state_of(job_id) in ENDED

    def _check_answers(self) -> None:
        """Every call ends, and results are those of the jobs, at once and afterwards."""
        books = self._books
        for request in books.requests:
            if isinstance(request.answer, Unanswered) and request.answer.code == TIMEOUT_CODE:
                uid = request.attempt.jobs[0].uid
                self.accuse(HUNG, f"{uid} ({request.attempt.kind}) has waited for too long")
        for awaited in books.awaited:
            uids = {delivery.uid for delivery in books.deliveries.get(awaited.id, ())}
            if uids != {awaited.result} or books.earliest_end(awaited.id) > awaited.at:
                self.accuse(FALSE, f"who waited for id {awaited.id} got {awaited.result}")
        for job_id, result in books.kept.items():
            uids = {delivery.uid for delivery in books.deliveries.get(job_id, ())}
            if uids != {result}:
                text = f"the result of id {job_id} is {result!r}"
                end = next(end for end in books.ends[job_id] if end.way == "ack")
                self._undone_end(UNDONE, text, job_id, end, books.deliveries[job_id][0].queue)

    def _check_deliveries(self) -> None:
        """An acknowledged ack is the last of a job; an acknowledged fail counts."""
        books = self._books
        for job_id, ends in books.ends.items():
            deliveries = books.deliveries[job_id]
            attempts = {delivery.token: delivery.attempts for delivery in deliveries}
            for end in ends:
                later = [delivery for delivery in deliveries if delivery.token > end.token]
                queue = deliveries[0].queue
                if end.way == "ack" and later:
                    text = f"id {job_id} was acked, and delivered again to somebody"
                    self._undone_end(DUPLICATED, text, job_id, end, queue)
                elif end.way == "fail" and any(
                    delivery.attempts <= attempts.get(end.token, -1) for delivery in later
                ):
                    text = f"id {job_id} had failed, and came again as if it had not"
                    self._undone_end(UNDONE, text, job_id, end, queue)

    def _check_order(self) -> None:
        """A parent runs after its children, a dependent job after what it depends on."""
        books = self._books
        for request in books.requests:
            for place, job in enumerate(request.attempt.jobs):
                causes = set(job.after)
                if request.attempt.kind == "flow" and not place:
                    for child in request.attempt.jobs[1:]:
                        causes |= books.ids_of(child.uid)
                for job_id in books.ids_of(job.uid) if causes else ():
                    begun = books.first_delivered(job_id)
                    early = [c for c in causes if begun and books.earliest_end(c) > begun]
                    if early:
                        self.accuse(ORDER, f"{job.uid}, id {job_id}, before {early}")

    def _check_keys(self) -> None:
        """No two live jobs of a queue have one unique key, and no refusal names nobody."""
        books = self._books
        holders: dict[tuple[str, str], list[Request]] = defaultdict(list)
        for request in books.requests:
            job = request.attempt.jobs[0]
            if job.key is not None:
                holders[job.queue, job.key].append(request)
        for (queue, key), requests in holders.items():
            lives = sorted(filter(None, map(self._certain_life, requests)))
            for (_, end, first), (begin, _, second) in pairwise(lives):
                if begin < end:
                    self.accuse(KEYS, f"{key} of {queue}: {first} and {second}")
            possible = [life for one in requests if (life := self._possible_life(one))]
            for request in requests:
                answer = request.answer
                if not (isinstance(answer, Refused) and answer.code == "duplicate"):
                    continue
                if not any(
                    begin < answer.at and end > request.attempt.at for begin, end in possible
                ):
                    uid = request.attempt.jobs[0].uid
                    self.accuse(FALSE, f"{uid} was refused, and nobody had {key} of {queue}")

    def _certain_life(self, request: Request) -> tuple[int, int, str] | None:
        """Return from when to when the job of a push certainly lived; None for never."""
        books, uid = self._books, request.attempt.jobs[0].uid
        ids = books.ids_of(uid) - self._lost
        if len(ids) != 1 or request.is_refused:
            return None
        [job_id] = ids
        begins = [books.first_delivered(job_id) or FOREVER]
        if request.is_acknowledged and request.answer is not None:
            begins.append(request.answer.at)
        begin, end = min(begins), books.earliest_end(job_id)
        return (begin, end, uid) if begin < end else None

    def _possible_life(self, request: Request) -> tuple[int, int] | None:
        """Return from when to when the job of a push may have lived; None for never."""
        if request.is_refused:
            return None
        ids = self._books.ids_of(request.attempt.jobs[0].uid)
        end = max((self._books.latest_end(job_id) for job_id in ids), default=FOREVER)
        return request.attempt.at, end

    def _check_custom_ids(self) -> None:
        """Who uses a custom id again gets the first job, and the first payload is what runs."""
        books = self._books
        groups: dict[tuple[str, str], list[Request]] = defaultdict(list)
        for request in books.requests:
            job = request.attempt.jobs[0]
            if job.custom is not None:
                groups[job.queue, job.custom].append(request)
        for (queue, custom), requests in groups.items():
            uids = {request.attempt.jobs[0].uid for request in requests}
            ids: set[int] = set()
            for request in requests:
                if isinstance(request.answer, Acknowledged):
                    ids.update(request.answer.ids)
            kept = {job_id for job_id in ids if job_id not in self._lost}
            if len(kept) > 1:
                self.accuse(FALSE, f"{custom} of {queue} is {sorted(kept)}")
            for job_id in kept:
                came = {delivery.uid for delivery in books.deliveries.get(job_id, ())}
                if not came <= uids:
                    self.accuse(INVENTED, f"{custom} of {queue}, id {job_id}, came as {came}")

    def _check_crons(self) -> None:
        """A cron makes one job for each of its firings, and all of them."""
        books = self._books
        for request in books.requests:
            if request.attempt.kind != "cron":
                continue
            [job] = request.attempt.jobs
            made = len(books.delivered_ids.get(job.uid, ()))
            allowed = {job.firings}
            if not request.is_acknowledged:
                allowed.add(0)
            if request.is_refused:
                allowed = {0}
            if made not in allowed:
                text = f"{job.uid} fires {job.firings} times and made {made} jobs"
                self.accuse(CRON, text)

    def _check_wholeness(self) -> None:
        """A batch or a flow that nobody was told of is there as a whole, or not at all."""
        books = self._books
        for request in books.requests:
            jobs = request.attempt.jobs
            if request.is_acknowledged or len(jobs) < 2:
                continue
            wholes = jobs[1:] if request.attempt.kind == "flow" else jobs
            there = [job for job in wholes if books.delivered_ids.get(job.uid)]
            if there and len(there) < len(wholes):
                text = f"{len(there)} of {len(wholes)} of {wholes[0].uid} ({request.attempt.kind})"
                self.accuse(TORN, text)

    def _check_holders(self) -> None:
        """No job stays active for long when no worker that lives has it."""
        books = self._books
        since: dict[tuple[int, int], int] = {}
        accused: set[int] = set()
        for seen in books.seen:
            since = {delivery: since.get(delivery, seen.at) for delivery in seen.jobs}
            for (job_id, _), first in since.items():
                let_go = books.let_go_at(job_id, seen.at)
                if let_go == FOREVER or job_id in accused:
                    continue
                begin = max(first, let_go, books.last_trouble(seen.at, job_id % books.shards))
                unheld_ms = (seen.at - begin) // MS
                if unheld_ms > UNHELD_MS_MAX:
                    accused.add(job_id)
                    text = f"id {job_id} was active for {unheld_ms} ms, and nobody had it"
                    self.accuse(STUCK, text)

    def _check_declined(self) -> None:
        """An error that promises that nothing happened is true: no ack of those is carried out."""
        books = self._books
        for job_id, declined in books.declined.items():
            refused = sum(end.way == "ack" for end in declined)
            begun = sum(end.way == "ack" for end in books.endings[job_id])
            if begun == refused and books.state_of(job_id) == "completed":
                self.accuse(FALSE, f"id {job_id} is completed, and each ack of it was declined")

    # --- figures

    def _count(self) -> None:
        books, verdict = self._books, self._verdict
        firsts = {job_id: books.first_delivered(job_id) for job_id in books.deliveries}
        outlived = 0
        for job_id, (job, request) in books.acknowledged.items():
            first = firsts.get(job_id)
            assert request.answer is not None
            kill = books.next_kill(request.answer.at, books.shard_of(job.queue))
            outlived += first is not None and kill is not None and kill.at < first
        acknowledged = [request for request in books.requests if request.is_acknowledged]
        verdict.counts = {
            "requests attempted": len(books.requests),
            "requests acknowledged": len(acknowledged),
            "requests without an answer": sum(
                not (request.is_acknowledged or request.is_refused) for request in books.requests
            ),
            "jobs attempted": sum(len(request.attempt.jobs) for request in books.requests),
            "jobs acknowledged": len(books.acknowledged),
            "jobs delivered": len(books.deliveries),
            "deliveries": sum(map(len, books.deliveries.values())),
            "acks acknowledged": sum(
                end.way == "ack" for ends in books.ends.values() for end in ends
            ),
            "recovered (outlived a death of their shard, then delivered)": outlived,
        }
        for request in books.requests:
            if request.answer is not None and not isinstance(request.answer, Acknowledged):
                verdict.refusals[request.answer.code] += 1
        verdict.deaths = {kind: Deaths() for kind in self._kinds}
        for killed in books.kills:
            deaths = verdict.deaths.setdefault(killed.kind, Deaths())
            deaths.killed += 1
            deaths.holding += books.was_holding(killed)
            deaths.recovering += killed.is_recovering
