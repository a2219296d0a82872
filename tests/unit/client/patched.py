"""A program with a blocking client, in a Python whose blocking calls were taken away or replaced.

It is run by itself, since nothing of that can be undone: `python -m tests.unit.client.patched HOW
URL`.
"""

from __future__ import annotations

import importlib
import select
import sys
import threading


def patch(how: str) -> None:
    """Change this Python, as `how` says."""
    if how == "without poll":
        del select.poll
    elif how == "without poll and epoll":
        del select.poll, select.epoll
    elif how == "gevent":
        importlib.import_module("gevent.monkey").patch_all()
    elif how == "eventlet":
        importlib.import_module("eventlet").monkey_patch()
    else:
        raise ValueError(how)


def use(url: str) -> None:
    """Push, pull in several threads at once, acknowledge, listen, and end."""
    from flashq import Client  # not before the patches

    worked: list[int] = []

    def work() -> None:
        while (job := client.pull("q", 300)) is not None:
            client.ack(job, job.data)
            worked.append(job.data)

    with Client(url) as client:
        for number in range(20):
            client.push("q", number)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with client.subscribe("q") as events:
            nothing = events.get(timeout=50)
    print(sorted(worked) == list(range(20)), nothing)


if __name__ == "__main__":
    patch(sys.argv[1])
    use(sys.argv[2])
