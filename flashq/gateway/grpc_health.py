"""The health service of the gRPC door, with a bound on how many peers watch it.

Owns the number of watches. What the health is, the door says.
"""

from __future__ import annotations

from typing import Any, Final

import grpc
from grpc_health.v1 import health

from flashq.gateway.grpc_service import Context

SERVICE_NAME_BYTES_MAX: Final = 256


class BoundedHealth(health.aio.HealthServicer):
    """Health, watched by a bounded number of peers: a watch is a call that never ends by itself.

    Args:
        watches_max: most watches at a time.
    """

    def __init__(self, watches_max: int) -> None:
        super().__init__()
        self._watches_max: Final = watches_max
        self._watches = 0

    async def Watch(self, request: Any, context: Context) -> None:  # noqa: N802  the contract's name
        """Send a service's health, now and whenever it changes."""
        if len(request.service.encode()) > SERVICE_NAME_BYTES_MAX:
            text = f"the name of a service has at most {SERVICE_NAME_BYTES_MAX} bytes"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        if self._watches >= self._watches_max:
            text = f"busy: {self._watches_max} calls watch the health already; use Check"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        self._watches += 1
        try:
            await super().Watch(request, context)
        finally:
            self._watches -= 1
