"""What the demo computes: a few figures about a Python file, and which files there are.

Pure but for reading the files. The queue's workers and the plain loop call the same functions, so
that any difference is the queue's.
"""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path
from typing import Final

FIGURES: Final = ("lines", "functions", "classes", "syntax_errors")

_FOREIGN: Final = {"site-packages", "dist-packages", "__pycache__"}


def library() -> Path:
    """Return the directory of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def source_files(limit: int | None = None) -> list[str]:
    """Return the standard library's .py files, as paths relative to it.

    Args:
        limit: at most so many, spread over all of them.
    """
    root = library()
    found = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if path.is_file() and not _FOREIGN.intersection(path.parts)
    )
    if limit is None or limit >= len(found):
        return found
    return [found[place * len(found) // limit] for place in range(limit)]


def index_file(name: str) -> dict[str, int]:
    """Return the figures of one file.

    Args:
        name: its path, relative to the library.
    """
    source = (library() / name).read_bytes()
    figures = dict.fromkeys(FIGURES, 0)
    figures["lines"] = len(source.splitlines())
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # the library has broken files to test with
        figures["syntax_errors"] = 1
        return figures
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            figures["functions"] += 1
        elif isinstance(node, ast.ClassDef):
            figures["classes"] += 1
    return figures


def totals(figures: dict[str, dict[str, int]]) -> dict[str, int]:
    """Return the sums over all files."""
    return {name: sum(of_file[name] for of_file in figures.values()) for name in FIGURES}
