"""Where things live: queue names to shards, job ids to shards, and lease tokens.

A job id is `sequence * shard_count + shard`, from 1 to 2**53 - 1, so that every client language can
hold it in a double, and an id names its shard without a table. Sequences start at 1.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

SHARD_COUNT_DEFAULT: Final = 32
SHARD_COUNT_MAX: Final = 1024
JOB_ID_MAX: Final = 2**53 - 1

EPOCH_BITS: Final = 21
DELIVERY_BITS: Final = 32
"""A lease token is `epoch << 32 | delivery`, so at most 2**53 - 1."""


def shard_of_queue(queue: str, shard_count: int) -> int:
    """Return the number of the shard that owns the queue."""
    return crc32(queue.encode()) % shard_count


def shard_of_job(job_id: int, shard_count: int) -> int:
    """Return the number of the shard that owns the job."""
    return job_id % shard_count


def sequence_of_job(job_id: int, shard_count: int) -> int:
    """Return the job's sequence number within its shard."""
    return job_id // shard_count


def job_id(sequence: int, shard: int, shard_count: int) -> int:
    """Return the id of a shard's job number `sequence`."""
    return sequence * shard_count + shard


def lease_token(epoch: int, delivery: int) -> int:
    """Return the token of a shard's delivery number `delivery` in `epoch`."""
    return epoch << DELIVERY_BITS | delivery


def epoch_of_token(token: int) -> int:
    """Return the epoch in which the token was given out."""
    return token >> DELIVERY_BITS
