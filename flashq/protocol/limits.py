"""The bounds and times a shard engine works within, each with its range, unit and meaning.

Pure data: an engine receives one `EngineLimits` and never reads a setting. `flashq.config.Settings`
extends these structs, so a limit is declared here and nowhere else. Every unit is last in its name.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
DAY_MS: Final = 24 * 3600 * 1000


STORAGE_AHEAD_BYTES: Final = 128 * MIB
"""A storage that has more than this written ahead is worth a warning: somebody reads it and does
not end."""


class EngineLimits(Struct, frozen=True, kw_only=True):
    """What bounds one shard. The defaults are those of a server that nobody has configured."""

    payload_bytes_max: Annotated[
        int,
        Meta(
            ge=1,
            le=256 * MIB,
            description="Largest payload of a job, measured as it was received.",
        ),
    ] = MIB
    batch_jobs_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Most jobs or ids in one request.")
    ] = 10_000
    queue_name_bytes_max: Annotated[
        int, Meta(ge=1, le=4096, description="Longest queue name in UTF-8.")
    ] = 256
    depends_on_max: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Most dependencies of one job, and most children of one flow.",
        ),
    ] = 1000
    job_logs_max: Annotated[
        int,
        Meta(ge=0, le=100_000, description="Log lines kept for one job; the oldest go first."),
    ] = 100

    shard_jobs_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000_000,
            description="Most unfinished jobs in one shard; above it a push is answered `busy`.",
        ),
    ] = 10_000_000
    shard_bytes_max: Annotated[
        int,
        Meta(
            ge=MIB,
            le=1024 * GIB,
            description="Most payload in one shard; above it a push is answered `busy`.",
        ),
    ] = 4 * GIB
    unsafe_bytes_max: Annotated[
        int,
        Meta(
            ge=MIB,
            le=64 * GIB,
            description="Records a shard keeps that storage does not hold yet; "
            "above it a change is answered `busy`.",
        ),
    ] = 256 * MIB
    log_bytes_max: Annotated[
        int,
        Meta(
            ge=MIB,
            le=1024 * GIB,
            description="Log of all shards that storage keeps until checkpoints replace it; above "
            "it changes are answered `busy` until they have.",
        ),
    ] = 4 * GIB
    storage_wait_ms: Annotated[
        int,
        Meta(
            ge=1000,
            le=600_000,
            description="How long changes wait for storage before further ones are answered "
            "`storage unavailable`.",
        ),
    ] = 30_000
    waiters_max: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="Pulls and waits parked in one shard; above it they are answered `busy`.",
        ),
    ] = 100_000
    sessions_max: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="Live client sessions in one process; above it a hello is answered `busy`.",
        ),
    ] = 100_000

    dlq_jobs_max: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000_000,
            description="Dead letters kept per shard; the oldest go first, and are counted.",
        ),
    ] = 100_000
    completed_jobs_max: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="Completed jobs kept per shard that did not ask for it; the oldest go "
            "first.",
        ),
    ] = 50_000
    results_max: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="Results kept per shard of jobs that did not ask for it; the oldest go "
            "first.",
        ),
    ] = 5000
    retained_jobs_max: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="Most jobs in one shard that asked to be kept once completed "
            "(keep_completed_age, keep_completed_count); above it such a push is refused.",
        ),
    ] = 100_000
    outcomes_max: Annotated[
        int,
        Meta(
            ge=1000,
            le=100_000_000,
            description="Ended ids whose outcome a shard remembers for jobs that depend on them.",
        ),
    ] = 100_000

    heartbeat_interval_ms: Annotated[
        int, Meta(ge=100, le=60_000, description="How often a client says that it lives.")
    ] = 2000
    session_timeout_ms: Annotated[
        int,
        Meta(
            ge=500,
            le=600_000,
            description="Silence after which a session is dead and its jobs go back.",
        ),
    ] = 10_000
    stall_timeout_ms: Annotated[
        int,
        Meta(
            ge=100,
            le=DAY_MS,
            description="Lease of a job without session or `stall_timeout` of its own.",
        ),
    ] = 30_000
    answers_ms: Annotated[
        int,
        Meta(
            ge=1000,
            le=DAY_MS,
            description="How long the answers of a silent session are kept for a repeat.",
        ),
    ] = 300_000
    sequence_block: Annotated[
        int,
        Meta(
            ge=1024,
            le=2**32,
            description="Sequence numbers for job ids that a shard reserves at a time.",
            extra={"unit": "ids"},
        ),
    ] = 1_048_576


class WebhookLimits(EngineLimits, frozen=True, kw_only=True):
    """What bounds webhooks, beside the limits that hold everywhere."""

    webhooks_max: Annotated[
        int, Meta(ge=0, le=100_000, description="Most webhooks.", extra={"unit": "webhooks"})
    ] = 1000
    webhook_queue_deliveries_max: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="Most that a webhook is still to be told; the oldest of more are dead.",
        ),
    ] = 10_000
    webhook_queue_bytes_max: Annotated[
        int,
        Meta(
            ge=MIB,
            le=64 * GIB,
            description="Size of what a webhook is still to be told, and of its dead deliveries.",
        ),
    ] = 64 * MIB
    webhook_dead_deliveries_max: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Dead deliveries kept of a webhook; the oldest go first, and are counted.",
        ),
    ] = 1000
    webhook_attempts_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="How often a webhook is told something before the delivery is dead.",
        ),
    ] = 10
    webhook_backoff_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=600_000,
            description="Time to a webhook's second attempt; twice as long after each further one.",
        ),
    ] = 1000
    webhook_lease_ms: Annotated[
        int,
        Meta(
            ge=1000,
            le=600_000,
            description="Time after which the webhooks of a silent gateway go to another one.",
        ),
    ] = 6000
    webhook_timeout_ms: Annotated[
        int, Meta(ge=1, le=600_000, description="Time that a webhook has to answer.")
    ] = 10_000
    webhook_private_targets: Annotated[
        bool,
        Meta(
            description="Let webhooks lead to loopback, private and link-local addresses. Whoever "
            "may add one can then send requests into the server's own network."
        ),
    ] = False
