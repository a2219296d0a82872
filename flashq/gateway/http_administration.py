"""What operators and older dashboards ask of a server: settings, stopping, emptying, cluster.

Owns the answers of those routes. What changes jobs is put together of the commands that everybody
has. Settings are read at start and by all processes, so none is changed here: each such request is
refused with what to do instead.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from flashq.errors import CronNotFound, InvalidRequest, NotSupported, ParameterInvalid
from flashq.gateway import http_requests
from flashq.gateway.http_access import Visitor
from flashq.gateway.http_commands import Commands, respond
from flashq.gateway.http_machine import Machine
from flashq.gateway.http_overview import Overview
from flashq.gateway.http_replies import envelope, members_of
from flashq.gateway.workers import Registration, heartbeat_of
from flashq.protocol.codec import decode, encode_json
from flashq.protocol.registry import BY_WORD
from flashq.version import __version__

STOP_DELAY_S: Final = 0.1
"""Time for the answer to get out."""
CLEANED_MAX: Final = 2**53 - 1

_PASSWORD: Final = re.compile(r"(?<=://)([^/@:]*):([^/@]*)@")

DATABASE_FIXED: Final = (
    "Cannot change database URL at runtime. Set DATABASE_URL environment variable and restart the "
    "server."
)
_FIXED: Final = {
    "auth": "Cannot change tokens at runtime. Set AUTH_TOKENS and restart the server.",
    "queue-defaults": "Cannot change defaults for all queues at runtime. Set them per queue: "
    "POST /queues/{queue}/config.",
    "cleanup": "Cannot change retention at runtime. Set FLASHQ_COMPLETED_JOBS_MAX and "
    "FLASHQ_RESULTS_MAX and restart the server.",
    "database": DATABASE_FIXED,
    "test-db": "This server opens no database on request. Run: flashq doctor",
}
STRATEGIES: Final = ("RoundRobin", "LeastConnections", "WeightedLatency", "Random")


class Place(NamedTuple):
    """What this gateway tells of where it stands."""

    tcp_port: int
    http_port: int
    storage: str
    """URL, with its password."""
    auth_tokens: int


def shown_url(url: str) -> str:
    """Return a URL without its password."""
    return _PASSWORD.sub(r"\1:****@", url)


class Administration:
    """Answers operators.

    Args:
        commands: carries commands out.
        overview: asks the server.
        shard_count: how many shards the server has.
        place: where this gateway stands.
        wall_ms, mono_s: the clocks.
        stop_server: makes the whole server end; None where this gateway cannot.
    """

    def __init__(
        self,
        commands: Commands,
        overview: Overview,
        shard_count: int,
        place: Callable[[], Place],
        *,
        wall_ms: Callable[[], int],
        mono_s: Callable[[], float],
        stop_server: Callable[[], None] | None,
    ) -> None:
        self._commands: Final = commands
        self._overview: Final = overview
        self._shard_count: Final = shard_count
        self._place: Final = place
        self._wall_ms: Final = wall_ms
        self._mono_s: Final = mono_s
        self._stop_server: Final = stop_server
        self._started_s: Final = mono_s()
        self._started_ms: Final = wall_ms()
        self._machine: Final = Machine()
        #: connections to this gateway's HTTP door
        self.connections: Callable[[], int] = lambda: 0

    # --- settings

    async def settings(self, _request: Request, _visitor: Visitor) -> Response:
        """Say how the server is set up."""
        place = self._place()
        is_postgres = place.storage.startswith("postgres")
        return _data(
            {
                "version": __version__,
                "tcp_port": place.tcp_port,
                "http_port": place.http_port,
                "database_connected": is_postgres,
                "database_url": shown_url(place.storage) if is_postgres else None,
                "storage": shown_url(place.storage),
                "auth_enabled": place.auth_tokens > 0,
                "auth_token_count": place.auth_tokens,
                "uptime_seconds": self._uptime_s(),
            }
        )

    async def change_settings(self, request: Request, _visitor: Visitor) -> Response:
        """Refuse, and say what to do instead."""
        name = request.url.path.rpartition("/")[2]
        raise NotSupported(_FIXED[name])

    async def run_cleanup(self, _request: Request, _visitor: Visitor) -> Response:
        """Say that it goes on all the time: the shards clean up as they work."""
        return _data("Cleanup triggered")

    async def machine(self, _request: Request, _visitor: Visitor) -> Response:
        """Say what the machine says."""
        figures = self._machine.figures()
        figures["tcp_connections"] = self.connections()
        figures["uptime_seconds"] = self._uptime_s()
        return _data(figures)

    def _uptime_s(self) -> int:
        return int(self._mono_s() - self._started_s)

    # --- the server as a whole

    async def shut_down(self, _request: Request, _visitor: Visitor) -> Response:
        """Make the whole server end, once this is answered."""
        if self._stop_server is None:
            raise NotSupported("This gateway runs by itself. Stop the server where it was started.")
        asyncio.get_running_loop().call_later(STOP_DELAY_S, self._stop_server)
        return _data("Server shutting down...")

    async def restart(self, _request: Request, _visitor: Visitor) -> Response:
        """Refuse: whoever started the server restarts it."""
        raise NotSupported("The server is restarted where it was started: stop it, and start it.")

    async def reset(self, _request: Request, _visitor: Visitor) -> Response:
        """Remove every queue and every cron."""
        for queue in await self._overview.queue_names():
            await self._count("OBLITERATE", queue)
        while crons := (await self._overview.crons()).crons:
            for cron in crons:
                path = {"name": cron.name}
                ask = http_requests.ask_with_parameters(BY_WORD["CRONDELETE"], path, {})
                with suppress(CronNotFound):  # it went by itself
                    await self._commands.ask(ask)
        return _data("Server memory cleared")

    async def clear_queues(self, _request: Request, _visitor: Visitor) -> Response:
        """Remove waiting and delayed jobs of all queues."""
        return await self._sum("DRAIN")

    async def clear_dead_letters(self, _request: Request, _visitor: Visitor) -> Response:
        """Remove the dead letters of all queues."""
        return await self._sum("PURGEDLQ")

    async def clear_completed(self, _request: Request, _visitor: Visitor) -> Response:
        """Remove the completed jobs of all queues."""
        return await self._sum("CLEAN", grace=0, state="completed", limit=CLEANED_MAX)

    async def reset_metrics(self, _request: Request, _visitor: Visitor) -> Response:
        """Refuse: totals that jump back break every rate that is made of them."""
        raise NotSupported("Totals are counted for as long as the data directory lives.")

    async def _sum(self, word: str, **fixed: Any) -> Response:
        counts = [
            await self._count(word, queue, **fixed) for queue in await self._overview.queue_names()
        ]
        return _data(sum(counts))

    async def _count(self, word: str, queue: str, **fixed: Any) -> int:
        ask = http_requests.ask_with_parameters(BY_WORD[word], {"queue": queue}, {}, **fixed)
        reply = members_of(await self._commands.ask(ask))
        return decode(bytes(reply["count"]), int, json=True)

    # --- history and workers

    async def history(self, _request: Request, _visitor: Visitor) -> Response:
        """Give the figures of the last minutes."""
        return _data(await self._overview.history())

    async def heartbeat(self, request: Request, _visitor: Visitor) -> Response:
        """Note that a worker is there."""
        http_requests.check_content_type(request)
        body = await http_requests.read_body(request)
        http_requests.check_json(body)
        try:
            told = msgspec.json.decode(body, type=Registration, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidRequest(detail=str(error)) from None
        await self._commands.ask(
            heartbeat_of(request.path_params["worker"], told, self._shard_count)
        )
        return _data(None)

    async def push_incoming(self, request: Request, visitor: Visitor) -> Response:
        """Push what somebody else's webhook sends, as it is."""
        http_requests.check_content_type(request)
        body = await http_requests.read_body(request)
        http_requests.check_json(body)
        ask = http_requests.ask_with_body(
            BY_WORD["PUSH"], request.path_params, b'{"data":%b}' % body
        )
        visitor.check(ask)
        return await self._commands.push(ask)

    # --- the cluster that this is not

    async def nodes(self, _request: Request, _visitor: Visitor) -> Response:
        """List the one node that there is."""
        return _data(
            [
                {
                    "node_id": "standalone",
                    "host": "localhost",
                    "port": self._place().http_port,
                    "is_leader": True,
                    "last_heartbeat": self._wall_ms(),
                    "started_at": self._started_ms,
                }
            ]
        )

    async def no_nodes(self, _request: Request, _visitor: Visitor) -> Response:
        """List no nodes of a cluster."""
        return _data([])

    async def no_node(self, _request: Request, _visitor: Visitor) -> Response:
        """Give no node of a cluster."""
        return _data(None)

    async def cluster_metrics(self, _request: Request, _visitor: Visitor) -> Response:
        """Count nothing."""
        return _data(
            {
                "total_nodes": 0,
                "active_nodes": 0,
                "leader_node": None,
                "total_jobs_processing": 0,
                "total_jobs_completed": 0,
                "total_jobs_failed": 0,
                "cluster_throughput_per_sec": 0.0,
                "avg_cluster_latency_ms": 0.0,
            }
        )

    async def strategy(self, _request: Request, _visitor: Visitor) -> Response:
        """Name the way in which a single node balances."""
        return _data({"strategy": "LeastConnections"})

    async def set_strategy(self, request: Request, _visitor: Visitor) -> Response:
        """Refuse: there is nothing to balance."""
        http_requests.check_content_type(request)
        body = await http_requests.read_body(request)
        http_requests.check_json(body)
        try:
            told = msgspec.json.decode(body, type=_Strategy)
        except msgspec.ValidationError as error:
            raise InvalidRequest(detail=str(error)) from None
        if told.strategy not in STRATEGIES:
            raise ParameterInvalid(detail=f"`strategy` is one of {', '.join(STRATEGIES)}")
        raise NotSupported("Cluster mode not enabled")


class _Strategy(msgspec.Struct):
    strategy: str


def _data(data: Any) -> Response:
    return respond(envelope(encode_json(data)))
