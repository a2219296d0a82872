"""Commands about crons: pushes that the coordinator makes by a schedule."""

from __future__ import annotations

from typing import Final

from msgspec import Raw

from flashq.protocol.base import (
    Mutation,
    OptionalRaw,
    Reply,
    Request,
    SessionId,
    Text,
    Unsigned,
    Within,
)
from flashq.protocol.command import Role, Scope, command, reading
from flashq.protocol.jobs import JobOptions
from flashq.protocol.paging import Limit


class SetCron(
    JobOptions,
    kw_only=True,
    omit_defaults=True,
    tag_field="cmd",
    tag="CRON",
    forbid_unknown_fields=True,
):
    """Adds or replaces the cron `name`. Set again with nothing changed, it goes on as it was.

    `schedule` has five fields, six with seconds first, is `*/N` for every N seconds, or one of
    `@yearly`, `@annually`, `@monthly`, `@weekly`, `@daily`, `@midnight` and `@hourly`;
    `repeat_every` is milliseconds and decides the timing when both are given. A cron whose timing
    stays keeps its next run. `tz` is an IANA time zone (default UTC). After `limit` firings the
    cron is gone. The options are those of the jobs it pushes, all but `depends_on`. A firing that
    `unique_key`, `job_id` or `debounce_id` makes a repeat adds no job.
    """

    # The last five are those of `Mutation`: a Struct cannot inherit them beside the options.
    name: Text
    queue: str
    data: Raw
    schedule: Text | None = None
    repeat_every: Unsigned | None = None
    limit: Unsigned | None = None
    tz: Text | None = None
    session: SessionId | None = None
    n: Unsigned | None = None
    done_below: Unsigned | None = None
    within: Within | None = None
    reqId: OptionalRaw = None  # noqa: N815


class CronJob(JobOptions, kw_only=True, omit_defaults=True):
    """A cron, with the options of its jobs. `next_run` is Unix milliseconds; `tz` is an IANA time
    zone, absent when none was given."""

    name: str
    queue: str
    data: Raw
    schedule: str | None
    repeat_every: int | None
    next_run: int
    executions: int
    limit: int | None
    tz: str | None = None


class DeleteCron(Mutation, kw_only=True, tag="CRONDELETE"):
    name: Text


class ListCrons(Request, kw_only=True, omit_defaults=True, tag="CRONLIST"):
    """Gives crons by name, at most `limit` (1,000) of those behind `after`, and about 4 MiB."""

    limit: Limit | None = None
    after: Text | None = None


class CronsReply(Reply, kw_only=True, omit_defaults=True):
    """The next page is behind `next`, which is absent with the last one."""

    ok: bool
    crons: list[CronJob]
    next: str | None = None


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
