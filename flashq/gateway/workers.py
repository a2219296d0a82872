"""Workers that say over HTTP that they are there.

Owns what such a worker says, and the request by which a shard hears it. A registration is a session
like that of every other worker, kept alive by its heartbeats: so all gateways show one list, which
the shards have, and none of them keeps one. Pure.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from msgspec import Struct

from flashq.errors import FieldTooLarge
from flashq.gateway.asking import Ask, JsonOutline
from flashq.ids import shard_of_queue
from flashq.protocol.base import Unsigned
from flashq.protocol.codec import encode_json
from flashq.protocol.registry import BY_WORD
from flashq.protocol.sessions import About, Heartbeat

NAME_CHARS_MAX: Final = 256
QUEUES_MAX: Final = 1000

_HEARTBEAT: Final = BY_WORD["SESSIONHEARTBEAT"]


class Registration(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a worker says of itself."""

    queues: list[str] = []
    concurrency: Unsigned | None = 0
    jobs_processed: Unsigned | None = 0


def heartbeat_of(worker_id: str, told: Registration, shard_count: int) -> Ask:
    """Return the request that says that a worker is there. All gateways make the same session of
    its id, and ask the same shard.

    Raises:
        FieldTooLarge: its id, or the number of its queues, is beyond the bound.
    """
    if len(worker_id) > NAME_CHARS_MAX:
        raise FieldTooLarge(field="id", size=len(worker_id), limit=NAME_CHARS_MAX)
    if len(told.queues) > QUEUES_MAX:
        raise FieldTooLarge(field="queues", size=len(told.queues), limit=QUEUES_MAX)
    name = worker_id.encode("utf-8", "replace").decode()
    about = About(
        id=name,
        queues=[queue[:NAME_CHARS_MAX] for queue in told.queues],
        concurrency=told.concurrency or 0,
        jobs_processed=told.jobs_processed or 0,
    )
    session = sha256(b"worker " + name.encode()).digest()[:16]
    body = encode_json(Heartbeat(session=session, about=about))
    ask = Ask(_HEARTBEAT, body, JsonOutline(cmd=_HEARTBEAT.word), json=True)
    ask.shard = shard_of_queue(name, shard_count)
    return ask
