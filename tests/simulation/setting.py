"""How one run is set up: sizes, limits and levels, all drawn from the seed.

Limits are far smaller than those of a server, so that a short run comes to all of them.
"""

from __future__ import annotations

from enum import Enum
from random import Random
from typing import Final

from msgspec.structs import replace

from flashq.ids import shard_of_queue
from flashq.protocol.limits import MIB, EngineLimits, WebhookLimits
from flashq.router.settings import RouterSettings
from flashq.shard.identity import Identity
from flashq.version import __version__
from tests.simulation.network import Weather
from tests.simulation.world import MS

QUEUES: Final = tuple(f"queue-{number}" for number in range(7))


class Profile(Enum):
    """What a run is made for."""

    ANY = "whatever the seed says"
    FAILING_OVER = "storage comes back with less, and shards die before they can give it again"
    CHECKPOINTS = "shards take checkpoints all the time, and die"
    COORDINATORS = "crons fire, a webhook is told, and coordinators and commits fail"
    LEASES = "workers are late, and clients and shards die"


_BY_LAST_DIGIT: Final = {
    1: Profile.FAILING_OVER,
    3: Profile.CHECKPOINTS,
    5: Profile.COORDINATORS,
    7: Profile.LEASES,
}


def profile_of(seed: int) -> Profile:
    """Return what the run of a seed is made for, unless somebody wants another one."""
    return _BY_LAST_DIGIT.get(seed % 10, Profile.ANY)


_WEIGHTS: Final[dict[Profile, dict[str, int]]] = {
    Profile.ANY: {},
    Profile.FAILING_OVER: {"_fail_over": 40},
    Profile.CHECKPOINTS: {"_kill_shard": 30},
    Profile.COORDINATORS: {"_kill_coordinator": 16, "_doom": 90, "_ail": 8},
    Profile.LEASES: {"_kill_shard": 40, "_kill_client": 10, "_stop_some": 10},
}
"""How often faults strike that a run is made for; the others as in any run."""


class Setting:
    """One run's.

    Args:
        chance: the run's.
        profile: what the run is made for.
    """

    version: Final = __version__
    config_hash: Final = "simulated"
    message_bytes_max: Final = MIB
    gather_timeout_ms: Final = 500

    def __init__(self, chance: Random, profile: Profile) -> None:
        choice = chance.choice
        self.shards: Final = choice((2, 3, 3, 4))
        self.level: Final = choice(("durable", "durable", "async"))
        self.queues: Final = QUEUES
        #: storage outlives the coordinator, as a file or a database does, and may be away
        self.lasts = chance.random() < 0.7
        #: it may be replaced by a copy that lacks what was written last
        self.fails_over = self.lasts and chance.random() < 0.5
        #: there is a webhook, which storage must not lose
        self.has_webhook = self.lasts and not self.fails_over and chance.random() < 0.6
        #: a shard may die before storage has again what it lost, so that state is lost
        self.loses_states = chance.random() < 0.3
        #: every so many turns of shards all indexes are checked; 0 for never
        self.validate_every: Final = choice((0, 40, 150))
        self.weather: Final = Weather(choice((0.0, 0.005, 0.02, 0.1)), choice((5, 40, 200)) * 1000)
        self.checkpoint_log_bytes = choice((1500, 5000, 20_000, MIB))
        self.recovered_bytes = choice((500, 5000, 4 * MIB))
        #: the share of commits that take longer, and how long that is
        self.slow_commits: Final = choice((0.0, 0.05, 0.3))
        self.slow_commit_us: Final = (1000, choice((10_000, 200_000)))
        self.peer_bytes_max: Final = choice((100_000, MIB))
        self.unread_bytes_max: Final = choice((3000, MIB))
        self.client_unread_max: Final = choice((3, 20, 1000))
        self.router_unread_max: Final = choice((5, 100, 1000))
        self.events_unheard_max: Final = choice((5, 1000))
        self.limits = EngineLimits(
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
        #: how long users work under faults
        self.work_us = (2500 * MS, 5500 * MS)
        #: how often kinds of fault strike, where that is not as in any run
        self.weights: Final = _WEIGHTS[profile]
        #: the share of pushes that are flows, besides the few of any run
        self.flows = 0.0
        #: so many groups the copy of a storage may lack
        self.lag_groups_max = 6
        #: the owner does little but set crons and limits
        self.has_busy_owner = False
        #: how likely it is that shards die while storage lacks something of theirs
        self.dooms = 0.5
        #: workers end what they have lost all the same
        self.has_stale_workers = False
        self._make_for(profile)

    def _make_for(self, profile: Profile) -> None:
        """Change what was drawn so that it happens often what a run is made for, and such runs take
        no longer than others."""
        if profile is not Profile.ANY:
            self.work_us = (1500 * MS, 4000 * MS)
        if profile is Profile.FAILING_OVER:
            self.lasts = self.fails_over = self.loses_states = True
            self.has_webhook = False
            self.flows, self.lag_groups_max, self.dooms = 0.5, 25, 1.0
        elif profile is Profile.CHECKPOINTS:
            self.checkpoint_log_bytes, self.recovered_bytes = 1500, 500
            self.flows = 0.2
            # So pages are soon empty, and are forgotten.
            self.limits = replace(self.limits, completed_jobs_max=5, dlq_jobs_max=3, outcomes_max=5)
        elif profile is Profile.COORDINATORS:
            self.lasts, self.fails_over, self.has_webhook = True, False, True
            self.has_busy_owner = True
        elif profile is Profile.LEASES:
            self.has_stale_workers = True

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

    def router(self, boot: int) -> RouterSettings:
        """Return what a router is told."""
        return RouterSettings(
            version=self.version,
            boot=boot,
            shard_count=self.shards,
            limits=self.limits,
            message_bytes_max=self.message_bytes_max,
            peer_bytes_max=self.peer_bytes_max,
            unread_bytes_max=self.unread_bytes_max,
            all_unread_bytes_max=4 * self.unread_bytes_max,
            gather_timeout_ms=self.gather_timeout_ms,
            config_hash=self.config_hash,
        )

    def shard_of(self, queue: str) -> int:
        """Return which shard has the queue."""
        return shard_of_queue(queue, self.shards)
