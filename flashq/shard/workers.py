"""LISTWORKERS: who takes jobs from this shard, or has registered here.

Owns the list as people see it. It reads what the leases know of sessions, and changes nothing.
"""

from __future__ import annotations

from heapq import nlargest
from itertools import chain, islice
from typing import Final

from flashq.protocol.paging import LISTED_MAX, page
from flashq.protocol.server import ListWorkers, WorkerInfo, WorkersReply
from flashq.protocol.sessions import About, worker_id
from flashq.shard.core import Core
from flashq.shard.leases import Leases, LiveSession

ALIVE_MS: Final = 30_000
"""Silence after which a worker is not listed any more."""
QUEUES_LISTED_MAX: Final = 100
"""How many of its queues are told of one worker."""
_NOTHING: Final = About()


def list_workers(core: Core, leases: Leases, command: ListWorkers) -> WorkersReply:
    """Return workers of this shard that were heard of lately."""
    alive = [
        live
        for live in leases.sessions.values()
        if core.clock_ms - live.heard_ms < ALIVE_MS and _is_worker(live, core)
    ]
    if len(alive) > LISTED_MAX:
        alive = nlargest(LISTED_MAX, alive, key=lambda live: live.heard_ms)
    listed = page(alive, _id, limit=command.limit, after=command.after)
    workers = [_info(live, core, leases) for live in listed.entries]
    return WorkersReply(ok=True, workers=workers, next=listed.next)


def _id(live: LiveSession) -> str:
    about = live.about or _NOTHING
    return about.id or worker_id(live.id)


def _is_worker(live: LiveSession, core: Core) -> bool:
    """Tell whether a session takes jobs, or says that it is a worker's."""
    if live.queues or (live.about is not None and live.about.id is not None):
        return True
    known = core.state.sessions.get(live.id)
    return known is not None and bool(known.deliveries)


def _info(live: LiveSession, core: Core, leases: Leases) -> WorkerInfo:
    about = live.about or _NOTHING
    held = leases.held(live.id)
    known = core.state.sessions.get(live.id)
    deliveries = () if known is None else islice(known.deliveries.values(), LISTED_MAX)
    of_held = chain.from_iterable(delivery.queues for delivery in deliveries)
    queues = dict.fromkeys([*about.queues, *live.queues, *of_held])
    return WorkerInfo(
        id=_id(live),
        queues=list(queues)[:QUEUES_LISTED_MAX],
        concurrency=about.concurrency,
        last_heartbeat=core.state.now_ms - (core.clock_ms - live.heard_ms),
        jobs_processed=about.jobs_processed or max(0, live.taken - held),
        name=about.name,
        jobs_held=held,
        pulls_waiting=len(live.waiters),
    )
