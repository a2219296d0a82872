"""Works off the e-mails that `examples.producer` pushes, a hundred at a time, until Ctrl-C.

What a handler returns is the job's result; what it raises fails the attempt, and the server hands
the job out again after its backoff.
"""

from __future__ import annotations

import asyncio
import logging

from flashq import AsyncWorkerJob, Worker


async def send(job: AsyncWorkerJob) -> dict[str, str]:
    """Pretend to send an e-mail."""
    letter = job.data
    await job.progress(50, "connecting")
    await asyncio.sleep(0.05)
    if "@" not in letter["to"]:
        raise ValueError(f"{letter['to']} is no address")
    return {"sent_to": letter["to"]}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    Worker("emails", send, concurrency=100).run()
