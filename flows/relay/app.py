"""The relay's web application: one address for the registry's webhook, one for health."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flows.relay import events
from flows.relay.settings import Settings
from flows.relay.trigger import Trigger
from flows.relay.verify import RefusedError, Seen, check

log = logging.getLogger("detcompose.relay")

PATH = "/webhooks/mlflow"
MAX_BODY = 256 * 1024
"""A version's description and tags are within; MLflow's own limit of a tag is 100,000 letters."""
BODY_SECONDS = 10.0


class TooLargeError(Exception):
    """More bytes than a delivery has."""


def make_app(settings: Settings | None = None) -> Starlette:
    """The application.

    Args:
        settings: Default: from the environment.

    Raises:
        UserError: There is no secret.
    """
    chosen = settings or Settings.from_environment()
    trigger = Trigger(chosen)
    seen = Seen()

    async def deliver(request: Request) -> JSONResponse:
        try:
            body = await asyncio.wait_for(_body(request), BODY_SECONDS)
        except TooLargeError:
            return _answer(413, "too large")
        except (TimeoutError, ClientDisconnect):
            return _answer(408, "too slow")
        now = time.time()
        try:
            delivery = check(request.headers, body, chosen.secret, now)
        except RefusedError as error:
            log.warning("refused a delivery: %s", error)
            return _answer(401, "refused")
        try:
            event = events.parse(body)
        except ValueError as error:
            log.warning("refused a delivery that is signed, but %s", error)
            return _answer(400, "malformed")
        # MLflow sends again what it has no answer to; an answer of 200 ends that
        if not seen.add(delivery, now):
            return _answer(200, "known")
        if event is None:
            return _answer(200, "ignored")
        log.info("%s version %s %s", event.model, event.version, event.alias or "")
        trigger.notify()
        return _answer(202, "accepted")

    async def health(_: Request) -> JSONResponse:
        return _answer(200, "ok")

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        worker = asyncio.create_task(trigger.run())
        yield
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker

    routes = [Route(PATH, deliver, methods=["POST"]), Route("/health", health, methods=["GET"])]
    return Starlette(routes=routes, lifespan=lifespan)


async def _body(request: Request) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > MAX_BODY:
        raise TooLargeError
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise TooLargeError
    return bytes(body)


def _answer(status: int, text: str) -> JSONResponse:
    return JSONResponse({"status": text}, status)
