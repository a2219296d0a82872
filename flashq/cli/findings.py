"""What `flashq doctor` finds: the answer to one question, in a form for people and programs.

Every finding is a sentence with what was found and, where something is wrong, what to do about it.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Verdict = Literal["ok", "warning", "wrong"]


class Finding(Struct, frozen=True, omit_defaults=True):
    """The answer to one question.

    Args:
        check: the question in a word or two.
        verdict: ok, warning (it works, but) or wrong.
        text: what was found.
        advice: what to do.
    """

    check: str
    verdict: Verdict
    text: str
    advice: str = ""


def ok(check: str, text: str) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(check, "ok", text)
