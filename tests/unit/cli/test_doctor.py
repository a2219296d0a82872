"""`flashq doctor`: with a server, without one, and with settings that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashq.coordinator.acceptance import begin_marks
from flashq.datadir import DataDir
from flashq.storage.sqlite import SqliteStorage
from tests.unit.cli.conftest import Run
from tests.unit.cli.replies import teach
from tests.unit.client.fake_server import FakeServer, error


def test_without_a_server(run: Run, run_dir: Path) -> None:
    """That is when it is needed most: everything else is checked, and the status is 1."""
    outcome = run("doctor", "--run-dir", str(run_dir), "--json")
    assert outcome.status == 1
    assert outcome.err == ""
    wrong = [one for one in outcome.document["findings"] if one["verdict"] == "wrong"]
    assert [one["check"] for one in wrong] == ["router"]
    assert "flashq serve" in wrong[0]["advice"]
    assert outcome.document["ok"] is False
    assert outcome.document["processes"] == {}


def test_settings_that_cannot_be_loaded(run: Run, run_dir: Path, tmp_path: Path) -> None:
    """Are a finding like any other; the rest is still checked."""
    config = tmp_path / "flashq.toml"
    config.write_text("shards = 0\n")
    outcome = run("doctor", "--config", str(config), "--run-dir", str(run_dir))
    assert outcome.status == 1
    assert "✗ settings: shards in " in outcome.out
    assert "✗ router: " in outcome.out
    assert outcome.out.endswith("2 things wrong, 0 warnings\n")


def test_an_endpoint_that_is_none(run: Run) -> None:
    """The doctor looks at what is wrong; it does not stumble over it."""
    outcome = run("doctor", "--url", "http://localhost")
    assert outcome.status == 1
    assert "tcp://host:port or ipc:///path" in outcome.out


def test_with_a_server(ask: Run, fake: FakeServer, run_dir: Path) -> None:
    """The socket's path says the run directory, so the shards' own sockets are asked too."""
    teach(fake)
    fake.epochs = [1]
    outcome = ask("doctor", "--json")
    checks = {one["check"]: one["verdict"] for one in outcome.document["findings"]}
    assert checks["router"] == "ok"
    assert checks["coordinator"] == "ok"
    assert checks["shards"] == "ok"
    assert checks["shard sockets"] == "wrong"
    assert checks["tokens"] == "warning"
    assert "the server is open" in outcome.out
    assert checks["run directory"] == "ok"
    assert outcome.document["server"]["version"] == "0"
    assert str(run_dir) in outcome.out


def test_a_server_that_asks_for_tokens_is_not_open(ask: Run, fake: FakeServer) -> None:
    """Whether the doctor has one or not."""
    teach(fake)
    fake.answer("UNSUBSCRIBE", lambda _body: error("authentication_required"))
    checks = {one["check"]: one["verdict"] for one in ask("doctor", "--json").document["findings"]}
    assert checks["tokens"] == "ok"


def test_another_door_says_no_run_directory(
    run: Run, monkeypatch: pytest.MonkeyPatch, run_dir: Path
) -> None:
    """A server that is reached in another way than by its run directory may be on another machine:
    only its router is asked."""
    monkeypatch.setenv("FLASHQ_RUN_DIR", f"{run_dir}/elsewhere")
    with FakeServer(f"ipc://{run_dir}/door.sock") as fake:
        teach(fake)
        found = run("doctor", "--url", fake.url, "--json").document["findings"]
    checks = {one["check"]: one["verdict"] for one in found}
    assert checks["shards"] == "ok"
    assert "shard sockets" not in checks


def test_a_storage_is_read_as_a_whole(run: Run, tmp_path: Path) -> None:
    """None yet; one that is whole; one that is gone; and after that loss was accepted."""
    words = ("doctor", "--storage", "--data-dir", str(tmp_path))
    outcome = run(*words)
    assert (outcome.status, "nothing has been stored" in outcome.out) == (0, True)
    storage, directory = SqliteStorage(tmp_path / "flashq.db"), DataDir(str(tmp_path))
    begin_marks(directory, storage.open(32)).close()
    storage.close()
    directory.close()
    outcome = run(*words)
    assert (outcome.status, "all of it is there and whole" in outcome.out) == (0, True)
    for file in tmp_path.glob("flashq.db*"):
        file.unlink()
    outcome = run(*words)
    assert (outcome.status, "empty or not there" in outcome.out) == (1, True)
    assert "--accept-loss" in outcome.out
    outcome = run(*words, "--accept-loss")
    assert (outcome.status, "goes on without this" in outcome.out) == (0, True)
    assert "! storage, losses: accepted" in run(*words).out


def test_what_goes_with_the_storage_is_said(run: Run) -> None:
    """Nobody thinks that a loss was accepted."""
    for words in (("--accept-loss",), ("--data-dir", "x")):
        outcome = run("doctor", *words)
        assert (outcome.status, "go with --storage" in outcome.err) == (2, True)
