"""Who may use which route, as the table says it."""

from __future__ import annotations

import pytest

from flashq.gateway.http_routes import OWN_ROUTES, Rights, Route, command_routes
from flashq.protocol.command import Role

ROUTES = (*command_routes(), *OWN_ROUTES)

#: What older clients do over HTTP; they may be anywhere, and may have no token.
OLDER_CLIENTS = (
    ("POST", "/queues/{queue}/jobs"),
    ("GET", "/queues/{queue}/jobs"),
    ("POST", "/jobs/{id}/ack"),
    ("POST", "/jobs/{id}/fail"),
    ("GET", "/stats"),
    ("GET", "/metrics"),
    ("GET", "/queues"),
    ("POST", "/workers/{worker}/heartbeat"),
)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method}-{route.path}")
def test_what_takes_an_administrator_takes_the_host_without_tokens(route: Route) -> None:
    """That, and nothing else: else a token would be asked for less, or for more, than none."""
    assert (route.rights is Rights.OPERATOR) == (route.role is Role.ADMIN)


@pytest.mark.parametrize("prefix", ["/server/", "/settings/", "/webhooks"])
def test_what_is_about_the_server_itself_takes_an_administrator(prefix: str) -> None:
    """Also to read what webhooks there are: their addresses may have secrets in them."""
    found = [
        route
        for route in ROUTES
        if route.path.startswith(prefix) and not route.path.startswith("/webhooks/incoming/")
    ]
    assert found
    assert {route.role for route in found} == {Role.ADMIN}


@pytest.mark.parametrize(("method", "path"), OLDER_CLIENTS)
def test_older_clients_may_be_anywhere(method: str, path: str) -> None:
    """None of what they do over HTTP is an administrator's."""
    (route,) = [one for one in ROUTES if (one.method, one.path) == (method, path)]
    assert route.rights is Rights.TOKEN
