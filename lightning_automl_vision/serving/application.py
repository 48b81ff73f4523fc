"""The routes: what is asked over HTTP, and how every refusal looks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightning_automl_vision.jobs.serve import traffic_fault
from lightning_automl_vision.log import LOG
from lightning_automl_vision.result import versions
from lightning_automl_vision.serving.access import Access
from lightning_automl_vision.serving.body import read_body
from lightning_automl_vision.serving.contents import parsed
from lightning_automl_vision.serving.openapi import (
    DEPLOYMENTS,
    LIVE,
    METRICS,
    READY,
    SECURITY,
    TRAFFIC,
    described_score,
)
from lightning_automl_vision.serving.refusals import Refused
from lightning_automl_vision.serving.service import Service

DEPLOYMENT = "azureml-model-deployment"
"""The header that names a deployment, of a request and of its answer."""

_PAGE = {
    "": ("index.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "drawing.js": ("drawing.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
_GUARDS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_HEADERS = [(name.lower().encode(), value.encode()) for name, value in _GUARDS.items()]
_TRAFFIC_BYTES = 100_000
_LINGER, _DROPPED = 2.0, 64_000_000  # seconds and bytes
_FAILED = "The server failed. Its log says why."


def application(service: Service, access: Access, failed: Callable[[Exception], None]) -> FastAPI:
    """The app; ``failed`` is told when a model cannot be loaded."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        opening = asyncio.create_task(_opened(service, failed))
        yield
        opening.cancel()
        service.close()

    app = FastAPI(
        title="lightning-automl-vision",
        version=versions()["lightning-automl-vision"],
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    _add_page(app)
    _add_health(app, service)
    _add_scoring(app, service, access)
    _add_administration(app, service, access)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_middleware(_Guarded)
    return app


async def _opened(service: Service, failed: Callable[[Exception], None]) -> None:
    try:
        await service.open()
        LOG.info("Ready.")
    except Exception as error:
        failed(error)


def _add_page(app: FastAPI) -> None:
    folder = files("lightning_automl_vision.serving") / "page"
    for place, (name, kind) in _PAGE.items():
        content = (folder / name).read_bytes()
        app.add_api_route(f"/{place}", _giver(content, kind), include_in_schema=False)


def _giver(content: bytes, kind: str) -> Callable[[], Response]:
    return lambda: Response(content, media_type=kind)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health/live", **LIVE)
    async def live() -> Response:
        return _json({"status": "live"})

    @app.get("/health/ready", **READY)
    async def ready() -> Response:
        service.check_ready()
        if service.is_draining:
            raise Refused(503, "The server is ending. Ask another.")
        return _json({"status": "ready"})


def _add_scoring(app: FastAPI, service: Service, access: Access) -> None:
    @app.post("/score", **described_score(service.config.maximum_images))
    async def score(request: Request) -> Response:
        try:
            access.check(request.headers)
            service.check_ready()
            deployment = service.named(request.headers.get(DEPLOYMENT))
        except Refused as refusal:
            service.metrics.requests.labels("none", str(refusal.status)).inc()
            raise
        answer = await service.score(deployment, request.stream(), request.headers)
        return Response(answer, media_type="application/json", headers={DEPLOYMENT: deployment.name})


def _add_administration(app: FastAPI, service: Service, access: Access) -> None:
    def described() -> Response:
        shares = service.traffic.percentages
        return _json([one.described(shares[name]) for name, one in service.deployments.items()])

    @app.get("/deployments", **DEPLOYMENTS)
    async def deployments(request: Request) -> Response:
        access.check(request.headers)
        return described()

    @app.put("/traffic", **TRAFFIC)
    async def traffic(request: Request) -> Response:
        if not access.is_guarded:
            raise Refused(403, "Traffic is changed with a key only: start the server with serve.auth_mode=key.")
        access.check(request.headers)
        body = await read_body(request.stream(), request.headers, _TRAFFIC_BYTES)
        service.traffic.change(_percentages(body, service))
        LOG.info("traffic: %s", dict(service.traffic.percentages))
        return described()

    @app.get("/metrics", **METRICS)
    async def metrics(request: Request) -> Response:
        access.check(request.headers)
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        access.check(request.headers)
        return _json(openapi_of(app))


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """The description of every route, and of the key."""
    document = app.openapi()
    return {**document, "components": {**document.get("components", {}), "securitySchemes": SECURITY}}


def _percentages(body: bytes, service: Service) -> dict[str, float]:
    document: Any = parsed(body, "The body")
    fault = traffic_fault(document, service.deployments)
    if fault:
        raise Refused(400, f"Traffic stays as it is: {fault}.")
    return {name: float(percentage) for name, percentage in document.items()}


def _json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(document), status, headers=headers, media_type="application/json")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _json({"error": error.reason}, error.status, error.headers)


async def _no_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = {404: "There is no such page.", 405: "This page is not asked that way."}.get(
        error.status_code, error.detail
    )
    return _json({"error": reason}, error.status_code, dict(error.headers or {}))


class _Guarded:
    """Headers on every answer, and an answer to everything, which tells nothing of the server's inside."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, is_read = False, not _has_body(scope)

        async def receive_noted() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = is_read or not message.get("more_body", False)
            return message

        async def send_guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                closing = [] if is_read else [(b"connection", b"close")]
                message["headers"] = [*message.get("headers", ()), *_HEADERS, *closing]
            elif not is_read and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await _drop(receive_noted)
                message = {"type": "http.response.body"}
            await send(message)

        try:
            await self._app(scope, receive_noted, send_guarded)
        except ClientDisconnect:
            return
        except Exception as error:
            LOG.error("%s %s failed.", scope["method"], scope["path"], exc_info=error)
            if not begun:
                await _json({"error": _FAILED}, 500)(scope, receive, send_guarded)


async def _drop(receive: Receive) -> None:
    """A little of what still comes: many clients look for their answer only when all is sent."""
    dropped = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            while dropped < _DROPPED:
                message = await receive()
                dropped += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
