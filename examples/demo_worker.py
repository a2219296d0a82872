"""A worker process of the demo: indexes the files that it is handed until SIGTERM."""

from __future__ import annotations

import sys
import warnings

from examples.source_index import index_file
from flashq import Worker, WorkerJob


def index(job: WorkerJob) -> dict[str, int]:
    """Index the file that the payload names; the figures are the job's result."""
    return index_file(job.data)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # old sources warn about themselves when they are parsed
    Worker(sys.argv[1:], index, concurrency=2).run()
