"""The registry: every command once, as data.

From a command's record are derived: dispatch, decoders, routing, the SDK's and the command line's
coverage (checked by tests), metrics labels and the command table of the docs. Adding a command is
its record, beside its request in the module of its noun, and its handler; nothing else.
"""

from __future__ import annotations

from typing import Any, Final

from flashq.protocol import crons, jobs, leases, queues, server, sessions, webhooks
from flashq.protocol.command import Command

COMMANDS: Final[tuple[Command, ...]] = (
    *jobs.COMMANDS,
    *leases.COMMANDS,
    *queues.COMMANDS,
    *crons.COMMANDS,
    *webhooks.COMMANDS,
    *server.COMMANDS,
    *sessions.COMMANDS,
)

BY_WORD: Final[dict[str, Command]] = {command.word: command for command in COMMANDS}
BY_REQUEST: Final[dict[type[Any], Command]] = {command.request: command for command in COMMANDS}
WORD_ALIASES: Final[dict[str, str]] = {"UPDATE": "UPDATEJOB"}
"""Words that older documents used."""
