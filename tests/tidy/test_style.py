"""The style of the source, where the linter and the import contracts cannot say it."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SOURCE_DIRECTORIES: Final = ("flashq", "tools", "benchmarks", "examples", "tests")
TEXT_SUFFIXES: Final = {
    "", ".cfg", ".js", ".json", ".css", ".html", ".md", ".proto", ".py", ".service", ".sh", ".sql",
    ".target", ".toml", ".txt", ".yaml", ".yml",
}  # fmt: skip

MODULE_LINES_MAX: Final = 600
FUNCTION_LINES_MAX: Final = 80

JUNK_DRAWERS: Final = {"util", "utils", "common", "helper", "helpers", "misc", "manager", "stuff"}

#: What a pure module may not touch: time, randomness, I/O, threads and logging. Also what the
#: import contracts do not list because no pure module has a reason to come near it.
IMPURE_MODULES: Final = {
    "asyncio", "concurrent", "fcntl", "io", "logging", "mmap", "multiprocessing", "os", "pathlib",
    "queue", "random", "secrets", "select", "selectors", "signal", "socket", "socketserver", "ssl",
    "structlog", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid", "zmq",
}  # fmt: skip
IMPURE_CALLS: Final = {"breakpoint", "input", "open", "print"}
IMPURE_METHODS: Final = {"now", "today", "utcnow"}

#: What `protocol`, `errors` and `ids` may import of what is not the standard library.
PROTOCOL_MAY_IMPORT: Final = {"msgspec", "flashq.errors", "flashq.ids", "flashq.protocol"}

# Split, so that this file does not break its own rules.
UNFINISHED: Final = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b|NotImplemented" r"Error")
MACHINE_PATH: Final = re.compile(r"(?<![\w./-])/(?:root|home|Users|work)/\w")


def python_files() -> list[Path]:
    """Return every Python file of the project."""
    return sorted(path for name in SOURCE_DIRECTORIES for path in (ROOT / name).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(), str(path))


def name_of(path: Path) -> str:
    """Return a file's path as a test's id."""
    return path.relative_to(ROOT).as_posix()


def is_generated(path: Path) -> bool:
    """Return whether the file says that it is not written by hand."""
    return "Generated" in "\n".join(path.read_text().splitlines()[:5])


def is_pure(path: Path) -> bool:
    """Return whether a module has to be pure: engines and everything that they stand on."""
    name = name_of(path)
    return (
        name in ("flashq/errors.py", "flashq/ids.py", "flashq/client/connection.py")
        or name.startswith("flashq/protocol/")
        or (name.startswith("flashq/shard/") and path.name != "process.py")
        or (name.startswith("flashq/") and path.name == "engine.py")
    )


def imports_of(tree: ast.Module) -> Iterator[str]:
    """Yield the full name of every module that is imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            if node.module == "flashq":
                yield from (f"flashq.{alias.name}" for alias in node.names)
            else:
                yield node.module


PYTHON_FILES: Final = python_files()
PURE_FILES: Final = [path for path in PYTHON_FILES if is_pure(path)]
TEST_FILES: Final = [path for path in PYTHON_FILES if name_of(path).startswith("tests/")]
PROTOCOL_FILES: Final = [
    ROOT / "flashq" / "errors.py",
    ROOT / "flashq" / "ids.py",
    *sorted((ROOT / "flashq" / "protocol").rglob("*.py")),
]


def calls_of(path: Path) -> Iterator[ast.Call]:
    """Yield every call in a file."""
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))


def test_there_are_files_to_look_at() -> None:
    """A rule that looks at no file holds for ever."""
    assert len(PYTHON_FILES) > len(TEST_FILES) > 100
    assert len(PURE_FILES) > 50
    assert len(PROTOCOL_FILES) > 10


def test_a_module_opens_with_what_it_owns() -> None:
    """The first lines of a file say what belongs there and what does not."""
    assert [name_of(path) for path in PYTHON_FILES if not ast.get_docstring(tree_of(path))] == []


def test_a_module_fits_in_the_head() -> None:
    """A file that grows without bound has become two."""
    long = [
        f"{name_of(path)}: {lines} lines"
        for path in PYTHON_FILES
        if (lines := len(path.read_text().splitlines())) > MODULE_LINES_MAX
        and not is_generated(path)
    ]
    assert long == []


def test_a_function_fits_on_a_screen() -> None:
    """A function that does not has parts with names."""
    long = [
        f"{name_of(path)}:{node.lineno} {node.name}: {lines} lines"
        for path in PYTHON_FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_a_name_says_what_is_inside() -> None:
    """A junk drawer takes everything, and so nothing is found in it."""
    drawers = [
        name
        for name in map(name_of, PYTHON_FILES)
        if JUNK_DRAWERS
        & {word for part in Path(name).with_suffix("").parts for word in part.split("_")}
    ]
    assert drawers == []


def test_nothing_is_left_unfinished() -> None:
    """Work that is missing stands in the issue, not in the source."""
    unfinished = [
        f"{name_of(path)}:{number}: {line}"
        for path in PYTHON_FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert unfinished == []


def test_a_test_does_not_sleep() -> None:
    """A test that sleeps and hopes is slow on a fast machine and fails on a slow one."""
    sleeps = [
        f"{name_of(path)}:{node.lineno}"
        for path in TEST_FILES
        for node in calls_of(path)
        if ast.unparse(node.func) in ("time.sleep", "sleep", "asyncio.sleep")
        and [ast.unparse(argument) for argument in node.args] != ["0"]
    ]
    assert sleeps == []


def test_an_engine_imports_nothing_impure() -> None:
    """Time is an argument: only so can the simulation replay a run from its seed."""
    impure = [
        f"{name_of(path)}: {name}"
        for path in PURE_FILES
        for name in imports_of(tree_of(path))
        if name.split(".")[0] in IMPURE_MODULES
    ]
    assert impure == []


def test_an_engine_calls_nothing_impure() -> None:
    """Builtins and clocks need no import of their own."""
    found = []
    for path in PURE_FILES:
        for call in calls_of(path):
            called = call.func
            is_builtin = isinstance(called, ast.Name) and called.id in IMPURE_CALLS
            is_clock = (
                isinstance(called, ast.Attribute)
                and called.attr in IMPURE_METHODS
                and ast.unparse(called.value).rsplit(".", 1)[-1] in ("date", "datetime")
            )
            if is_builtin or is_clock:
                found.append(f"{name_of(path)}:{call.lineno} {ast.unparse(called)}")
    assert found == []


def test_an_engine_does_not_swallow_its_own_mistakes() -> None:
    """A broken invariant kills the process, and the log brings it back in a state that holds."""
    caught = [
        f"{name_of(path)}:{handler.lineno}"
        for path in PURE_FILES
        for handler in ast.walk(tree_of(path))
        if isinstance(handler, ast.ExceptHandler)
        and (handler.type is None or ast.unparse(handler.type) in ("Exception", "BaseException"))
    ]
    assert caught == []


def test_protocol_stands_on_msgspec_alone() -> None:
    """A client in another process, or another project, can take the protocol as it is."""
    foreign = [
        f"{name_of(path)}: {name}"
        for path in PROTOCOL_FILES
        for name in imports_of(tree_of(path))
        if name.split(".")[0] in ("flashq", "msgspec", "msgpack", "zmq", "click", "rich")
        and not any(name == may or name.startswith(may + ".") for may in PROTOCOL_MAY_IMPORT)
    ]
    assert foreign == []


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    """What works only where it was written does not work."""
    found = [
        f"{name_of(path)}:{number}"
        for path in sorted(ROOT.rglob("*"))
        if not any(part.startswith(".") and part != ".ci" for part in path.relative_to(ROOT).parts)
        and path.is_file()
        and path.suffix in TEXT_SUFFIXES
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_import_contracts_name_every_package() -> None:
    """A new package has to be placed in the table of who may import whom."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = {
        module
        for contract in project["tool"]["importlinter"]["contracts"]
        for key in ("source_modules", "forbidden_modules", "modules")
        for module in contract.get(key, [])
    }
    packages = {
        f"flashq.{path.stem}"
        for path in (ROOT / "flashq").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert packages - named <= {"flashq.__init__", "flashq.__main__", "flashq.version"}
