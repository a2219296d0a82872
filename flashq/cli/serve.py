"""`flashq serve`: hands its flags to the supervisor as they are.

The process that runs this forks every program of the server, so nothing here may create a ZeroMQ,
asyncio or thread object, or import what does.
"""

from __future__ import annotations

import click

from flashq.programs import what_to_install


@click.command(
    context_settings={"ignore_unknown_options": True},
    add_help_option=False,
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def serve(flags: tuple[str, ...]) -> None:
    """Run coordinator, shards, router and gateway under one supervisor."""
    try:
        from flashq.supervisor.process import main as supervise
    except ModuleNotFoundError as error:
        raise click.ClickException(what_to_install(error)) from error
    raise click.exceptions.Exit(supervise(flags))
