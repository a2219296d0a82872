"""The entry of `flashq`: which verbs there are, and how every one of them ends.

Owns the table of verbs and the exit status: 0 for success, 1 with one sentence on stderr for
whatever went wrong, 2 for a command line that cannot be understood, 130 after Ctrl-C. It imports
no verb, no client and no socket before it is asked for one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import click

from flashq.cli.verbs import Invocation, shared_options
from flashq.errors import FlashQError
from flashq.version import __version__

#: Every verb by name: the module that has it, and what the overview says of it.
VERBS: Final[dict[str, tuple[str, str]]] = {
    "serve": ("flashq.cli.serve", "Run the whole server: coordinator, shards, router and gateway."),
    "push": ("flashq.cli.pushing", "Add a job to a queue, or one for each line of stdin."),
    "pull": ("flashq.cli.working", "Take jobs from a queue."),
    "ack": ("flashq.cli.working", "Complete an active job."),
    "fail": ("flashq.cli.working", "End an active job's attempt: it is retried, or set aside."),
    "release": ("flashq.cli.working", "Give active jobs back without counting an attempt."),
    "wait": ("flashq.cli.working", "Wait for a job's end and print its result."),
    "job": ("flashq.cli.jobs", "Look at jobs and change them."),
    "queue": ("flashq.cli.queues", "Look at queues, stop them, limit them, empty them."),
    "dlq": ("flashq.cli.dead_letters", "Look at dead letters, retry or remove them."),
    "cron": ("flashq.cli.crons", "Pushes that the server makes by a schedule."),
    "webhook": ("flashq.cli.webhooks", "Addresses that are told of what happens to jobs."),
    "stats": ("flashq.cli.server", "Count all jobs by state, and show each shard's condition."),
    "metrics": ("flashq.cli.server", "Show the totals since the server's start."),
    "workers": ("flashq.cli.server", "List the workers that were heard of lately."),
    "events": ("flashq.cli.server", "Print what happens to jobs, as it happens."),
    "top": ("flashq.cli.top", "Watch the queues in a live table."),
    "bench": ("flashq.cli.bench", "Measure the running server by a short load."),
    "backup": ("flashq.cli.storage", "Write everything in the storage to a file."),
    "restore": ("flashq.cli.storage", "Fill an empty storage from a backup."),
    "export": ("flashq.cli.storage", "Print the jobs in the storage, or copy them into a table."),
    "migrate": ("flashq.cli.storage", "Bring the storage's tables up to this version."),
    "token": ("flashq.cli.tokens", "Make a token, and the entry that lets it in."),
    "doctor": ("flashq.cli.doctor", "Say what is wrong with settings, sockets, limits, versions."),
}


class Overview(click.Group):
    """The root: imports the module of a verb when the verb is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in VERBS:
            return None
        module, _ = VERBS[cmd_name]
        found = getattr(import_module(module), cmd_name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview from the table, without importing anything."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(cls=Overview, params=shared_options(with_environment=True))
@click.version_option(__version__, prog_name="flashq", message="%(prog)s %(version)s")
def flashq() -> None:
    """A job queue as fast as memory that tells the truth about every job.

    Start a server with `flashq serve`; `flashq doctor` says what is wrong when something is.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status.

    Args:
        argv: the words behind `flashq`; None takes the process's own.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    invocation = Invocation()
    try:
        status: Any = flashq.main(
            arguments, prog_name="flashq", standalone_mode=False, obj=invocation
        )
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        invocation.complain(error.format_message())
        return error.exit_code
    except click.Abort as abort:
        if isinstance(abort.__cause__, KeyboardInterrupt):
            return 130
        invocation.complain("nothing was done; answer y, or say --yes")
        return 1
    except FlashQError as error:
        invocation.complain(str(error))
        return 1
    return status if isinstance(status, int) else 0
