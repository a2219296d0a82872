"""Which web pages may ask: by the Host and Origin that browsers send, and what else they say."""

from __future__ import annotations

from typing import Any

import pytest

from flashq.errors import NotAllowed
from flashq.gateway.http_origins import Origins, headers_of

BROWSER = "Mozilla/5.0 (X11; Linux x86_64)"


def may_ask(
    origins: Origins | None = None,
    *,
    changes: bool = False,
    host: str = "localhost:6790",
    **more: str,
) -> bool:
    """Tell whether a request with these headers is let in; `_` stands for `-` in their names."""
    raw = [(b"host", host.encode("latin-1"))] if host else []
    raw += [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in more.items()]
    try:
        (origins or Origins()).check(headers_of(raw), changes=changes)
    except NotAllowed:
        return False
    return True


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:6790", "LOCALHOST:1", "127.0.0.1:6790", "[::1]:6790", "127.9.9.9",
     "localhost.", "flashq.localhost:6790", "[::ffff:127.0.0.1]:6790", ""],
)  # fmt: skip
def test_the_hosts_own_names_are_the_servers(host: str) -> None:
    """In every spelling, and none at all, which browsers cannot do."""
    assert may_ask(host=host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:6790", "localhost.evil.example", "127.0.0.1.evil.example",
     "10.0.0.1:6790", "queue", "[fe80::1]:6790", "localhost@evil.example", "localhost:1:2",
     "localhost/", "evil.example#localhost", "localhost evil", "[::1", "\xe9", "localhost\\x"],
)  # fmt: skip
def test_a_server_of_this_host_alone_has_no_other_name(host: str) -> None:
    """A name that was made to lead here is how a page from anywhere gets the server's own origin
    for its browser."""
    assert not may_ask(host=host)
    assert not may_ask(host=host, origin=f"http://{host}", sec_fetch_site="same-origin")


def test_two_hosts_are_none() -> None:
    """Whoever is asked between here and there may have judged the other one."""
    raw = [(b"host", b"localhost"), (b"host", b"localhost")]
    for origins in (Origins(), Origins(is_open=False), Origins(hosts=["*"])):
        with pytest.raises(NotAllowed, match="more than one Host"):
            origins.check(headers_of(raw))


def test_a_host_that_was_refused_is_refused_again() -> None:
    """And one that was let in is let in again: what is remembered is the verdict."""
    origins = Origins()
    for _ in range(2):
        assert may_ask(origins)
        assert not may_ask(origins, host="evil.example")


def test_a_name_is_added_by_the_settings() -> None:
    """As behind a proxy; any other stays refused."""
    origins = Origins(hosts=["queue.example.com"])
    assert may_ask(origins, host="Queue.Example.com:443")
    assert may_ask(origins)
    assert not may_ask(origins, host="example.com")
    assert may_ask(Origins(hosts=["*"]), host="anything.example")


def test_where_tokens_are_asked_for_any_name_will_do_unless_some_are_set() -> None:
    """A page that was led here has no token."""
    assert may_ask(Origins(is_open=False), host="queue.example.com")
    assert not may_ask(Origins(is_open=False, hosts=["queue.example.com"]), host="evil.example")


@pytest.mark.parametrize("host", ["10.0.0.5:6790", "[2001:db8::1]", "flashq", "flashq:6790"])
def test_a_server_that_others_reach_takes_addresses_and_bare_names(host: str) -> None:
    """Nobody can have such a name lead elsewhere and here in turns; containers use them."""
    origins = Origins("0.0.0.0", own_names=["box.example.net"])
    assert may_ask(origins, host=host)
    assert may_ask(origins, host="box.example.net:6790")
    assert not may_ask(origins, host="evil.example")


def test_the_servers_own_pages_may_ask() -> None:
    """Browsers send the origin of each POST, and say that it is the same."""
    for origin in ("http://localhost:6790", "https://LOCALHOST:6790"):
        assert may_ask(origin=origin, changes=True, user_agent=BROWSER)
    assert may_ask(sec_fetch_site="same-origin", changes=True, user_agent=BROWSER)
    assert may_ask(sec_fetch_site="none", changes=True, user_agent=BROWSER)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": ""},
        {"origin": "http://localhost:3000"}, {"origin": "http://localhost"},
        {"origin": "http://localhost:6790.evil.example"}, {"origin": "file://"},
        {"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
        {"sec_fetch_site": "else"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_open", [True, False])
def test_a_page_of_another_site_may_not(headers: dict[str, Any], is_open: bool) -> None:
    """Neither change anything nor read: an image, a script, a form and `fetch` all say so. Another
    port of this host is another site's too."""
    for changes in (True, False):
        assert not may_ask(Origins(is_open=is_open), changes=changes, **headers)


def test_a_link_from_another_site_opens_what_only_shows() -> None:
    """Somebody may write down where a job is; a link that takes jobs is refused."""
    link: dict[str, Any] = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert may_ask(**link)
    assert not may_ask(changes=True, **link)


def test_an_origin_is_let_in_by_the_settings() -> None:
    """Scheme, name and port count; what has no origin is still refused."""
    origins = Origins(origins=["https://ops.example:8443"])
    said: dict[str, Any] = {"sec_fetch_site": "cross-site", "changes": True}
    assert may_ask(origins, origin="https://OPS.example:8443", **said)
    for other in ("https://ops.example", "http://ops.example:8443", "https://evil.example"):
        assert not may_ask(origins, origin=other, **said)
    assert not may_ask(origins, **said)
    assert may_ask(Origins(origins=["*"]), origin="https://evil.example", **said)
    assert not may_ask(Origins(origins=["*"]), host="evil.example")


def test_a_browser_that_does_not_say_for_whom_it_asks_may_read_but_change_nothing() -> None:
    """Old ones send an image's GET without a word; a token or a header of its own, which no image
    can have, lets it in. Programs are no browsers."""
    assert not may_ask(changes=True, user_agent=BROWSER)
    assert may_ask(user_agent=BROWSER)
    assert may_ask(changes=True, user_agent=BROWSER, authorization="Bearer x")
    assert may_ask(changes=True, user_agent=BROWSER, x_requested_with="me")
    for program in ("node", "Python-urllib/3.12", "curl/8.5.0", "Go-http-client/1.1", ""):
        assert may_ask(changes=True, user_agent=program)
