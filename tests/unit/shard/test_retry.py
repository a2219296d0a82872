"""When a failed attempt is followed by another: design 4, and the defects W24 and W25."""

from __future__ import annotations

import pytest

from flashq.protocol.records import Options
from flashq.shard.retry import DELAY_MS_MAX, is_final, retry_delay_ms


@pytest.mark.parametrize(
    ("attempts", "delay_ms"),
    [(1, 1000), (2, 2000), (3, 4000), (10, 512_000), (11, 1_024_000), (12, 1_024_000)],
)
def test_backoff_starts_at_the_base_and_doubles_to_1024_times(attempts: int, delay_ms: int) -> None:
    """The older servers waited twice the base before the first retry (W24)."""
    assert retry_delay_ms(Options(max_attempts=50, backoff=1000), 1, attempts) == delay_ms


@pytest.mark.parametrize(("attempts", "delay_ms"), [(1, 0), (2, 0), (3, 1000), (99, 1000)])
def test_endless_retries_without_backoff_are_paced_from_the_third_on(
    attempts: int, delay_ms: int
) -> None:
    """A poison job with the default options used to spin at the head of its queue (W25)."""
    assert retry_delay_ms(Options(), 1, attempts) == delay_ms


def test_bounded_retries_without_backoff_are_not_paced() -> None:
    """Who bounds the attempts may have them at once."""
    assert retry_delay_ms(Options(max_attempts=100), 1, 50) == 0


@pytest.mark.parametrize("jitter", [0.1, 0.5, 1.0])
def test_jitter_moves_by_at_most_its_fraction_either_way(jitter: float) -> None:
    """Many jobs that fail together come back spread out, around the backoff."""
    options = Options(max_attempts=5, backoff=1000, jitter=jitter)
    delays = [retry_delay_ms(options, job_id, 1) for job_id in range(1, 2001)]
    assert min(delays) >= 1000 * (1 - jitter) - 1
    assert max(delays) <= 1000 * (1 + jitter) + 1
    assert max(delays) - min(delays) > 1000 * jitter
    assert abs(sum(delays) / len(delays) - 1000) < 100 * jitter


def test_the_longest_wait_can_be_written_down() -> None:
    """The log holds 64 bits and clients 53: the largest backoff, 1,024 times and doubled by jitter,
    used to stop the shard when it wrote its log."""
    options = Options(max_attempts=50, backoff=2**53 - 1, jitter=1.0)
    delays = [retry_delay_ms(options, 7, attempts) for attempts in range(1, 50)]
    assert max(delays) == DELAY_MS_MAX


def test_jitter_is_a_function_of_job_and_attempt() -> None:
    """A replay of the log has to give the same times."""
    options = Options(max_attempts=5, backoff=1000, jitter=0.5)
    once = [retry_delay_ms(options, 7, attempt) for attempt in range(1, 5)]
    again = [retry_delay_ms(options, 7, attempt) for attempt in range(1, 5)]
    assert once == again
    assert once != [retry_delay_ms(options, 8, attempt) for attempt in range(1, 5)]


@pytest.mark.parametrize(
    ("max_attempts", "attempts", "final"),
    [(0, 1, False), (0, 10**6, False), (1, 1, True), (2, 1, False), (2, 2, True), (2, 3, True)],
)
def test_the_last_attempt(max_attempts: int, attempts: int, final: bool) -> None:
    """`max_attempts` 1 makes the first failure final; 0 never ends (W25: documented otherwise)."""
    assert is_final(Options(max_attempts=max_attempts), attempts) is final
