"""`flashq token`: makes a token, and the entry that lets it in.

The token itself is printed once and kept nowhere: the tokens file has only its hash.
"""

from __future__ import annotations

import secrets

import click

from flashq.cli.verbs import Invocation, Verb, pass_invocation
from flashq.protocol.command import Role
from flashq.tokens import TOKEN_RANDOM_BYTES, entry_text, read_entries

_ROLES = [role.value for role in Role if role is not Role.ANYONE]


@click.command(cls=Verb)
@click.argument("role", type=click.Choice(_ROLES))
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="PATTERN",
    help="Queues that it is for, as in 'mail-*'; may be said more than once. All without it.",
)
@click.option("--name", default="", help="Whose it is, for people who read the file.")
@pass_invocation
def token(invocation: Invocation, role: str, queues: tuple[str, ...], name: str) -> None:
    """Make a token for ROLE, and print it and its entry for the server's tokens file.

    Append the entry to the file that FLASHQ_TOKENS_FILE names and send the server SIGHUP; give the
    token to the client as FLASHQ_TOKEN. It is not shown again.
    """
    made = secrets.token_urlsafe(TOKEN_RANDOM_BYTES)
    entry = entry_text(made, role, queues, name)
    read_entries(entry, "entry")  # what a server would refuse is not printed
    if invocation.as_json:
        invocation.document({"token": made, "entry": entry})
        return
    click.echo(f"The token, for FLASHQ_TOKEN; it is not shown again:\n\n{made}\n", err=True)
    click.echo(entry, nl=False)
