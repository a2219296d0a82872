"""Commands about crons: pushes that the coordinator makes by a schedule."""

from __future__ import annotations

from typing import Final

from msgspec import Raw

from flashq.protocol.base import I32, Mutation, Reply, Request, Unsigned
from flashq.protocol.command import Role, Scope, command, reading
from flashq.protocol.objects import CronJob


class SetCron(Mutation, kw_only=True, omit_defaults=True, tag="CRON"):
    """Adds or replaces the cron `name`.

    `schedule` has five fields, six with seconds first, or is `*/N` for every N seconds;
    `repeat_every` is milliseconds and decides the timing when both are given. `tz` is an IANA time
    zone (default UTC). After `limit` firings the cron is gone.
    """

    name: str
    queue: str
    data: Raw
    schedule: str | None = None
    repeat_every: Unsigned | None = None
    priority: I32 | None = None
    limit: Unsigned | None = None
    tz: str | None = None


class DeleteCron(Mutation, kw_only=True, tag="CRONDELETE"):
    name: str


class ListCrons(Request, kw_only=True, tag="CRONLIST"):
    pass


class CronsReply(Reply, kw_only=True):
    crons: list[CronJob]


COMMANDS: Final = (
    command(
        SetCron,
        Reply,
        Scope.COORDINATOR,
        Role.ADMIN,
        "add_cron",
        "Adds or replaces a cron.",
        ("POST", "/crons/{name}"),
    ),
    command(
        DeleteCron,
        Reply,
        Scope.COORDINATOR,
        Role.ADMIN,
        "delete_cron",
        "Removes a cron.",
        ("DELETE", "/crons/{name}"),
    ),
    reading(
        ListCrons,
        CronsReply,
        Scope.COORDINATOR,
        "list_crons",
        "Lists all crons.",
        ("GET", "/crons"),
    ),
)
