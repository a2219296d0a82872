"""Base classes and field types that the commands share.

Numbers of milliseconds, counts and ids are unsigned and at most 2**53 - 1, so that every client
language can write them. An optional field takes null for "not given".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Raw, Struct

from flashq.protocol.patterns import PATTERNS_MAX, Pattern

Unsigned = Annotated[int, Meta(ge=0, le=2**53 - 1)]
"""A count, an id, a time or a duration in milliseconds."""
U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
I32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
SessionId = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""16 random bytes that a client makes up once; base64 in JSON."""
Text = Annotated[str, Meta(pattern=r"^[^\x00]*$")]
"""What names something, or is shown to people in a list: any text without NUL, which not every
storage and no C string can hold. Payloads, results and messages are not looked at."""
Name = Annotated[str, Meta(max_length=256, pattern=r"^[^\x00]*$")]
"""A short one."""
IDS_MAX = 100_000
"""So many ids, tokens or entries stand in a list at most, whatever the settings allow."""
Ids = Annotated[list[Unsigned], Meta(max_length=IDS_MAX)]
Tokens = Annotated[list[Unsigned | None], Meta(max_length=IDS_MAX)]
Within = Annotated[list[Pattern], Meta(max_length=PATTERNS_MAX)]
if TYPE_CHECKING:
    OptionalRaw = Raw | None
else:
    # msgspec takes nothing but null for `Raw | None`. A null on the wire is a Raw that holds null;
    # None stands for a field that is not there.
    OptionalRaw = Raw
Durability = Literal["durable", "async", "memory"]
OnDependencyFailure = Literal["fail", "ignore", "wait"]


class Request(
    Struct, kw_only=True, omit_defaults=True, tag_field="cmd", forbid_unknown_fields=True
):
    """A command's body. A field that the command does not have is refused.

    `within` counts for jobs that are named by id: a job whose queue fits none of these patterns (as
    of file names) does not exist. Doors say it for tokens that are for some queues only.

    `reqId` is what older clients add to every request; it means nothing here.
    """

    within: Within | None = None
    reqId: OptionalRaw = None  # noqa: N815


class Mutation(Request, kw_only=True, omit_defaults=True):
    """A command that changes state, and may be protected against being carried out twice.

    A client that names `session` and `n` (one number for each request, rising) may repeat the
    request after a lost connection: a repeat gets the first one's answer. The answers below
    `done_below` are no longer needed.
    """

    session: SessionId | None = None
    n: Unsigned | None = None
    done_below: Unsigned | None = None


class Reply(Struct, kw_only=True):
    """A command's successful answer."""

    ok: bool = True


class ErrorReply(Struct, kw_only=True):
    """The answer to a request that failed. `retryable`: nothing happened, and a repeat can help."""

    ok: bool = False
    error: str
    code: str
    retryable: bool = False


class TextReply(Reply, kw_only=True, omit_defaults=True):
    """`cut` characters were left out of the middle of a text that is too long to be kept whole."""

    ok: bool
    cut: int = 0


class CountReply(Reply, kw_only=True):
    count: int
