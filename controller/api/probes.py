"""`/healthz`: the process answers. `/readyz`: it can do its work, or what is missing."""

from __future__ import annotations

from fastapi import APIRouter

from controller.api.problems import ProblemError
from controller.api.routes import Controller
from controller.api.schemas import Probe, Problem

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> Probe:
    """Alive: restarting would not help."""
    return Probe(status="alive")


@router.get("/readyz", responses={503: {"model": Problem}})
async def readyz(backend: Controller) -> Probe:
    """Ready, or 503 with what is missing."""
    components = backend.ready()
    missing = {name: state for name, state in components.items() if state is not True}
    if not missing:
        connected = backend.router_status().get("connected")
        routers = connected if isinstance(connected, int) else None
        return Probe(status="ready", components=components, routers=routers)
    sentence = "; ".join(f"{name}: {state or 'not ready'}" for name, state in missing.items())
    raise ProblemError(
        503, "not-ready", sentence, extra={"components": dict(components)},
        headers={"Retry-After": "1"},
    )  # fmt: skip
