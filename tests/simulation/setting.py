"""How one run is set up: sizes, limits and levels, all drawn from the seed.

Limits are far smaller than those of a server, so that a short run comes to all of them.
"""

from __future__ import annotations

from random import Random
from typing import Final

from flashq.ids import shard_of_queue
from flashq.protocol.limits import MIB, EngineLimits, WebhookLimits
from flashq.shard.identity import Identity
from flashq.version import __version__
from tests.simulation.network import Weather

QUEUES: Final = tuple(f"queue-{number}" for number in range(7))


class Setting:
    """One run's.

    Args:
        chance: the run's.
    """

    version: Final = __version__
    config_hash: Final = "simulated"
    message_bytes_max: Final = MIB
    gather_timeout_ms: Final = 500

    def __init__(self, chance: Random) -> None:
        choice = chance.choice
        self.shards: Final = choice((2, 3, 3, 4))
        self.level: Final = choice(("durable", "durable", "async"))
        self.queues: Final = QUEUES
        #: storage outlives the coordinator, as a file or a database does, and may be away
        self.lasts: Final = chance.random() < 0.7
        #: it may be replaced by a copy that lacks what was written last
        self.fails_over: Final = self.lasts and chance.random() < 0.5
        #: there is a webhook, which storage must not lose
        self.has_webhook: Final = self.lasts and not self.fails_over and chance.random() < 0.6
        #: a shard may die before storage has again what it lost, so that state is lost
        self.loses_states: Final = chance.random() < 0.3
        #: every so many turns of shards all indexes are checked; 0 for never
        self.validate_every: Final = choice((0, 40, 150))
        self.weather: Final = Weather(choice((0.0, 0.005, 0.02, 0.1)), choice((5, 40, 200)) * 1000)
        self.checkpoint_log_bytes: Final = choice((1500, 5000, 20_000, MIB))
        self.recovered_bytes: Final = choice((500, 5000, 4 * MIB))
        #: the share of commits that take longer, and how long that is
        self.slow_commits: Final = choice((0.0, 0.05, 0.3))
        self.slow_commit_us: Final = (1000, choice((10_000, 200_000)))
        self.peer_bytes_max: Final = choice((100_000, MIB))
        self.unread_bytes_max: Final = choice((3000, MIB))
        self.client_unread_max: Final = choice((3, 20, 1000))
        self.router_unread_max: Final = choice((5, 100, 1000))
        self.events_unheard_max: Final = choice((5, 1000))
        self.limits: Final = EngineLimits(
            heartbeat_interval_ms=800,
            session_timeout_ms=2500,
            stall_timeout_ms=3000,
            answers_ms=choice((3000, 10_000)),
            completed_jobs_max=choice((5, 50, 1000)),
            results_max=choice((5, 50)),
            dlq_jobs_max=choice((3, 1000)),
            waiters_max=choice((9, 1000, 1000)),
            unsafe_bytes_max=choice((2000, MIB, MIB)),
            outcomes_max=choice((20, 100_000)),
            shard_jobs_max=choice((200, 100_000)),
            storage_wait_ms=choice((200, 1000)),
        )

        self.webhooks: Final = WebhookLimits(
            webhook_attempts_max=choice((2, 10)), webhook_backoff_ms=20, webhook_lease_ms=1000
        )
        #: the share of reads of recoveries that take longer, how long, and the share that fails
        self.slow_reads: Final = choice((0.0, 0.3, 1.0))
        self.slow_read_us: Final = (1000, choice((10_000, 200_000)))
        self.failing_reads: Final = choice((0.0, 0.05, 0.3))

    def identity(self, shard: int) -> Identity:
        """Return what a shard is told of itself."""
        return Identity(
            shard=shard,
            shard_count=self.shards,
            config_hash=self.config_hash,
            limits=self.limits,
            level=self.level,
            version=self.version,
            checkpoint_log_bytes=self.checkpoint_log_bytes,
            message_bytes_max=self.message_bytes_max,
            drain_timeout_ms=5000,
        )

    def shard_of(self, queue: str) -> int:
        """Return which shard has the queue."""
        return shard_of_queue(queue, self.shards)
