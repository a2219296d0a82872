"""An event loop of a worker's own, which ends though handlers do not.

`asyncio.run` waits without end for tasks that take no cancelling and for threads of the default
executor; a worker that was told to stop ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

PATIENCE_S: Final = 1.0
"""How long the loop waits at its end for tasks that handlers have left behind."""


def run_in_own_loop(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in a new event loop, and close that.

    Raises:
        RuntimeError: this thread's event loop runs already.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        loop = asyncio.new_event_loop()
    else:
        coroutine.close()
        raise RuntimeError("an event loop runs in this thread: await serve() there")
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(coroutine)
    finally:
        try:
            loop.run_until_complete(_end_tasks())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


async def _end_tasks() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=PATIENCE_S)
