"""The pages for people: the dashboard and the reader of the API's description.

Owns which files are served under which paths. They are read once, and load nothing from elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from flashq.errors import PathUnknown

DIRECTORY: Final = Path(__file__).parents[1] / "dashboard" / "static"
DASHBOARD: Final = "dashboard.html"
DOCS: Final = "docs.html"

_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "application/javascript",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'; connect-src 'self' ws: wss:; "
    "style-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Pages:
    """All files, in memory."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._files: Final = {
            path.relative_to(directory).as_posix(): path.read_bytes()
            for path in sorted(directory.rglob("*"))
            if path.suffix in _TYPES
        }

    async def dashboard(self, _request: Request) -> Response:
        """Give the dashboard."""
        return self._page(DASHBOARD)

    async def docs(self, _request: Request) -> Response:
        """Give the reader of the API's description."""
        return self._page(DOCS)

    async def file(self, request: Request) -> Response:
        """Give what a page needs."""
        name = request.path_params["file"]
        if name not in self._files:
            raise PathUnknown(path=request.url.path)
        return self._page(name)

    def _page(self, name: str) -> Response:
        kind = _TYPES[Path(name).suffix]
        return Response(self._files[name], media_type=kind, headers=_HEADERS)
