"""flashq: a job queue that is as fast as memory and tells the truth about every job.

The client and the worker are imported when they are first used, so that the server's programs,
which import this package too, do not carry them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flashq.version import __version__

if TYPE_CHECKING:
    from flashq import errors
    from flashq.client.async_client import AsyncClient
    from flashq.client.results import Event, Gap, Job, PartialBatchError
    from flashq.client.sync_client import Client
    from flashq.errors import FlashQError
    from flashq.worker.job import AsyncWorkerJob, JobStopped, WorkerJob
    from flashq.worker.process import Worker

__all__ = [
    "AsyncClient",
    "AsyncWorkerJob",
    "Client",
    "Event",
    "FlashQError",
    "Gap",
    "Job",
    "JobStopped",
    "PartialBatchError",
    "Worker",
    "WorkerJob",
    "__version__",
    "errors",
]

_HOMES = {
    "AsyncClient": "flashq.client.async_client",
    "AsyncWorkerJob": "flashq.worker.job",
    "Client": "flashq.client.sync_client",
    "Event": "flashq.client.results",
    "FlashQError": "flashq.errors",
    "Gap": "flashq.client.results",
    "Job": "flashq.client.results",
    "JobStopped": "flashq.worker.job",
    "PartialBatchError": "flashq.client.results",
    "Worker": "flashq.worker.process",
    "WorkerJob": "flashq.worker.job",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "errors":
        return import_module("flashq.errors")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value
