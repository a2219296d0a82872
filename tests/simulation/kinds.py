"""What kinds of fault there are, and what a server does about them.

A set of runs sees all of it, or it has not tested what it says.
"""

from __future__ import annotations

from typing import Final

LINKS: Final = (
    "client-router",
    "router-shard",
    "router-coordinator",
    "shard-coordinator",
    "shard-shard",
    "router-events",
)
AWAY: Final = "storage away"
FULL: Final = "storage full"
READ_ONLY: Final = "storage read-only"
CUT_BEFORE_COMMIT: Final = "connection lost before a commit"
CUT_AFTER_COMMIT: Final = "connection lost after a commit"
KILLED_BEFORE_COMMIT: Final = "killed before a commit"
KILLED_AFTER_COMMIT: Final = "killed after a commit"
CUT_IN_READ: Final = "connection lost in a read"
FAILED_OVER: Final = "storage comes back with less"

KINDS: Final = (
    "message delayed",
    "messages reordered",
    "commit slow",
    "read slow",
    AWAY,
    FULL,
    READ_ONLY,
    CUT_BEFORE_COMMIT,
    CUT_AFTER_COMMIT,
    CUT_IN_READ,
    KILLED_BEFORE_COMMIT,
    KILLED_AFTER_COMMIT,
    FAILED_OVER,
    *(f"break {link}" for link in LINKS),
    "messages lost in a break",
    "kill shard",
    "kill router",
    "kill coordinator",
    "kill client",
    "killed between two messages",
    "goodbye",
    "end shard",
    "end router",
    "stop shard",
    "stop router",
    "stop coordinator",
    "stop client",
    "clock set forward",
    "clock set back",
    "undeliverable: full",
    "undeliverable: gone",
    "a client that never reads",
    "records lost with a shard",
    "a shard's whole state is lost",
    "a part of a shard's state is lost",
)
"""Every one of them strikes in a set of runs, or the set has not tested what it says."""

BESIDE_A_READ: Final = "commits beside a recovery"
CAME_BACK: Final = "jobs of undeliverable deliveries that came back"
HAPPENINGS: Final = (
    BESIDE_A_READ,
    CAME_BACK,
    "checkpoints",
    "clients reconnected",
    "coordinators that could not start",
    "coordinators that began anew",
    "deliveries that came again",
    "deliveries that died",
    "deliveries to a webhook",
    "events heard",
    "gaps noticed by a shard",
    "gaps told to a listener",
    "jobs handed to workers",
    "outcome debounced",
    "outcome dependency_forgotten",
    "outcome duplicate",
    "outcome lease_lost",
    "outcome session_expired",
    "outcome storage_unavailable",
    "outcome wait_timeout",
)
"""What has to happen in a set of runs besides: what the server does about all that."""
