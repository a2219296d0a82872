"""`flashq migrate`, `backup`, `restore` and `export`: the storage without the server.

Owns how a storage is named on the command line: by the same settings that the server is started
with. Backup and export read one moment of a storage, also while a server writes to it; migrate and
restore need it for themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from flashq.cli.verbs import Invocation, Verb, pass_invocation
from flashq.cli.wording import plural, size
from flashq.config import MEMORY, Settings, load_settings
from flashq.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

FORMATS: Final = ("jsonl", "csv")
STATES: Final = (
    "waiting", "delayed", "active", "completed", "failed", "cancelled", "waitingchildren",
    "waitingparent",
)  # fmt: skip


def storage_options(function: F) -> F:
    """Add the options that name a storage; without them it is the server's of these settings."""
    for option in (
        click.option("--config", "config_file", metavar="PATH", help="The server's settings file."),
        click.option("--data-dir", metavar="PATH", help="The server's data directory."),
        click.option("--storage", metavar="URL", help="sqlite:///path or postgresql://…"),
    ):
        function = option(function)
    return function


def _settings(storage: str | None, data_dir: str | None, config_file: str | None) -> Settings:
    """Return the settings of the server whose storage is meant.

    Raises:
        ConfigError: they do not fit, or its storage is its own memory.
    """
    given = {"storage": storage, "data_dir": data_dir}
    flags = {name: value for name, value in given.items() if value is not None}
    settings = load_settings(flags, config_file=config_file)
    if settings.storage == MEMORY:
        raise ConfigError(
            f"the storage is {MEMORY}, which only the server itself can read; "
            "name another with --storage or FLASHQ_STORAGE"
        )
    return settings


@click.command(cls=Verb)
@click.option("--grant", metavar="ROLE", help="Let this role of PostgreSQL be the server's.")
@storage_options
@pass_invocation
def migrate(
    invocation: Invocation,
    grant: str | None,
    storage: str | None,
    data_dir: str | None,
    config_file: str | None,
) -> None:
    """Make the storage's tables, or bring them up to this version.

    A server makes those of an empty storage by itself, if it may. One whose role may not is given
    tables by their owner, with --grant.
    """
    from flashq.datadir import DataDir
    from flashq.storage import migrate_storage

    settings = _settings(storage, data_dir, config_file)
    directory = DataDir(settings.data_dir)
    try:
        steps = migrate_storage(settings.storage, grant_to=grant)
    finally:
        directory.close()
    said = ", ".join(steps) if steps else "everything is up to date"
    invocation.done(said, {"migrations": steps})


@click.command(cls=Verb)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@storage_options
@pass_invocation
def backup(
    invocation: Invocation,
    file: Path,
    storage: str | None,
    data_dir: str | None,
    config_file: str | None,
) -> None:
    """Write everything in the storage to FILE, as it is at this moment; a server may be running."""
    from flashq.clock import SystemClock
    from flashq.storage import open_snapshot
    from flashq.storage.backup import make_backup
    from flashq.version import __version__

    settings = _settings(storage, data_dir, config_file)
    snapshot = open_snapshot(settings.storage)
    try:
        with invocation.progress(in_bytes=True) as progress:
            task = progress.add_task("backup", total=None)
            make_backup(
                snapshot,
                file,
                SystemClock().wall_ms(),
                __version__,
                lambda done: progress.update(task, advance=done),
            )
        shards = len(snapshot.opened.shards)
    finally:
        snapshot.close()
    written = file.stat().st_size
    invocation.done(
        f"{plural(shards, 'shard')} in {size(written)}: {file}",
        {"file": str(file), "bytes": written, "shards": shards},
    )


@click.command(cls=Verb)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@storage_options
@pass_invocation
def restore(
    invocation: Invocation,
    file: Path,
    storage: str | None,
    data_dir: str | None,
    config_file: str | None,
) -> None:
    """Fill an empty storage from a backup. No server may be running on it.

    Ids that the lost server may have given after the backup are not given again.
    """
    from flashq.clock import SystemClock
    from flashq.coordinator.acceptance import begin_marks
    from flashq.datadir import DataDir
    from flashq.storage import open_storage
    from flashq.storage.backup import restore as restore_backup

    settings = _settings(storage, data_dir, config_file)
    directory = DataDir(settings.data_dir)
    target = open_storage(settings.storage, SystemClock().wall_ms())
    try:
        with invocation.progress(in_bytes=True) as progress:
            task = progress.add_task("restore", total=None)
            head = restore_backup(target, file, lambda done: progress.update(task, advance=done))
        begin_marks(directory, target.open(len(head.shards))).close()
    finally:
        target.close()
        directory.close()
    invocation.done(
        f"{plural(len(head.shards), 'shard')} restored; start the server with "
        f"--shards {len(head.shards)}",
        {"shards": len(head.shards), "backup_ms": head.wall_ms},
    )


@click.command(cls=Verb)
@click.option("--jobs", is_flag=True, help="Export jobs; there is nothing else yet to choose.")
@click.option("--queue", metavar="QUEUE", help="Only jobs of this queue.")
@click.option("--state", type=click.Choice(STATES), help="Only jobs in this state.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="jsonl", show_default=True)
@click.option("--to", metavar="URL", help="Into a PostgreSQL database instead of stdout.")
@click.option("--table", default="flashq_jobs", show_default=True, help="Made there; with --to.")
@storage_options
@pass_invocation
def export(
    invocation: Invocation,
    jobs: bool,
    queue: str | None,
    state: str | None,
    form: str,
    to: str | None,
    table: str,
    storage: str | None,
    data_dir: str | None,
    config_file: str | None,
) -> None:
    """Print the jobs in the storage, each shard's as they are when it is read.

    A server may be running, and is not held up however slowly the output is read.
    """
    from flashq.cli import exporting
    from flashq.storage import open_snapshot

    if not jobs:
        raise click.UsageError("say what to export: --jobs")
    settings = _settings(storage, data_dir, config_file)
    found = exporting.jobs_of(partial(open_snapshot, settings.storage), queue=queue, state=state)
    if to is not None:
        count = exporting.copy_to_postgres(found, to, table)
        invocation.done(f"{plural(count, 'job')} in table {table}", {"table": table, "jobs": count})
    elif form == "csv":
        exporting.print_csv(found)
    else:
        exporting.print_lines(found)
