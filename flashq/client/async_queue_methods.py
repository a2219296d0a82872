"""The asyncio form of `queue_methods`.

Generated from flashq/client/queue_methods.py by `python -m tools.generate`; do not edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from flashq.client.arguments import FlowOptions, id_of
from flashq.client.async_caller import AsyncCaller
from flashq.client.calls import WAIT_MARGIN_MS
from flashq.client.checks import made
from flashq.client.results import Cron, CronsFound, Job, JobsFound, Page
from flashq.protocol import crons, queues, server, sessions, webhooks
from flashq.protocol.base import CountReply, Durability, Reply
from flashq.protocol.objects import MetricsPoint, QueueInfo


class AsyncQueueMethods(AsyncCaller):
    """One method for each command that is not about a single job."""

    # --- queues

    async def pause(self, queue: str) -> None:
        """Stop deliveries from a queue."""
        await self._call(queues.Pause(queue=queue), Reply)

    async def resume(self, queue: str) -> None:
        """Let a paused queue deliver again."""
        await self._call(queues.Resume(queue=queue), Reply)

    async def is_paused(self, queue: str) -> bool:
        """Tell whether a queue is paused."""
        return (await self._call(queues.IsPaused(queue=queue), queues.PausedReply)).paused

    async def get_job_counts(self, queue: str) -> queues.JobCountsReply:
        """Return how many jobs of a queue are in each state."""
        return await self._call(queues.GetJobCounts(queue=queue), queues.JobCountsReply)

    async def count(self, queue: str) -> int:
        """Return how many jobs of a queue are waiting or delayed."""
        return (await self._call(queues.Count(queue=queue), CountReply)).count

    async def drain(self, queue: str) -> int:
        """Remove a queue's waiting and delayed jobs, and return how many they were."""
        return (await self._call(queues.Drain(queue=queue), CountReply)).count

    async def obliterate(self, queue: str) -> int:
        """Remove a queue: jobs in every state, keys, limits, pause, and crons that target it.

        Returns:
            How many jobs were removed.
        """
        return (await self._call(queues.Obliterate(queue=queue), CountReply)).count

    async def clean(self, queue: str, grace: int, state: str, *, limit: int | None = None) -> int:
        """Remove old jobs in one state, oldest first.

        Args:
            queue: its name.
            grace: ms: only jobs made at least so long ago.
            state: waiting, delayed, completed or failed.
            limit: at most so many.

        Returns:
            How many were removed.

        Raises:
            StateInvalid: it is another state.
        """
        request = queues.Clean(queue=queue, grace=grace, state=state, limit=limit)
        return (await self._call(request, CountReply)).count

    async def list_queues(
        self,
        *,
        limit: int | None = None,
        after: str | None = None,
        search: str | None = None,
        fullest: bool = False,
    ) -> Page[QueueInfo]:
        """Return queues by name, a page at a time.

        Args:
            limit: at most so many (1,000 by default, 10,000 at most).
            after: those behind this name, which is `next` of the page before.
            search: those with this text in their names, in whatever case.
            fullest: those with most jobs, instead of by name.

        Returns:
            The page. Its `total` counts all that match, `missing_shards` names those that did not
            answer, and `next` is None for the last page.
        """
        request = queues.ListQueues(
            limit=limit, after=after, search=search, fullest=fullest or None
        )
        reply = await self._call(request, queues.QueuesReply)
        return Page(
            reply.queues,
            total=reply.total,
            missing_shards=reply.missing_shards,
            next=reply.next,
        )

    async def set_rate_limit(self, queue: str, limit: int) -> None:
        """Let a queue deliver at most `limit` jobs a second; 0 stops it."""
        await self._call(queues.SetRateLimit(queue=queue, limit=limit), Reply)

    async def clear_rate_limit(self, queue: str) -> None:
        """Lift a queue's rate limit."""
        await self._call(queues.ClearRateLimit(queue=queue), Reply)

    async def set_concurrency(self, queue: str, limit: int) -> None:
        """Let at most `limit` jobs of a queue be active at a time; 0 stops it."""
        await self._call(queues.SetConcurrency(queue=queue, limit=limit), Reply)

    async def clear_concurrency(self, queue: str) -> None:
        """Lift a queue's concurrency limit."""
        await self._call(queues.ClearConcurrency(queue=queue), Reply)

    async def queue_config(
        self,
        queue: str,
        *,
        durability: Durability | None = None,
        keep_completed_age: int | None = None,
        keep_completed_count: int | None = None,
    ) -> queues.QueueConfigReply:
        """Set the named defaults for a queue's later pushes, and return all of them.

        Args:
            queue: its name.
            durability: "durable", "async" or "memory".
            keep_completed_age: ms to keep completed jobs.
            keep_completed_count: how many completed jobs to keep.
        """
        request = queues.QueueConfig(
            queue=queue,
            durability=durability,
            keep_completed_age=keep_completed_age,
            keep_completed_count=keep_completed_count,
        )
        return await self._call(request, queues.QueueConfigReply)

    # --- dead letters

    async def get_dlq(self, queue: str, count: int | None = None) -> list[Job]:
        """Return a queue's dead letters, oldest failure first; at most `count` (100)."""
        return (await self._call(queues.GetDlq(queue=queue, count=count), JobsFound)).jobs

    async def retry_dlq(self, queue: str, job: Job | int | None = None) -> int:
        """Put one dead letter, or all of a queue, back to work; return how many they were."""
        request = queues.RetryDlq(queue=queue, id=None if job is None else id_of(job))
        return (await self._call(request, queues.RetriedReply)).ids[0]

    async def purge_dlq(self, queue: str) -> int:
        """Remove a queue's dead letters; return how many they were."""
        return (await self._call(queues.PurgeDlq(queue=queue), CountReply)).count

    # --- crons

    async def add_cron(
        self,
        name: str,
        queue: str,
        data: Any,
        *,
        schedule: str | None = None,
        repeat_every: int | None = None,
        priority: int = 0,
        limit: int | None = None,
        tz: str | None = None,
        **options: Unpack[FlowOptions],
    ) -> None:
        """Add or replace a cron: a push that the server makes by a schedule.

        The same cron again changes nothing, and one with the same timing keeps its next run: an app
        may set its crons each time it starts.

        Args:
            name: its name.
            queue, data, priority, options: what it pushes, as in `push`, but without `depends_on`.
            schedule: five fields, six with seconds first, `*/N` for every N seconds, or `@yearly`,
                `@monthly`, `@weekly`, `@daily`, `@hourly`.
            repeat_every: ms between firings; it wins over `schedule`.
            limit: firings until it is removed.
            tz: the schedule's IANA time zone; UTC by default.

        Raises:
            CronInvalid: the schedule cannot be read.
        """
        request = made(
            crons.SetCron,
            name=name,
            queue=queue,
            data=data,
            schedule=schedule,
            repeat_every=repeat_every,
            priority=priority or None,
            limit=limit,
            tz=tz,
            **options,
        )
        await self._call(request, Reply)

    async def delete_cron(self, name: str) -> None:
        """Remove a cron.

        Raises:
            CronNotFound: there is none of that name.
        """
        await self._call(crons.DeleteCron(name=name), Reply)

    async def list_crons(self, *, limit: int | None = None, after: str | None = None) -> Page[Cron]:
        """Return crons by name, a page at a time; see `list_queues`."""
        reply = await self._call(crons.ListCrons(limit=limit, after=after), CronsFound)
        return Page(reply.crons, next=reply.next)

    # --- webhooks

    async def add_webhook(
        self,
        url: str,
        events: Sequence[str],
        *,
        queue: str | None = None,
        secret: str | None = None,
        webhook: str | None = None,
    ) -> str:
        """Add a webhook: an address that the server tells, by HTTP, what happens to jobs.

        Args:
            url: http or https.
            events: what it is told of, as in `completed`; `*` for everything.
            queue: only of this queue.
            secret: signs each request.
            webhook: the id of one to replace, which keeps its secret where none is given.

        Returns:
            Its id.

        Raises:
            WebhookInvalid: the address or an event is none.
            WebhookNotFound: there is none to replace.
        """
        request = webhooks.SetWebhook(
            url=url, events=list(events), queue=queue, secret=secret, webhook=webhook
        )
        return (await self._call(request, webhooks.WebhookReply)).id

    async def delete_webhook(self, webhook: str) -> None:
        """Remove a webhook, and everything that it was still to be told.

        Raises:
            WebhookNotFound: there is none of that id.
        """
        await self._call(webhooks.DeleteWebhook(webhook=webhook), Reply)

    async def list_webhooks(
        self, *, limit: int | None = None, after: str | None = None
    ) -> Page[webhooks.WebhookView]:
        """Return webhooks by id, a page at a time, without their secrets; see `list_queues`."""
        request = webhooks.ListWebhooks(limit=limit, after=after)
        reply = await self._call(request, webhooks.WebhooksReply)
        return Page(reply.webhooks, next=reply.next)

    async def webhook_dead(
        self, webhook: str | None = None, *, limit: int | None = None
    ) -> list[webhooks.DeadDelivery]:
        """Return what a webhook, or any, could not be told, oldest first.

        Args:
            webhook: its id.
            limit: at most so many (100 by default).

        Raises:
            WebhookNotFound: there is none of that id.
        """
        request = webhooks.GetDeadDeliveries(webhook=webhook, limit=limit)
        return (await self._call(request, webhooks.DeadDeliveriesReply)).deliveries

    async def retry_webhook(self, webhook: str | None = None, delivery: int | None = None) -> int:
        """Have a webhook, or all, told again what could not be told, and return how much that is.

        Args:
            webhook: its id.
            delivery: only this one.

        Raises:
            WebhookNotFound: there is none of that id.
        """
        request = webhooks.RetryDeadDeliveries(webhook=webhook, delivery=delivery)
        return (await self._call(request, CountReply)).count

    async def pull_deliveries(
        self,
        holder: bytes,
        call: int,
        *,
        held: Sequence[int] = (),
        timeout: int = 0,
        renew_only: bool = False,
    ) -> webhooks.WebhookLease | None:
        """Lease a webhook to deliver to, as gateways do; for a deliverer of your own.

        Args:
            holder: 16 random bytes that say who asks.
            call: rises with each call.
            held: tokens of the leases it works on; its others are void.
            timeout: ms to wait for one.
            renew_only: take nothing new.

        Returns:
            The lease; None when nothing came in time.
        """
        request = webhooks.PullDeliveries(
            holder=holder,
            call=call,
            held=list(held),
            timeout=timeout,
            renew_only=renew_only or None,
        )
        within = timeout + WAIT_MARGIN_MS
        return (await self._call(request, webhooks.PullDeliveriesReply, within=within)).lease

    async def deliveries_done(
        self,
        token: int,
        delivered: int = 0,
        *,
        failed: int = 0,
        reason: str | None = None,
        more: bool = False,
    ) -> None:
        """Report on a lease of a webhook.

        Args:
            token: of the lease.
            delivered: it was told everything up to this.
            failed: telling this did not succeed.
            reason: why not.
            more: the lease goes on.

        Raises:
            WebhookLeaseLost: it has ended.
        """
        request = webhooks.DeliveriesDone(
            token=token,
            delivered=delivered or None,
            failed=failed or None,
            reason=reason,
            more=more or None,
        )
        await self._call(request, Reply)

    # --- server

    async def stats(self) -> server.StatsReply:
        """Return how many jobs are in each state, and each shard's condition."""
        return await self._call(server.Stats(), server.StatsReply)

    async def list_workers(
        self, *, limit: int | None = None, after: str | None = None
    ) -> Page[server.WorkerInfo]:
        """Return workers heard of in the last 30 s, whatever door they use: by id, a page at a
        time; see `list_queues`."""
        reply = await self._call(server.ListWorkers(limit=limit, after=after), server.WorkersReply)
        return Page(reply.workers, missing_shards=reply.missing_shards, next=reply.next)

    async def metrics_history(self) -> list[MetricsPoint]:
        """Return a point for every 5 s of the last 5 minutes, oldest first."""
        return (await self._call(server.GetMetricsHistory(), server.MetricsHistoryReply)).points

    async def metrics(self, *, queues: int | None = None) -> server.MetricsReply:
        """Return the totals, and the counts of those queues that have most jobs, in its `metrics`.

        Args:
            queues: of how many (1,000 by default).
        """
        return await self._call(server.GetMetrics(queues=queues), server.MetricsReply)

    async def auth(self, token: str) -> None:
        """Show a token, now and after every reconnect.

        Raises:
            TokenInvalid: the server does not know it.
        """
        self._use_token(token)
        await self._call(sessions.Auth(token=token), Reply)
