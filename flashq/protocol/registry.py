"""The registry: every command once, as data.

From a command's record are derived: dispatch, decoders, routing, the SDK's and the command line's
coverage (checked by tests), metrics labels and the command table of the docs. Adding a command is
its record here and its handler, nothing else.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from msgspec import Struct

from flashq.protocol import crons, jobs, leases, queues, server, sessions
from flashq.protocol.base import CountReply, Reply


class Scope(Enum):
    """Who carries a command out."""

    QUEUE = "the shard of its `queue`"
    JOB = "the shard of its job id"
    JOBS = "the shards of its `ids`, gathered"
    QUEUE_OR_ALL = "the shard of its `queue`, or without one all shards, gathered"
    ALL = "all shards, gathered"
    COORDINATOR = "the coordinator"
    ROUTER = "the router; a shard too, where it is asked itself"


class Role(Enum):
    """The least that a token must allow."""

    READ = "read"
    PRODUCER = "producer"
    WORKER = "worker"
    ADMIN = "admin"
    ANYONE = "anyone"


class Command(Struct, frozen=True, kw_only=True):
    """One command.

    Args:
        word: its name on the wire.
        request, reply: the bodies' types.
        scope: who carries it out.
        mutates: whether it changes state.
        waits: whether its answer may come much later than its request.
        role: the least that a token must allow.
        method: the client's method for it.
        http: method and path, for the HTTP door.
        summary: one sentence for docs and help.
    """

    word: str
    request: type[Struct]
    reply: type[Reply]
    scope: Scope
    mutates: bool
    role: Role
    method: str
    summary: str
    http: tuple[str, str] | None = None
    waits: bool = False

    @property
    def id_field(self) -> str:
        """The field that names the job, for scope JOB."""
        return "parent_id" if "parent_id" in self.request.__struct_fields__ else "id"


def _command(
    request: type[Struct],
    reply: type[Reply],
    scope: Scope,
    role: Role,
    method: str,
    summary: str,
    http: tuple[str, str] | None = None,
    *,
    mutates: bool = True,
    waits: bool = False,
) -> Command:
    return Command(
        word=str(request.__struct_config__.tag),
        request=request,
        reply=reply,
        scope=scope,
        mutates=mutates,
        role=role,
        method=method,
        summary=summary,
        http=http,
        waits=waits,
    )


def _read(
    request: type[Struct],
    reply: type[Reply],
    scope: Scope,
    method: str,
    summary: str,
    http: tuple[str, str] | None = None,
    *,
    waits: bool = False,
) -> Command:
    return _command(
        request, reply, scope, Role.READ, method, summary, http, mutates=False, waits=waits
    )


COMMANDS: Final[tuple[Command, ...]] = (
    # producing
    _command(
        jobs.Push,
        jobs.PushReply,
        Scope.QUEUE,
        Role.PRODUCER,
        "push",
        "Adds a job to a queue.",
        ("POST", "/queues/{queue}/jobs"),
    ),
    _command(
        jobs.PushBatch,
        jobs.PushBatchReply,
        Scope.QUEUE,
        Role.PRODUCER,
        "push_batch",
        "Adds many jobs to a queue; each entry succeeds or fails by itself.",
        ("POST", "/queues/{queue}/jobs/batch"),
    ),
    _command(
        jobs.Flow,
        jobs.FlowReply,
        Scope.QUEUE,
        Role.PRODUCER,
        "push_flow",
        "Adds a parent job that runs when all its children have ended.",
        ("POST", "/queues/{queue}/flows"),
    ),
    _read(
        jobs.GetChildren,
        jobs.ChildrenReply,
        Scope.JOB,
        "get_children",
        "Gives a flow parent's children and how many have completed.",
        ("GET", "/jobs/{id}/children"),
    ),
    # consuming
    _command(
        leases.Pull,
        leases.PullReply,
        Scope.QUEUE,
        Role.WORKER,
        "pull",
        "Takes the next job of a queue, and waits for one.",
        waits=True,
    ),
    _command(
        leases.PullBatch,
        leases.PullBatchReply,
        Scope.QUEUE,
        Role.WORKER,
        "pull_batch",
        "Takes up to `count` jobs of a queue, and waits for the first.",
        ("GET", "/queues/{queue}/jobs"),
        waits=True,
    ),
    _command(
        leases.Ack,
        Reply,
        Scope.JOB,
        Role.WORKER,
        "ack",
        "Completes an active job, with a result or without.",
        ("POST", "/jobs/{id}/ack"),
    ),
    _command(
        leases.AckBatch,
        leases.AckBatchReply,
        Scope.JOBS,
        Role.WORKER,
        "ack_batch",
        "Completes many active jobs.",
        ("POST", "/jobs/ack"),
    ),
    _command(
        leases.Fail,
        Reply,
        Scope.JOB,
        Role.WORKER,
        "fail",
        "Ends an active job's attempt: it is retried, or goes to the dead letters.",
        ("POST", "/jobs/{id}/fail"),
    ),
    _command(
        leases.Release,
        CountReply,
        Scope.JOBS,
        Role.WORKER,
        "release",
        "Gives active jobs back to their queue without counting an attempt.",
        ("POST", "/jobs/release"),
    ),
    _command(
        leases.HeartbeatJob,
        Reply,
        Scope.JOB,
        Role.WORKER,
        "heartbeat",
        "Says that an active job is still being worked on.",
        ("POST", "/jobs/{id}/heartbeat"),
    ),
    _command(
        leases.SetProgress,
        Reply,
        Scope.JOB,
        Role.WORKER,
        "progress",
        "Sets an active job's progress, 0 to 100, and a message.",
        ("POST", "/jobs/{id}/progress"),
    ),
    _read(
        leases.GetProgress,
        leases.ProgressReply,
        Scope.JOB,
        "get_progress",
        "Gives an active job's progress.",
        ("GET", "/jobs/{id}/progress"),
    ),
    _command(
        leases.MoveToDelayed,
        Reply,
        Scope.JOB,
        Role.WORKER,
        "move_to_delayed",
        "Puts an active job back, to run after `delay` ms.",
        ("POST", "/jobs/{id}/move-to-delayed"),
    ),
    _command(
        jobs.Log,
        Reply,
        Scope.JOB,
        Role.WORKER,
        "log",
        "Adds an entry to a job's log.",
        ("POST", "/jobs/{id}/logs"),
    ),
    _read(
        jobs.GetLogs,
        jobs.LogsReply,
        Scope.JOB,
        "get_logs",
        "Gives a job's log, oldest entry first.",
        ("GET", "/jobs/{id}/logs"),
    ),
    # inspecting
    _read(
        jobs.GetJob,
        jobs.JobReply,
        Scope.JOB,
        "get_job",
        "Gives a job and its state.",
        ("GET", "/jobs/{id}"),
    ),
    _read(
        jobs.GetState,
        jobs.StateReply,
        Scope.JOB,
        "get_state",
        "Gives a job's state.",
        ("GET", "/jobs/{id}/state"),
    ),
    _read(
        jobs.GetResult,
        jobs.ResultReply,
        Scope.JOB,
        "get_result",
        "Gives a completed job's result.",
        ("GET", "/jobs/{id}/result"),
    ),
    _read(
        jobs.WaitJob,
        jobs.WaitReply,
        Scope.JOB,
        "finished",
        "Waits for a job's end and gives its result.",
        ("GET", "/jobs/{id}/wait"),
        waits=True,
    ),
    _read(
        jobs.GetJobByCustomId,
        jobs.JobReply,
        Scope.QUEUE_OR_ALL,
        "get_job_by_custom_id",
        "Finds a job by the id that its push gave it.",
        ("GET", "/jobs/by-custom-id/{job_id}"),
    ),
    _read(
        jobs.GetJobsBatch,
        jobs.JobsReply,
        Scope.JOBS,
        "get_jobs_batch",
        "Gives many jobs by id, in the order asked for.",
        ("POST", "/jobs/get"),
    ),
    _read(
        jobs.GetJobs,
        jobs.JobsReply,
        Scope.QUEUE_OR_ALL,
        "get_jobs",
        "Lists jobs by queue and state, newest first, with the exact total.",
        ("GET", "/jobs"),
    ),
    _read(
        queues.GetJobCounts,
        queues.JobCountsReply,
        Scope.QUEUE,
        "get_job_counts",
        "Counts a queue's jobs by state.",
        ("GET", "/queues/{queue}/counts"),
    ),
    _read(
        queues.Count,
        CountReply,
        Scope.QUEUE,
        "count",
        "Counts a queue's waiting and delayed jobs.",
        ("GET", "/queues/{queue}/count"),
    ),
    # changing
    _command(
        jobs.Cancel,
        Reply,
        Scope.JOB,
        Role.PRODUCER,
        "cancel",
        "Removes a job that has not ended.",
        ("POST", "/jobs/{id}/cancel"),
    ),
    _command(
        jobs.ChangePriority,
        Reply,
        Scope.JOB,
        Role.PRODUCER,
        "change_priority",
        "Changes a job's priority.",
        ("POST", "/jobs/{id}/priority"),
    ),
    _command(
        jobs.Promote,
        Reply,
        Scope.JOB,
        Role.PRODUCER,
        "promote",
        "Makes a delayed job ready now.",
        ("POST", "/jobs/{id}/promote"),
    ),
    _command(
        jobs.UpdateJob,
        Reply,
        Scope.JOB,
        Role.PRODUCER,
        "update",
        "Replaces a job's payload.",
        ("PUT", "/jobs/{id}"),
    ),
    _command(
        jobs.Discard,
        Reply,
        Scope.JOB,
        Role.PRODUCER,
        "discard",
        "Sends a job to the dead letters.",
        ("POST", "/jobs/{id}/discard"),
    ),
    # queues
    _command(
        queues.Pause,
        Reply,
        Scope.QUEUE,
        Role.ADMIN,
        "pause",
        "Stops deliveries from a queue.",
        ("POST", "/queues/{queue}/pause"),
    ),
    _command(
        queues.Resume,
        Reply,
        Scope.QUEUE,
        Role.ADMIN,
        "resume",
        "Lets a paused queue deliver again.",
        ("POST", "/queues/{queue}/resume"),
    ),
    _read(
        queues.IsPaused,
        queues.PausedReply,
        Scope.QUEUE,
        "is_paused",
        "Tells whether a queue is paused.",
        ("GET", "/queues/{queue}/paused"),
    ),
    _command(
        queues.SetRateLimit,
        Reply,
        Scope.QUEUE,
        Role.ADMIN,
        "set_rate_limit",
        "Limits a queue's deliveries a second.",
        ("POST", "/queues/{queue}/rate-limit"),
    ),
    _command(
        queues.ClearRateLimit,
        Reply,
        Scope.QUEUE,
        Role.ADMIN,
        "clear_rate_limit",
        "Lifts a queue's rate limit.",
        ("DELETE", "/queues/{queue}/rate-limit"),
    ),
    _command(
        queues.SetConcurrency,
        Reply,
        Scope.QUEUE,
        Role.ADMIN,
        "set_concurrency",
        "Limits how many of a queue's jobs are active at a time.",
        ("POST", "/queues/{queue}/concurrency"),
    ),
    _command(
        queues.ClearConcurrency,
        Reply,
        Scope.QUEUE,
        Role.ADMIN,
        "clear_concurrency",
        "Lifts a queue's concurrency limit.",
        ("DELETE", "/queues/{queue}/concurrency"),
    ),
    _command(
        queues.QueueConfig,
        queues.QueueConfigReply,
        Scope.QUEUE,
        Role.ADMIN,
        "queue_config",
        "Sets and gives a queue's defaults.",
        ("POST", "/queues/{queue}/config"),
    ),
    _command(
        queues.Drain,
        CountReply,
        Scope.QUEUE,
        Role.ADMIN,
        "drain",
        "Removes a queue's waiting and delayed jobs.",
        ("POST", "/queues/{queue}/drain"),
    ),
    _command(
        queues.Obliterate,
        CountReply,
        Scope.QUEUE,
        Role.ADMIN,
        "obliterate",
        "Removes a queue and everything in it.",
        ("DELETE", "/queues/{queue}"),
    ),
    _command(
        queues.Clean,
        CountReply,
        Scope.QUEUE,
        Role.ADMIN,
        "clean",
        "Removes a queue's old jobs in one state.",
        ("POST", "/queues/{queue}/clean"),
    ),
    _read(
        queues.ListQueues,
        queues.QueuesReply,
        Scope.ALL,
        "list_queues",
        "Lists all queues.",
        ("GET", "/queues"),
    ),
    # dead letters
    _read(
        queues.GetDlq,
        queues.DlqReply,
        Scope.QUEUE,
        "get_dlq",
        "Lists a queue's dead letters, oldest failure first.",
        ("GET", "/queues/{queue}/dlq"),
    ),
    _command(
        queues.RetryDlq,
        queues.RetriedReply,
        Scope.QUEUE,
        Role.ADMIN,
        "retry_dlq",
        "Puts one dead letter, or all of a queue, back to work.",
        ("POST", "/queues/{queue}/dlq/retry"),
    ),
    _command(
        queues.PurgeDlq,
        CountReply,
        Scope.QUEUE,
        Role.ADMIN,
        "purge_dlq",
        "Removes a queue's dead letters.",
        ("DELETE", "/queues/{queue}/dlq"),
    ),
    # crons
    _command(
        crons.SetCron,
        Reply,
        Scope.COORDINATOR,
        Role.ADMIN,
        "add_cron",
        "Adds or replaces a cron.",
        ("POST", "/crons/{name}"),
    ),
    _command(
        crons.DeleteCron,
        Reply,
        Scope.COORDINATOR,
        Role.ADMIN,
        "delete_cron",
        "Removes a cron.",
        ("DELETE", "/crons/{name}"),
    ),
    _read(
        crons.ListCrons,
        crons.CronsReply,
        Scope.COORDINATOR,
        "list_crons",
        "Lists all crons.",
        ("GET", "/crons"),
    ),
    # server
    _read(
        server.Stats,
        server.StatsReply,
        Scope.ALL,
        "stats",
        "Counts all jobs by state, and gives each shard's condition.",
        ("GET", "/stats"),
    ),
    _read(
        server.GetMetrics,
        server.MetricsReply,
        Scope.ALL,
        "metrics",
        "Gives the totals and each queue's counts.",
        ("GET", "/metrics"),
    ),
    # connection
    _command(
        sessions.Hello,
        sessions.HelloReply,
        Scope.ROUTER,
        Role.ANYONE,
        "connect",
        "Makes the client known, and tells it how to talk to the server.",
        mutates=False,
    ),
    _command(
        sessions.Heartbeat,
        sessions.HeartbeatReply,
        Scope.ROUTER,
        Role.ANYONE,
        "connect",
        "Says that the session lives, and which leases it holds.",
        mutates=False,
    ),
    _command(
        sessions.Goodbye,
        Reply,
        Scope.ROUTER,
        Role.ANYONE,
        "close",
        "Ends the session and gives its jobs back.",
    ),
    _command(
        sessions.Auth,
        Reply,
        Scope.ROUTER,
        Role.ANYONE,
        "auth",
        "Shows a token.",
        mutates=False,
    ),
    _command(
        sessions.Subscribe,
        Reply,
        Scope.ROUTER,
        Role.READ,
        "subscribe",
        "Asks for a queue's events.",
        mutates=False,
    ),
    _command(
        sessions.Unsubscribe,
        Reply,
        Scope.ROUTER,
        Role.READ,
        "subscribe",
        "Stops a queue's events.",
        mutates=False,
    ),
)

BY_WORD: Final[dict[str, Command]] = {command.word: command for command in COMMANDS}
BY_REQUEST: Final[dict[type[Any], Command]] = {command.request: command for command in COMMANDS}
WORD_ALIASES: Final[dict[str, str]] = {"UPDATE": "UPDATEJOB"}
"""Words that older documents used."""
