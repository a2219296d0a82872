"""The asyncio form of the client's methods, derived from the blocking one.

Owns the rewriting: every method becomes a coroutine, every call of one on `self` is awaited, and
classes and modules get `Async` before their name. Docstrings, signatures and conversions stay as
they are.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Final

CLIENT: Final = Path(__file__).resolve().parent.parent / "flashq/client"
MODULES: Final = ("caller", "methods", "queue_methods")
CLASSES: Final = ("Caller", "Methods", "QueueMethods")

_PLAIN: Final = frozenset({"_use_token"})
"""Methods that do not wait."""

_NOTE: Final = (
    "Generated from flashq/client/{module}.py by `python -m tools.generate`; do not edit."
)


def twins() -> dict[str, partial[str]]:
    """Return path and renderer of each generated module."""
    return {f"flashq/client/async_{module}.py": partial(render, module) for module in MODULES}


def _methods(tree: ast.Module) -> list[ast.FunctionDef]:
    return [
        node
        for part in tree.body
        if isinstance(part, ast.ClassDef) and part.name in CLASSES
        for node in part.body
        if isinstance(node, ast.FunctionDef) and node.name not in _PLAIN
    ]


def _source(module: str) -> tuple[str, ast.Module]:
    text = (CLIENT / f"{module}.py").read_text(encoding="utf-8")
    return text, ast.parse(text)


def render(module: str) -> str:
    """Return the text of `flashq/client/async_<module>.py`."""
    waiting = {node.name for name in MODULES for node in _methods(_source(name)[1])}
    text, tree = _source(module)
    lines = text.splitlines(keepends=True)
    looked_into = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Subscript)
    }
    insertions = [(node.lineno, node.col_offset, "async ") for node in _methods(tree)]
    for node in ast.walk(tree):
        if not (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "self"
            and node.func.attr in waiting
        ):
            continue
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        if node in looked_into:
            insertions.append((node.lineno, node.col_offset, "(await "))
            insertions.append((node.end_lineno, node.end_col_offset, ")"))
        else:
            insertions.append((node.lineno, node.col_offset, "await "))
    for line, column, word in sorted(insertions, reverse=True):
        old = lines[line - 1].encode()
        lines[line - 1] = (old[:column] + word.encode() + old[column:]).decode()
    docstring = tree.body[0]
    assert docstring.end_lineno is not None
    body = "".join(lines[docstring.end_lineno :])
    body = re.sub(rf"\b({'|'.join(CLASSES)})\b", r"Async\1", body)
    body = re.sub(rf"flashq\.client\.({'|'.join(MODULES)})\b", r"flashq.client.async_\1", body)
    head = f'"""The asyncio form of `{module}`.\n\n{_NOTE.format(module=module)}\n"""\n'
    return _formatted(head + body, CLIENT / f"async_{module}.py")


def _formatted(text: str, target: Path) -> str:
    """Have ruff order the imports and break the lines that got too long."""
    for command in (("check", "--select", "I", "--fix", "--quiet"), ("format",)):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(target), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return text
