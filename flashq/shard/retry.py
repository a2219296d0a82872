"""When a failed attempt is followed by another.

Pure arithmetic. Exponential backoff with jitter as in "Exponential Backoff And Jitter" (M. Brooker,
2015), except that the random part is derived from the job's id and attempt, so that a replay of the
log gives the same times.
"""

from __future__ import annotations

from typing import Final

from flashq.protocol.records import Options

BACKOFF_DOUBLINGS_MAX: Final = 10
DELAY_MS_MAX: Final = 2**52
"""What the log and every client can hold when the time of day is added."""
UNPACED_RETRY_MS: Final = 1000
UNPACED_FAILURES_MAX: Final = 2
"""So many failures of a job with endless retries and no backoff are retried at once."""

_MASK: Final = 2**64 - 1


def is_final(options: Options, attempts: int) -> bool:
    """Tell whether a job whose attempt number `attempts` (from 1) failed is dead."""
    return 0 < options.max_attempts <= attempts


def retry_delay_ms(options: Options, job_id: int, attempts: int) -> int:
    """Return how long to wait after failed attempt number `attempts` (from 1), in ms.

    `backoff`, doubled for each attempt after the first, at most 1,024 times; moved by up to the
    fraction `jitter` either way. Endless retries without backoff are paced from the third on.
    """
    if not options.backoff:
        unpaced = not options.max_attempts and attempts > UNPACED_FAILURES_MAX
        return UNPACED_RETRY_MS if unpaced else 0
    delay = options.backoff << min(attempts - 1, BACKOFF_DOUBLINGS_MAX)
    if options.jitter:
        spread = 2.0 * _unit(job_id, attempts) - 1.0
        delay = round(delay * (1.0 + options.jitter * spread))
    return min(delay, DELAY_MS_MAX)


def _unit(job_id: int, attempts: int) -> float:
    """A number in [0, 1) that depends on both arguments alone: SplitMix64 (Steele et al., 2014)."""
    z = (job_id + attempts * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return float((z ^ (z >> 31)) >> 11) / float(2**53)
