"""The lanes of a router: one to each shard, one to the coordinator, and which headers name them."""

from __future__ import annotations

from collections.abc import Sequence

from flashq.protocol.framing import CLIENT_FLAG_SETS, ROUTE_COORDINATOR, pack_header
from flashq.router.outbox import Lane
from flashq.router.routing import COORDINATOR_ROUTING_ID, shard_routing_id


def lanes_to(shard_count: int) -> list[Lane]:
    """Return a lane to each shard, by number, and behind them the one to the coordinator."""
    lanes = [Lane(shard_routing_id(shard)) for shard in range(shard_count)]
    return [*lanes, Lane(COORDINATOR_ROUTING_ID)]


def direct_lanes(lanes: Sequence[Lane]) -> dict[bytes, Lane]:
    """Return the lanes by the first four bytes of a client's header that goes there as it is."""
    routes = [*enumerate(lanes[:-1]), (ROUTE_COORDINATOR, lanes[-1])]
    return {
        pack_header(flags, route, 0)[:4]: lane
        for flags in CLIENT_FLAG_SETS
        for route, lane in routes
    }
