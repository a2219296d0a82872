"""The asyncio form of the client's methods, derived from the blocking one.

Owns the rewriting of `flashq/client/methods.py`: every method of `Methods` becomes a coroutine, and
every call of one on `self` is awaited. Docstrings, signatures and conversions stay as they are.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).resolve().parent.parent / "flashq/client/methods.py"
TARGET: Final = SOURCE.with_name("async_methods.py")

_PLAIN: Final = frozenset({"_use_token"})
"""Methods that do not wait."""

_DOCSTRING: Final = '''\
"""The client's methods, one for each command, as coroutines.

Generated from flashq/client/methods.py by `python -m tools.generate`; do not edit.
"""
'''


def render() -> str:
    """Return the text of `flashq/client/async_methods.py`."""
    text = SOURCE.read_text(encoding="utf-8")
    tree = ast.parse(text)
    lines = text.splitlines(keepends=True)
    (methods,) = (
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Methods"
    )
    functions = [
        node
        for node in methods.body
        if isinstance(node, ast.FunctionDef) and node.name not in _PLAIN
    ]
    names = {function.name for function in functions}
    insertions = [(node.lineno, node.col_offset, "async ") for node in functions]
    looked_into = {
        node.value for node in ast.walk(methods) if isinstance(node, ast.Attribute | ast.Subscript)
    }
    for node in ast.walk(methods):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "self"
            and node.func.attr in names
        ):
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
    return _formatted(_DOCSTRING + body.replace("class Methods(", "class AsyncMethods("))


def _formatted(text: str) -> str:
    """Have ruff break the lines that got too long."""
    return subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
