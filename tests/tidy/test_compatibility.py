"""What docs/COMPATIBILITY.md claims is proved by tests: whether those exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

from tests.gateway.scenarios import SCENARIOS

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "docs" / "COMPATIBILITY.md").read_text()


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the tests of a module, as pytest names them."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        before = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        found |= {f"{before}{one.name}" for one in inner if isinstance(one, functions)}
    return frozenset(found)


def test_every_test_that_is_named_exists() -> None:
    """A test that was renamed or removed takes its claim with it."""
    named = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", TEXT)
    assert len(named) > 40
    assert [f"{path}::{name}" for path, name in named if name not in names_in(path)] == []


def test_every_scenario_that_is_named_exists() -> None:
    """They are the names without a path."""
    names = {scenario.__name__ for scenario in SCENARIOS}
    _, _, rows = TEXT.partition("## Point by point")
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+|batches|dependencies)`", rows))
    assert named - names - {"job_id", "parent_data", "children_ids", "unique_key"} == set()
