"""Tokens: what their file may say, what each opens, and how often a wrong one may be tried."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.errors import (
    AuthenticationRequired,
    ConfigError,
    NotAllowed,
    TokenInvalid,
    TooManyAttempts,
)
from flashq.protocol.codec import encode
from flashq.protocol.command import Role
from flashq.protocol.registry import BY_WORD, COMMANDS
from flashq.tokens import (
    ADDRESSES_MAX,
    ATTEMPT_MS,
    ATTEMPTS_MAX,
    EVERYTHING,
    Grant,
    Guard,
    Keyring,
    digest_of,
    entry_text,
    read_entries,
)

HERE = "10.0.0.1"


def check(grant: Grant, word: str, queue: str | None = None, **fields: Any) -> tuple[str, ...]:
    """Ask a grant for a command."""
    body = encode({"cmd": word, "queue": queue, **fields})
    return grant.check(BY_WORD[word], queue, body, json=False)


class TestFile:
    def test_what_is_written_is_read(self) -> None:
        """Also a name that TOML has to quote."""
        text = entry_text("one", "worker", ["mail-*", 'a"b'], 'the "big" box')
        text += entry_text("two", "admin")
        first, second = read_entries(text, "tokens.toml")
        assert (first.role, first.queues, first.name) == (
            "worker",
            ("mail-*", 'a"b'),
            'the "big" box',
        )
        assert (second.role, second.queues, second.name) == ("admin", (), "")
        assert "one" not in text

    def test_an_empty_file_lets_nobody_in(self) -> None:
        guard = Guard(Keyring(entries=read_entries("", "tokens.toml")))
        assert not guard.is_open
        with pytest.raises(TokenInvalid):
            guard.show("x", HERE, 0)

    @pytest.mark.parametrize(
        "text",
        [
            "token = 5",
            "[[token",
            "[[tokens]]",
            '[[token]]\nhash = "secret"\nrole = "admin"',
            f'[[token]]\nhash = "sha256:{"0" * 64}"\nrole = "boss"',
            f'[[token]]\nhash = "sha256:{"0" * 64}"',
            f'[[token]]\nhash = "sha256:{"0" * 64}"\nrole = "read"\nqueue = "q"',
            f'[[token]]\nhash = "sha256:{"0" * 64}"\nrole = "read"\nqueues = [""]',
        ],
    )
    def test_anything_else_is_refused_without_its_values(self, text: str) -> None:
        """Somebody may have written a token where its hash belongs."""
        with pytest.raises(ConfigError, match=r"^the tokens file tokens\.toml ") as refused:
            read_entries(text, "tokens.toml")
        assert "secret" not in str(refused.value)


class TestGrant:
    @pytest.mark.parametrize("role", [role for role in Role if role is not Role.ANYONE])
    def test_a_role_may_do_what_commands_of_it_do(self, role: Role) -> None:
        """Everybody may read; workers do not push, and producers do not pull."""
        may = {Role.ANYONE, Role.READ, role} if role is not Role.ADMIN else set(Role)
        for command in COMMANDS:
            if command.role in may:
                assert check(Grant(role), command.word, "q") == ()
            else:
                with pytest.raises(NotAllowed, match=f"a token for {command.role.value}, not"):
                    check(Grant(role), command.word, "q")

    def test_a_queue_has_to_fit_a_pattern(self) -> None:
        grant = Grant(Role.ADMIN, ("mail-*", "exact", "x[12]"))
        for queue in ("mail-", "mail-in", "exact", "x1"):
            for word in ("PUSH", "PULLB", "PAUSE", "GETJOBS", "SUBSCRIBE", "DLQ"):
                assert check(grant, word, queue) == grant.queues, "jobs in the reply name others"
        for queue in ("mail", "Mail-in", "exact2", "x3", "", "*"):
            for word in ("PUSH", "PULLB", "PAUSE", "GETJOBS", "SUBSCRIBE", "DLQ"):
                with pytest.raises(NotAllowed):
                    check(grant, word, queue)

    @pytest.mark.parametrize(
        "word",
        ["LISTQUEUES", "STATS", "METRICS", "GETJOBS", "GETJOBBYCUSTOMID", "CRON", "CRONLIST"],
    )
    def test_a_pattern_excludes_what_is_about_all_queues(self, word: str) -> None:
        """A cron pushes to any queue; a list of queues names them all."""
        with pytest.raises(NotAllowed, match="about all"):
            check(Grant(Role.ADMIN, ("a*",)), word)

    @pytest.mark.parametrize("word", ["ACK", "ACKB", "GETJOB", "WAITJOB", "CANCEL", "GETCHILDREN"])
    def test_jobs_by_id_are_left_to_their_shard(self, word: str) -> None:
        """Nobody else knows their queues."""
        assert check(Grant(Role.ADMIN, ("a*",)), word) == ("a*",)
        assert check(Grant(Role.ADMIN), word) == ()

    def test_children_count_too(self) -> None:
        """They may be of other queues than their parent."""
        grant = Grant(Role.PRODUCER, ("a*",))
        children = [{"queue": "a1", "data": 1}, {"queue": "b", "data": 1}]
        assert check(grant, "FLOW", "a", data=1, children=children[:1]) == ("a*",)
        with pytest.raises(NotAllowed):
            check(grant, "FLOW", "a", data=1, children=children)

    @pytest.mark.parametrize("word", ["HELLO", "SESSIONHEARTBEAT", "GOODBYE", "AUTH"])
    def test_the_connection_is_everybodys(self, word: str) -> None:
        """A heartbeat names jobs, though."""
        assert check(Grant(Role.READ, ("a*",)), word) == ("a*",)
        assert check(Grant(Role.READ), word) == ()

    def test_only_an_admin_of_all_queues_needs_no_check(self) -> None:
        assert EVERYTHING.is_everything
        assert not Grant(Role.ADMIN, ("*",)).is_everything
        assert not Grant(Role.WORKER).is_everything


class TestGuard:
    def test_an_open_server_takes_anything(self) -> None:
        guard = Guard()
        for token in ("whatever", None):
            assert guard.show(token, HERE, 0).grant(guard) is EVERYTHING
        assert (guard.is_open, guard.tokens_count) == (True, 0)

    def test_each_token_opens_what_it_is_for(self) -> None:
        entries = read_entries(entry_text("w", "worker", ["a"], "box"), "f")
        guard = Guard(Keyring(["plain", "sésame"], entries))
        assert guard.tokens_count == 3
        assert guard.show("plain", HERE, 0).grant(guard) is EVERYTHING
        assert guard.show("sésame".encode(), HERE, 0).grant(guard) is EVERYTHING
        assert guard.show("w", HERE, 0).grant(guard) == Grant(Role.WORKER, ("a",), "box")
        with pytest.raises(AuthenticationRequired):
            guard.show(None, HERE, 0)
        for wrong in ("", "plai", "plain2", "PLAIN", "x" * 10_000, "\ud800"):
            with pytest.raises(TokenInvalid):
                guard.show(wrong, None, 0)

    def test_other_tokens_count_at_once(self) -> None:
        """A connection that has shown one which is taken away is as if it had shown none."""
        guard = Guard(Keyring(["one"], read_entries(entry_text("two", "read"), "f")))
        one, two = guard.show("one", HERE, 0), guard.show("two", HERE, 0)
        guard.replace(Keyring([], read_entries(entry_text("two", "worker"), "f")))
        assert one.grant(guard) is None
        assert two.grant(guard) == Grant(Role.WORKER)

    def test_nothing_shows_a_token(self) -> None:
        guard = Guard(Keyring(["secret"]))
        shown = guard.show("secret", HERE, 0)
        digest = digest_of("secret")
        for text in map(repr, (guard, shown, shown.grant(guard), Keyring(["secret"]))):
            assert "secret" not in text
            assert digest.hex() not in text
            assert repr(digest) not in text


class TestAttempts:
    def test_wrong_tokens_are_limited_by_address(self) -> None:
        """Beyond the limit not even a right one is told to be right; in time there is another
        attempt. Other addresses are not concerned, nor is a place without one."""
        guard = Guard(Keyring(["right"]))
        for _ in range(ATTEMPTS_MAX):
            with pytest.raises(TokenInvalid):
                guard.show("wrong", HERE, 0)
        for token in ("wrong", "right"):
            with pytest.raises(TooManyAttempts, match="in 6 s"):
                guard.show(token, HERE, 0)
        assert guard.show("right", "10.0.0.2", 0).grant(guard) is EVERYTHING
        assert guard.show("right", None, 0).grant(guard) is EVERYTHING
        with pytest.raises(TooManyAttempts):
            guard.show("wrong", HERE, ATTEMPT_MS - 1)
        with pytest.raises(TokenInvalid):
            guard.show("wrong", HERE, ATTEMPT_MS)
        with pytest.raises(TooManyAttempts):
            guard.show("wrong", HERE, ATTEMPT_MS)
        assert guard.show("right", HERE, 2 * ATTEMPT_MS).grant(guard) is EVERYTHING

    def test_who_was_let_in_before_is_let_in_again(self) -> None:
        """One bad client behind an address does not lock out the others there."""
        guard = Guard(Keyring(["right", "other"]))
        guard.show("right", HERE, 0)
        for _ in range(ATTEMPTS_MAX):
            with pytest.raises(TokenInvalid):
                guard.show("wrong", HERE, 0)
        assert guard.show("right", HERE, 0).grant(guard) is EVERYTHING
        with pytest.raises(TooManyAttempts):
            guard.show("other", HERE, 0)
        guard.replace(Keyring(["other"]))
        with pytest.raises(TokenInvalid):
            guard.show("right", HERE, 0)
        with pytest.raises(TooManyAttempts):
            guard.show("right", HERE, 0)

    def test_no_token_is_no_attempt(self) -> None:
        guard = Guard(Keyring(["right"]))
        for _ in range(2 * ATTEMPTS_MAX):
            with pytest.raises(AuthenticationRequired):
                guard.show(None, HERE, 0)
        assert guard.show("right", HERE, 0).grant(guard) is EVERYTHING

    def test_addresses_are_bounded(self) -> None:
        """The one heard of longest ago is forgotten first."""
        guard = Guard(Keyring(["right"]))
        for number in range(ADDRESSES_MAX + 1):
            for _ in range(ATTEMPTS_MAX if number < 2 else 1):
                with pytest.raises(TokenInvalid):
                    guard.show("wrong", f"host-{number}", 0)
        assert guard.show("right", "host-0", 0).grant(guard) is EVERYTHING
        assert len(guard._addresses) == ADDRESSES_MAX
