"""The relay's web application: one address for the registry's webhook, one for health."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from composition.errors import UserError
from flows.relay import events
from flows.relay.settings import Settings
from flows.relay.trigger import Trigger
from flows.relay.verify import RefusedError, Seen, check
from tasks import tracking
from tasks.home import Home
from tasks.webhooks import register_webhook

log = logging.getLogger("detcompose.relay")

PATH = "/webhooks/mlflow"
MAX_BODY = 256 * 1024
"""A version's description and tags are within; MLflow's own limit of a tag is 100,000 letters."""
BODY_SECONDS = 10.0
REGISTER_SECONDS = 15


class TooLargeError(Exception):
    """More bytes than a delivery has."""


def make_app(settings: Settings | None = None) -> Starlette:
    """The application.

    Args:
        settings: Default: from the environment.

    Raises:
        UserError: There is no secret.
    """
    relay = _Relay(settings or Settings.from_environment())
    routes = [
        Route(PATH, relay.deliver, methods=["POST"]),
        Route("/health", relay.health, methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=relay.lifespan)


class _Relay:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._trigger = Trigger(settings)
        self._seen = Seen()

    async def deliver(self, request: Request) -> JSONResponse:
        try:
            body = await asyncio.wait_for(_body(request), BODY_SECONDS)
        except TooLargeError:
            return _answer(413, "too large")
        except (TimeoutError, ClientDisconnect):
            return _answer(408, "too slow")
        return self._answer_to(request.headers, body)

    def _answer_to(self, headers: Mapping[str, str], body: bytes) -> JSONResponse:
        now = time.time()
        try:
            delivery = check(headers, body, self._settings.secret, now)
            event = events.parse(body)
        except RefusedError as error:
            log.warning("refused a delivery: %s", error)
            return _answer(401, "refused")
        except ValueError as error:
            log.warning("refused a delivery that is signed, but %s", error)
            return _answer(400, "malformed")
        # MLflow sends again what it has no answer to; an answer of 200 ends that
        if not self._seen.add(delivery, now):
            return _answer(200, "known")
        if event is None:
            return _answer(200, "ignored")
        log.info("%s version %s %s", event.model, event.version, event.alias or "")
        self._trigger.notify()
        return _answer(202, "accepted")

    async def health(self, _: Request) -> JSONResponse:
        return _answer(200, "ok")

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        workers = [asyncio.create_task(self._trigger.run())]
        if self._settings.register:
            workers.append(asyncio.create_task(_register(self._settings)))
        yield
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _register(settings: Settings) -> None:
    """Registers the webhook as soon as the MLflow server answers; it may start later than we do."""
    while True:
        try:
            connection = await asyncio.to_thread(tracking.client, Home.default())
            secret = settings.secret.decode()
            hook = await asyncio.to_thread(register_webhook, connection, settings.register, secret)
        except UserError as error:
            log.warning("the webhook is not registered: %s; again in %s s", error.problem, REGISTER_SECONDS)
            await asyncio.sleep(REGISTER_SECONDS)
        else:
            log.info("webhook %r sends to %s", hook.name, hook.url)
            return


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
