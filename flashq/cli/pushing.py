"""`flashq push`: one job from the command line, or one for each line of stdin.

Owns the flags for what a push may say about a job; what they mean is the server's.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, TypeVar

import click
import msgspec

from flashq.cli.parameters import DURATION, JOB_ID, JSON
from flashq.cli.verbs import Invocation, Verb, pass_invocation
from flashq.cli.wording import plural

F = TypeVar("F", bound=Callable[..., Any])

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""Text in one request, well below the server's bound on a message."""

_NOT_FOR_MANY: Final = ("job_id", "unique_key", "debounce_id")
"""What would make all lines but the first one and the same job."""

_OPTIONS: Final = (
    click.option("--priority", type=click.IntRange(-(2**31), 2**31 - 1), help="Higher runs first."),
    click.option("--delay", type=DURATION, help="It may run after this."),
    click.option("--ttl", type=DURATION, help="It expires after this, unless it was handed out."),
    click.option("--timeout", type=DURATION, help="What an attempt may take."),
    click.option("--max-attempts", type=click.IntRange(min=0), help="0 tries without end."),
    click.option("--backoff", type=DURATION, help="Wait before the first retry; it doubles."),
    click.option(
        "--jitter", type=click.FloatRange(0, 1), help="How far a retry's wait may be off."
    ),
    click.option("--unique-key", help="No other unfinished job of the queue may have it."),
    click.option(
        "--on-dependency-failure",
        type=click.Choice(["fail", "ignore", "wait"]),
        help="What a failed dependency does.",
    ),
    click.option("--tag", "tags", multiple=True, help="Stored with the job."),
    click.option("--lifo", is_flag=True, default=None, help="Before those already waiting."),
    click.option("--remove-on-complete", is_flag=True, default=None, help="Forget it then."),
    click.option("--remove-on-fail", is_flag=True, default=None, help="Forget it then."),
    click.option("--stall-timeout", type=DURATION, help="Silence that gives it to another worker."),
    click.option("--debounce-id", help="Refuse another push with it for the debounce's ttl."),
    click.option("--debounce-ttl", type=DURATION, help="5 s if not given."),
    click.option("--job-id", help="Your own id; a second push with it gives the first job."),
    click.option("--keep-completed-age", type=DURATION, help="Keep it so long once completed."),
    click.option("--keep-completed-count", type=click.IntRange(min=0), help="Keep so many."),
    click.option("--durability", type=click.Choice(["durable", "async", "memory"])),
)


def job_options(function: F) -> F:
    """Add a flag for every option of a job but the jobs it depends on."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def given_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given, lists as the client takes them."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if value is not None and value != ()
    }


@click.command(cls=Verb)
@click.argument("queue")
@click.argument("data")
@job_options
@click.option("--depends-on", type=JOB_ID, multiple=True, help="Job to complete first.")
@click.option("--batch", type=click.IntRange(1, 10_000), default=1000, help="Lines in one request.")
@pass_invocation
def push(invocation: Invocation, /, queue: str, data: str, batch: int, **options: Any) -> None:
    """Add a job to QUEUE with DATA, a JSON value, and print its id.

    With `-` as DATA every line of stdin is the JSON payload of one job. Durations are milliseconds,
    or as in 1.5s, 10m, 2h, 7d.
    """
    given = given_of(options)
    if data != "-":
        value = JSON.convert(data, None, None)
        with invocation.client() as client:
            job_id = client.push(queue, value, **given)
        invocation.done(str(job_id), {"id": job_id})
        return
    for name in _NOT_FOR_MANY:
        if name in given:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(f"{flag} is for one job, and stdin gives many")
    _push_lines(invocation, queue, sys.stdin.buffer, batch, given)


def _push_lines(
    invocation: Invocation, queue: str, lines: IO[bytes], batch: int, options: dict[str, Any]
) -> None:
    """Push a job for each line, a batch at a time, and say how many at whatever end."""
    from flashq.client.results import PartialBatchError

    pushed = 0
    refused: list[str] = []
    try:
        with invocation.client() as client, invocation.progress(in_bytes=True) as progress:
            task = progress.add_task(f"push to {queue}", total=_size_of(lines))
            for first_line, payloads, read_bytes in _batches(lines, batch):
                try:
                    ids: list[int | None] = [
                        *client.push_batch(queue, [{"data": d, **options} for d in payloads])
                    ]
                except PartialBatchError as partial:
                    ids = partial.ids
                    refused += [
                        f"line {first_line + wrong.index}: {wrong.error}"
                        for wrong in partial.errors
                    ]
                pushed += len(ids) - ids.count(None)
                if invocation.as_json:
                    invocation.documents({"id": job_id} for job_id in ids)
                progress.advance(task, read_bytes)
    finally:
        if not invocation.as_json:
            invocation.say(f"pushed {plural(pushed, 'job')} to {queue}")
    for sentence in refused:
        invocation.complain(sentence)
    if refused:
        raise click.exceptions.Exit(1)


def _batches(lines: IO[bytes], count_max: int) -> Iterator[tuple[int, list[Any], int]]:
    """Yield batches of payloads: the number of the first line, the payloads, the bytes read.

    Lines are counted as they stand; an empty one is an error like any other that is no JSON.
    """
    first, payloads, read_bytes = 1, [], 0
    number = 0
    for number, line in enumerate(lines, 1):
        try:
            payloads.append(msgspec.json.decode(line))
        except (msgspec.DecodeError, UnicodeError) as error:
            if payloads:
                yield first, payloads, read_bytes
            raise click.ClickException(f"line {number} is not JSON: {error}") from None
        read_bytes += len(line)
        if len(payloads) >= count_max or read_bytes >= BATCH_BYTES_MAX:
            yield first, payloads, read_bytes
            first, payloads, read_bytes = number + 1, [], 0
    if payloads:
        yield first, payloads, read_bytes


def _size_of(stream: IO[bytes]) -> int | None:
    """Return a stream's size in bytes where it is a file, else None."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
