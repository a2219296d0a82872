"""The door for HTTP: REST, events, WebSocket, metrics, health and the pages for people.

Owns the listening socket, the web application and what every request goes through: who may ask,
errors in the envelope, durations. What is answered is its neighbours' business, and what jobs mean
is the shards'.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.routing import Route as WebRoute

from flashq.clock import SystemClock
from flashq.config import Settings
from flashq.errors import (
    FlashQError,
    Internal,
    MethodNotAllowed,
    NotAllowed,
    PathUnknown,
)
from flashq.gateway import openapi, prometheus
from flashq.gateway.bridge import Bridge
from flashq.gateway.http_access import Access, Visitor
from flashq.gateway.http_administration import Administration, Place
from flashq.gateway.http_commands import Commands, Endpoint, refuse, respond
from flashq.gateway.http_connection import BoundedServer, ServerWords, bounded_protocol
from flashq.gateway.http_events import EventLogs
from flashq.gateway.http_health import Health
from flashq.gateway.http_origins import Origins
from flashq.gateway.http_overview import Overview
from flashq.gateway.http_pages import Pages
from flashq.gateway.http_places import Places
from flashq.gateway.http_routes import OWN_ROUTES, Rights, Route, command_routes
from flashq.gateway.listening import listening_socket
from flashq.gateway.sse import sse_response
from flashq.gateway.websocket import HEARD_BYTES_MAX, Sockets
from flashq.observability.logging import log_of
from flashq.protocol.webhooks import WebhookView
from flashq.tokens import Guard, Keyring

BACKLOG: Final = 1024
KEEP_ALIVE_S: Final = 75
PREFLIGHT_S: Final = 600
COORDINATOR_S: Final = 2.0
"""How long the figures of everybody else wait for those of the coordinator."""
LEFT_STATUS: Final = 499
"""Of the response that nobody reads, because the client is gone."""


WebEndpoint = Callable[[Request], Awaitable[Response]]


class HttpDoor:
    """The door.

    Args:
        bridge: the way to the server.
        settings: for bounds, and for what is told of them.
        guard: who may ask; without one, the tokens of the settings decide.
        stop_server: makes the whole server end; None where this gateway cannot.
    """

    def __init__(
        self,
        bridge: Bridge,
        settings: Settings,
        *,
        guard: Guard | None = None,
        stop_server: Callable[[], None] | None = None,
    ) -> None:
        clock = SystemClock()
        self._bridge: Final = bridge
        self._settings: Final = settings
        self._mono_s: Final = asyncio.get_running_loop().time
        keeper = guard or _guard_of(settings)
        origins = _origins_of(settings, is_open=keeper.is_open)
        self._access: Final = Access(keeper, clock.mono_ms, origins)
        self._commands: Final = Commands(bridge, private_webhooks=settings.webhook_private_targets)
        self._overview: Final = Overview(bridge, clock.wall_ms, self._mono_s)
        self._logs: Final = EventLogs(bridge, os.urandom(6).hex())
        self._sockets: Final = Sockets(self._access, self._logs, self._overview)
        self._durations: Final = prometheus.Durations()
        self._pages: Final = Pages()
        self._description: Final = msgspec.json.encode(openapi.document())
        self._health: Final = Health(
            bridge, self._overview, has_postgres=settings.storage.startswith("postgres")
        )
        self._administration: Final = Administration(
            self._commands,
            self._overview,
            bridge.shard_count,
            self._place,
            wall_ms=clock.wall_ms,
            mono_s=self._mono_s,
            stop_server=stop_server,
        )
        #: the port that is listened on, once it is
        self.port = settings.http_port
        self._server: BoundedServer | None = None
        self._serving: asyncio.Task[None] | None = None

    # --- its life

    async def listen(self, host: str, port: int) -> str:
        """Listen on a TCP port (0 for a free one), and return the endpoint for people.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        listening = listening_socket("http", host, port)
        name, self.port = listening.getsockname()[:2]
        server = BoundedServer(
            uvicorn.Config(
                self._application(),
                http=bounded_protocol(Places(self._settings.gateway_connections_max)),
                ws="websockets-sansio",
                ws_max_size=HEARD_BYTES_MAX,
                ws_per_message_deflate=False,  # it would cost every listener 100 KB and more
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # a header says nothing about who asks
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        ServerWords.install(log_of("flashq-gateway"))
        self._server = server
        self._administration.connections = lambda: server.connections
        self._serving = asyncio.ensure_future(server.serve([listening]))
        await server.accepting(self._serving)
        return f"http://{f'[{name}]' if ':' in name else name}:{self.port}"

    def tokens_replaced(self) -> None:
        """Let everybody go whose token is none any more: they may have nothing to read for long."""
        self._logs.wake()

    async def drain(self, timeout_s: float) -> None:
        """Let nobody in any more, end streams and waiting, and answer what else was asked.

        Args:
            timeout_s: how long that may take.
        """
        self._commands.close()
        self._sockets.close()
        self._logs.close()
        if self._server is not None and self._serving is not None:
            self._server.config.timeout_graceful_shutdown = math.ceil(timeout_s)
            self._server.should_exit = True
            await self._serving
        await self._overview.close()

    # --- the application

    def _application(self) -> Starlette:
        application = Starlette(
            routes=self._routes(),
            middleware=_cors(self._settings.origins()),
            exception_handlers={HTTPException: _refused, Exception: _failed},
        )
        application.router.redirect_slashes = False
        return application

    def _routes(self) -> list[BaseRoute]:
        """Return all routes, those of commands first."""
        own = self._handlers()
        public: dict[str, WebEndpoint] = {
            "health": self._health.health,
            "live": self._health.live,
            "ready": self._health.ready,
        }
        routes: list[BaseRoute] = []
        for route in (*command_routes(), *OWN_ROUTES):
            if route.rights is Rights.ANYBODY:
                web = _answering(public[route.handler])
            elif route.command is not None:
                endpoint = self._commands.endpoint(route.command)
                web = self._guarded(route.command.word, route, endpoint)
            else:
                web = self._guarded(route.handler, route, own[route.handler])
            routes.append(_web_route(route.pattern, web, route.method, changes=route.changes))
        for path, page in (
            ("/", self._pages.dashboard),
            ("/dashboard", self._pages.dashboard),
            ("/docs", self._pages.docs),
            ("/static/{file:path}", self._pages.file),
            ("/openapi.json", self._describe),
        ):
            routes.append(_web_route(path, _answering(self._at_home(page)), "GET"))
        routes += (
            WebSocketRoute("/ws", self._sockets.events),
            WebSocketRoute("/ws/dashboard", self._sockets.dashboard),
            WebSocketRoute("/ws/{queue}", self._sockets.events),
        )
        return routes

    def _handlers(self) -> dict[str, Endpoint]:
        """Return what answers the routes that are no commands and not for everybody, by name."""
        names = {route.handler for route in OWN_ROUTES if route.rights is not Rights.ANYBODY}
        own: dict[str, Endpoint] = {"prometheus": self._prometheus, "sse": self._sse}
        return own | {name: getattr(self._administration, name) for name in names - own.keys()}

    def _guarded(self, name: str, route: Route, endpoint: Endpoint) -> WebEndpoint:
        """Return an endpoint that checks who asks, and says what is wrong in the envelope."""
        observe, mono_s = self._durations.observe, self._mono_s

        async def guarded(request: Request) -> Response:
            began = mono_s()
            outcome = "ok"
            try:
                response = await endpoint(request, self._admit(route, request))
            except ClientDisconnect:
                return Response(status_code=LEFT_STATUS)
            except FlashQError as error:
                outcome = error.code
                response = refuse(error)
            observe(name, outcome, mono_s() - began)
            return response

        return guarded

    def _admit(self, route: Route, request: Request) -> Visitor:
        """Let somebody in who may use a route. What a command's body says is checked later.

        Raises:
            FlashQError: he may not.
        """
        visitor = self._access.admit(request, changes=route.changes)
        if route.rights is Rights.OPERATOR:
            self._access.check_operator(request)
        if not visitor.grant.is_everything:
            visitor.grant.check_role(route.role)
            if route.command is None and route.spans_queues:
                visitor.grant.check_queue(request.path_params.get("queue"))
        return visitor

    def _at_home(self, page: WebEndpoint) -> WebEndpoint:
        """Return a page that is given under the server's own names only."""

        async def give(request: Request) -> Response:
            self._access.check_host(request)
            return await page(request)

        return give

    async def _sse(self, request: Request, visitor: Visitor) -> Response:
        return await sse_response(self._logs, request, visitor)

    async def _prometheus(self, _request: Request, _visitor: Visitor) -> Response:
        view, webhooks = await asyncio.gather(self._overview.count(), self._webhooks_or_none())
        figures = prometheus.GatewayFigures(
            listeners=self._logs.readers,
            websockets=self._sockets.connections,
            outstanding=self._bridge.outstanding,
        )
        page = prometheus.render(self._durations, view, figures, webhooks)
        return Response(page, headers={"content-type": prometheus.CONTENT_TYPE})

    async def _webhooks_or_none(self) -> list[WebhookView] | None:
        """Return what is known of webhooks; None while the coordinator is away, whose figures these
        are: all others are worth having without them."""
        try:
            async with asyncio.timeout(COORDINATOR_S):
                return await self._overview.webhooks()
        except (TimeoutError, FlashQError):
            return None

    async def _describe(self, _request: Request) -> Response:
        return respond(self._description)

    def _place(self) -> Place:
        settings = self._settings
        return Place(settings.port, self.port, settings.storage, self._access.tokens_count)


def _guard_of(settings: Settings) -> Guard:
    tokens = settings.tokens()
    return Guard(Keyring(tokens)) if tokens else Guard()


def _origins_of(settings: Settings, *, is_open: bool) -> Origins:
    return Origins(
        settings.host,
        is_open=is_open,
        hosts=settings.hosts(),
        origins=settings.origins(),
        own_names=(socket.gethostname(),) if not settings.is_local else (),
    )


def _cors(origins: tuple[str, ...]) -> list[Middleware]:
    """Return what tells browsers that pages of these sites may ask; nothing for none."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            max_age=PREFLIGHT_S,
        )
    ]


def _web_route(pattern: str, web: WebEndpoint, method: str, *, changes: bool = False) -> WebRoute:
    route = WebRoute(pattern, web, methods=[method])
    if changes and route.methods is not None:
        route.methods.discard("HEAD")  # which asks for no jobs, though they come by GET
    return route


def _answering(page: WebEndpoint) -> WebEndpoint:
    """Return an endpoint that says what is wrong in the envelope."""

    async def answer(request: Request) -> Response:
        try:
            return await page(request)
        except FlashQError as error:
            return refuse(error)

    return answer


async def _refused(request: Request, error: Exception) -> Response:
    """Say in the envelope what the router of paths has refused."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:256]
    if error.status_code == PathUnknown.http_status:
        return refuse(PathUnknown(path=path))
    if error.status_code == MethodNotAllowed.http_status:
        response = refuse(MethodNotAllowed(method=request.method, path=path))
        response.headers.update(error.headers or {})
        return response
    return refuse(NotAllowed(detail=error.detail))


async def _failed(_request: Request, _error: Exception) -> Response:
    """Say in the envelope that this program has made a mistake; the server logs which."""
    return refuse(Internal())
