"""The HTTP application of contract 4.4, put together.

`create_app` gives an ASGI application for any `Backend`. Interactive documentation is left out on
purpose: FastAPI's loads scripts from a content delivery network, which our Content-Security-Policy
forbids and a cluster without internet could not reach; `/openapi.json` feeds any tool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from controller.api import events, live, metrics, pages, probes, problems, routes
from controller.api.backend import Backend
from controller.api.guard import Guard
from controller.api.pressure import Budget, Readers

_ABOUT = (
    "Online model evaluation and rollout: where models stand, why they moved, and how to move "
    "them. Errors are RFC 9457 problem documents."
)


def create_app(backend: Backend, *, hosts: frozenset[str] | None = None) -> FastAPI:
    """The application that serves `backend`.

    hosts  names, without ports and in lower case, that a `Host` header may carry; None lets
           every name pass. Give them where the server listens on loopback.
    """
    app = FastAPI(
        title="Understudy",
        version=_version(),
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.backend = backend
    app.state.hub = live.Hub()
    app.state.budget = Budget()
    app.state.readers = Readers()
    app.state.registry = metrics.registry(backend, app.state.budget)
    app.add_middleware(Guard, budget=app.state.budget, hosts=hosts)
    problems.install(app)
    for room in (routes, events, live, metrics, probes, pages):
        app.include_router(room.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    pump = asyncio.create_task(app.state.hub.pump(app.state.backend))
    yield
    pump.cancel()
    await asyncio.gather(pump, return_exceptions=True)


def _version() -> str:
    try:
        return version("understudy")
    except PackageNotFoundError:  # run from a folder that is not installed
        return "0"


def _openapi(app: FastAPI) -> dict[str, object]:
    """FastAPI's document, with problems under their media type."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        for path in schema["paths"].values():
            for operation in path.values():
                _retype(operation["responses"])
        for unused in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(unused, None)
        app.openapi_schema = schema
    return app.openapi_schema


def _retype(responses: dict[str, dict[str, dict[str, dict[str, dict[str, str]]]]]) -> None:
    for response in responses.values():
        body = response.get("content", {}).get("application/json", {})
        if body.get("schema", {}).get("$ref", "").endswith(("/Problem", "/HTTPValidationError")):
            schema = {"$ref": "#/components/schemas/Problem"}
            response["content"] = {problems.MEDIA_TYPE: {"schema": schema}}
