"""What all verbs have in common: the shared options, the connection, and the two forms of output.

Owns `--json`, `--url`, `--token` and `--yes`, each declared once, and the rule that results go to
stdout and everything else (questions, progress, problems) to stderr. It imports neither client nor
rich before a verb needs them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from flashq.client.sync_client import Client

F = TypeVar("F", bound=Callable[..., Any])

CALL_TIMEOUT_MS: Final = 10_000
"""How long a verb waits for an answer that should come at once."""

_PLAIN_COLUMNS: Final = 1000
"""Columns of an output that is no terminal: nothing is cut off in a pipe."""


class Invocation:
    """One run of `flashq`: what its shared options say, and how it talks to people and programs."""

    def __init__(self) -> None:
        self.as_json = False
        self.url: str | None = None
        self.token: str | None = None
        self.yes = False

    # --- the server

    def endpoint(self) -> str:
        """Return the server's endpoint as options and environment name it.

        Raises:
            ConfigError: it is no endpoint.
        """
        from flashq.client.endpoint import resolve_url

        return resolve_url(self.url, os.environ)

    def reachable_endpoint(self) -> str:
        """Return the server's endpoint, if something listens there.

        Raises:
            click.ClickException: nothing does.
        """
        from flashq.cli.asking import obstacle

        url = self.endpoint()
        reason = obstacle(url)
        if reason is not None:
            raise click.ClickException(
                f"no server at {url} ({reason}); start one with `flashq serve`, "
                "or name another with --url or FLASHQ_URL"
            )
        return url

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Connect to the server for the length of a block."""
        from flashq.client.sync_client import Client

        url = self.reachable_endpoint()
        with Client(url, token=self.token, timeout=CALL_TIMEOUT_MS) as client:
            yield client

    # --- output

    def document(self, value: Any) -> None:
        """Print one value as one line of JSON. Objects of the protocol are values too."""
        from flashq.cli.wording import json_text

        click.echo(json_text(value))

    def documents(self, values: Iterable[Any]) -> None:
        """Print a list as JSON lines."""
        for value in values:
            self.document(value)

    def say(self, text: str) -> None:
        """Print a line for people."""
        click.echo(text)

    def table(self, table: Table) -> None:
        """Print a table for people."""
        self.console().print(table)

    def console(self) -> Console:
        """Return the console of stdout."""
        return _console(to_stderr=False)

    def complain(self, sentence: str) -> None:
        """Print a problem, in one line."""
        click.echo("flashq: " + " ".join(sentence.split()), err=True)

    def done(self, sentence: str, document: Any) -> None:
        """Print the result of a verb that does something: a sentence, or with --json a document."""
        if self.as_json:
            self.document(document)
        else:
            self.say(sentence)

    def warn_missing(self, shards: Sequence[int]) -> None:
        """Say which shards' part of a result is missing."""
        if shards:
            names = ", ".join(str(shard) for shard in shards)
            self.complain(f"shard {names} did not answer in time: what it has is missing here")

    def progress(self, *, in_bytes: bool = False) -> Progress:
        """Return a progress bar on stderr; it shows nothing where nobody looks."""
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        console = _console(to_stderr=True)
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn() if in_bytes else MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    # --- questions

    def confirm(self, question: str) -> None:
        """Ask before something is destroyed, unless --yes was said.

        Raises:
            click.Abort: the answer was not yes.
        """
        if not self.yes:
            click.confirm(question, abort=True, err=True)


def _console(*, to_stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=to_stderr, highlight=False)
    if not console.is_terminal:
        console.width = _PLAIN_COLUMNS
    return console


# --- options


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep a shared option's value; one that was not given leaves that of an outer level."""
    if value:
        setattr(ctx.find_object(Invocation), parameter.name or "", value)


def shared_options(*, with_environment: bool = False) -> list[click.Parameter]:
    """Return the options that stand before and behind every verb.

    Args:
        with_environment: whether the environment is read here; only the outermost level does, so
            that it never wins over what was said.
    """
    return [
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Print JSON: one document, or one line for each element of a list.",
        ),
        click.Option(
            ["--url"],
            metavar="URL",
            envvar="FLASHQ_URL" if with_environment else None,
            expose_value=False,
            callback=_remember,
            help="The server: tcp://host:port or ipc:///path [FLASHQ_URL].",
        ),
        click.Option(
            ["--token"],
            metavar="TEXT",
            envvar="FLASHQ_TOKEN" if with_environment else None,
            expose_value=False,
            callback=_remember,
            help="Shown to the server; others can see it here, so better set it in FLASHQ_TOKEN.",
        ),
    ]


class Verb(click.Command):
    """A command that takes the shared options too, except for names that it uses itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taken = {option for parameter in self.params for option in parameter.opts}
        self.params += [
            option for option in shared_options() if not taken.intersection(option.opts)
        ]


class Noun(click.Group):
    """A group of verbs about one thing; its verbs stand in the order in which they are written."""

    command_class = Verb

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in their order."""
        return list(self.commands)


def yes_option(function: F) -> F:
    """Add --yes to a verb that asks before it destroys something."""
    return click.option(
        "--yes",
        "-y",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="Do not ask.",
    )(function)


pass_invocation: Final = click.make_pass_decorator(Invocation)
