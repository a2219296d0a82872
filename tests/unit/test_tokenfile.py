"""Where tokens come from: settings, a file that is read again, and the server's own."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from flashq.config import Settings
from flashq.errors import ConfigError, TokenInvalid
from flashq.rundir import RunDir
from flashq.tokenfile import TokenSource, own_token
from flashq.tokens import EVERYTHING, entry_text


def source(tmp_path: Path, *, with_own: bool = False, text: str | None = None) -> TokenSource:
    """Return the tokens of a program with these settings."""
    path = tmp_path / "tokens.toml"
    if text is not None:
        path.write_text(text)
        path.chmod(0o600)
    settings = Settings(
        run_dir=str(tmp_path / "run"),
        auth_tokens="plain",
        tokens_file="" if text is None else str(path),
    )
    return TokenSource(settings, "flashq-test", with_own=with_own)


def test_without_tokens_a_program_is_open(tmp_path: Path) -> None:
    """And writes no token of its own."""
    tokens = TokenSource(Settings(run_dir=str(tmp_path)), "flashq-test", with_own=True)
    assert tokens.guard.is_open
    assert not list(tmp_path.iterdir())


def test_settings_and_file_count_together(tmp_path: Path) -> None:
    """The older setting goes on beside a file."""
    tokens = source(tmp_path, text=entry_text("filed", "read"))
    assert tokens.can_change
    for token in ("plain", "filed"):
        assert tokens.guard.show(token, None, 0).grant(tokens.guard) is not None
    assert not source(tmp_path).can_change


def test_the_file_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What does not fit then is only said, and the tokens stay as they were."""
    tokens = source(tmp_path, text=entry_text("first", "read"))
    path = tmp_path / "tokens.toml"
    path.write_text(entry_text("second", "read"))
    keyring = tokens.reread()
    assert keyring is not None
    tokens.guard.replace(keyring)
    assert tokens.guard.show("second", None, 0).grant(tokens.guard) is not None
    with pytest.raises(TokenInvalid):
        tokens.guard.show("first", None, 0)
    path.write_text('token = "second"')
    assert tokens.reread() is None
    path.unlink()
    assert tokens.reread() is None
    said = "".join(capsys.readouterr())
    assert "cannot be read" in said
    assert "second" not in said


@pytest.mark.parametrize("content", [None, b"\xff", b"[[token]]"])
def test_a_file_that_does_not_fit_is_refused_at_start(
    tmp_path: Path, content: bytes | None
) -> None:
    """A server that could not read it would let nobody in, or everybody."""
    path = tmp_path / "tokens.toml"
    if content is not None:
        path.write_bytes(content)
    settings = Settings(run_dir=str(tmp_path), tokens_file=str(path))
    with pytest.raises(ConfigError, match="tokens file"):
        TokenSource(settings, "flashq-test")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    """They could let themselves in. When the file is read again it is only said, as always."""
    text = entry_text("first", "read")
    tokens = source(tmp_path, text=text)
    path = tmp_path / "tokens.toml"
    path.chmod(mode)
    assert tokens.reread() is None
    assert f"its mode is {mode:04o}" in "".join(capsys.readouterr())
    settings = Settings(run_dir=str(tmp_path), tokens_file=str(path))
    with pytest.raises(ConfigError, match=f"do: chmod go-w {path}"):
        TokenSource(settings, "flashq-test")


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_that_everybody_can_read_the_file_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int, warned: bool
) -> None:
    """It has no tokens, but hashes, names and queues; a group may be meant to read it."""
    tokens = source(tmp_path, text=entry_text("first", "read"))
    (tmp_path / "tokens.toml").chmod(mode)
    assert tokens.reread() is not None
    assert ("everybody on this machine" in "".join(capsys.readouterr())) == warned


def test_the_servers_own_token_is_made_once_for_its_user_only(tmp_path: Path) -> None:
    """And counts where the server's programs come in, and nowhere else."""
    run_dir = RunDir(str(tmp_path / "run"))
    own = own_token(run_dir)
    assert own_token(run_dir) == own
    assert len(own) >= 43
    assert stat.S_IMODE(run_dir.own_token.stat().st_mode) == 0o600
    assert [path.name for path in run_dir.path.iterdir()] == ["own.token"]
    guard = source(tmp_path, with_own=True).guard
    assert guard.show(own, None, 0).grant(guard) is EVERYTHING
    with pytest.raises(TokenInvalid):
        source(tmp_path).guard.show(own, None, 0)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o622])
def test_an_own_token_that_others_can_know_is_made_anew(tmp_path: Path, mode: int) -> None:
    """The directory was open to them once: they read it, or put one there."""
    run_dir = RunDir(str(tmp_path / "run"))
    run_dir.create()
    run_dir.own_token.write_text("planted")
    run_dir.own_token.chmod(mode)
    own = own_token(run_dir)
    assert own != "planted"
    assert own_token(run_dir) == own
    assert stat.S_IMODE(run_dir.own_token.stat().st_mode) == 0o600
