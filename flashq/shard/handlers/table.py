"""Which handler decides which command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from flashq.protocol import jobs, leases, queues, server
from flashq.shard.context import Context, Decision
from flashq.shard.handlers import changing, inspecting, leasing, plain, producing
from flashq.shard.handlers import queues as queue_handlers
from flashq.shard.outbox import Origin

Handler = Callable[[Context, Any, Origin], Decision]

HANDLERS: Final[dict[type, Handler]] = {
    jobs.Push: producing.push,
    jobs.PlainPush: plain.push_plain,
    jobs.PushBatch: producing.push_batch,
    jobs.PlainPushBatch: plain.push_plain_batch,
    jobs.PayloadBatch: plain.push_payloads,
    jobs.Flow: producing.push_flow,
    jobs.GetChildren: producing.get_children,
    leases.Ack: leasing.ack,
    leases.AckBatch: leasing.ack_batch,
    leases.Fail: leasing.fail,
    leases.Release: leasing.release,
    leases.HeartbeatJob: leasing.heartbeat_job,
    leases.SetProgress: leasing.set_progress,
    leases.GetProgress: leasing.get_progress,
    leases.MoveToDelayed: leasing.move_to_delayed,
    jobs.GetJob: inspecting.get_job,
    jobs.GetState: inspecting.get_state,
    jobs.GetResult: inspecting.get_result,
    jobs.GetJobByCustomId: inspecting.get_job_by_custom_id,
    jobs.GetJobsBatch: inspecting.get_jobs_batch,
    jobs.GetJobs: inspecting.get_jobs,
    jobs.Log: inspecting.log,
    jobs.GetLogs: inspecting.get_logs,
    jobs.Cancel: changing.cancel,
    jobs.ChangePriority: changing.change_priority,
    jobs.Promote: changing.promote,
    jobs.UpdateJob: changing.update,
    jobs.Discard: changing.discard,
    queues.Pause: queue_handlers.pause,
    queues.Resume: queue_handlers.resume,
    queues.IsPaused: queue_handlers.is_paused,
    queues.SetRateLimit: queue_handlers.set_rate_limit,
    queues.ClearRateLimit: queue_handlers.clear_rate_limit,
    queues.SetConcurrency: queue_handlers.set_concurrency,
    queues.ClearConcurrency: queue_handlers.clear_concurrency,
    queues.QueueConfig: queue_handlers.configure,
    queues.Drain: queue_handlers.drain,
    queues.Obliterate: queue_handlers.obliterate,
    queues.Clean: queue_handlers.clean,
    queues.Count: queue_handlers.count,
    queues.GetJobCounts: queue_handlers.get_job_counts,
    queues.ListQueues: queue_handlers.list_queues,
    queues.GetDlq: queue_handlers.get_dlq,
    queues.RetryDlq: queue_handlers.retry_dlq,
    queues.PurgeDlq: queue_handlers.purge_dlq,
    server.Stats: queue_handlers.stats,
    server.GetMetrics: queue_handlers.metrics,
}
"""What decides each command; those that may have to wait are the engine's own."""
