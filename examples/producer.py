"""Pushes e-mails to a queue, singly and in a batch, and waits for what becomes of them.

Start a server (`flashq serve`) and `python -m examples.worker` first.
"""

from __future__ import annotations

from flashq import Client, FlashQError


def main() -> None:
    """Push four jobs and print their results."""
    with Client() as client:
        urgent = client.push(
            "emails",
            {"to": "ada@example.org", "subject": "Your code"},
            priority=10,
            max_attempts=5,
            backoff=1000,
            job_id="code-for-ada",  # a second push with it gives the same job
        )
        letters = client.push_batch(
            "emails",
            [
                {"data": {"to": f"{name}@example.org", "subject": "News"}, "max_attempts": 3}
                for name in ("grace", "edsger", "barbara")
            ],
        )
        for job_id in (urgent, *letters):
            try:
                print(job_id, client.finished(job_id, timeout=30_000))
            except FlashQError as error:
                print(job_id, "was not sent:", error)


if __name__ == "__main__":
    main()
