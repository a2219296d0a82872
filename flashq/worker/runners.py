"""What runs handlers, as the worker sees it; `tasks` and `threads` are the two kinds.

Which job is next, and what becomes of its outcome, is the worker's: both kinds ask it through
`Source`. Both keep these promises, whatever a handler does:

* Every ending of a handler is the one ending of its job, told to the source once: a return, any
  exception (also `SystemExit`, `KeyboardInterrupt`, `GeneratorExit`, `CancelledError`), a
  cancelling from anywhere.
* The place is free again then, and not before.
* A handler finds a context of its own: context variables that it sets are seen by no other job.
"""

from __future__ import annotations

from typing import Any, Protocol

from flashq.worker.job import RunningJob


class Source(Protocol):
    """Where runners get jobs from, and tell what came of them. In the loop's thread only."""

    def startable(self) -> int:
        """Return how many jobs wait to be run and may be."""

    def next_job(self) -> RunningJob | None:
        """Return a job that now runs, or None when there is none or no place for it."""

    def succeeded(self, job: RunningJob, result: Any) -> None:
        """Take in what the handler returned."""

    def raised(self, job: RunningJob, error: BaseException) -> None:
        """Take in what the handler raised."""

    def settle(self) -> None:
        """Report outcomes and fetch: there is nothing better to do right now."""

    def settle_soon(self) -> None:
        """Do so after everything that is ready to run now."""


class Runners(Protocol):
    """Runs handlers. In the loop's thread only."""

    def wake(self) -> None:
        """Have jobs looked for, if there are any."""

    def stop(self, job: RunningJob, reason: str) -> None:
        """Interrupt a handler as far as that is possible; `job` says so itself already."""

    def stack_of(self, job: RunningJob) -> str:
        """Return where a job's handler is right now, innermost call last; empty for nowhere."""

    async def close(self, patience_s: float) -> list[RunningJob]:
        """End everything, and wait so long for it.

        Returns:
            The jobs whose handlers run on.
        """
