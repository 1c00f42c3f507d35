"""Models: how they stand, why, and what operators and pipelines ask of them.

Every path begins with a model that exists; `known` answers 404 for the others, with the list.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from controller.api.backend import Backend
from controller.api.bodies import AssignmentQuery, Candidate, Command
from controller.api.explanations import DecisionExplanation, Explanation, explained
from controller.api.pressure import Readers
from controller.api.problems import ProblemError, held_model, unknown_model
from controller.api.reports import History, ModelReport, Models, Summary, finite
from controller.api.schemas import Assignment, Assignments, Decisions, Problem
from controller.core.model import Json, Operation

LARGEST = (1 << 63) - 1
"""What ledgers can hold as the number of a decision."""

UNSUPPORTED = frozenset({Operation.APPROVE})
"""Operations of the contract that nothing carries out yet."""


def backend_of(request: Request) -> Backend:
    """The controller that this app serves."""
    backend: Backend = request.app.state.backend
    return backend


def readers_of(request: Request) -> Readers:
    """Who asks the ledger for this app."""
    readers: Readers = request.app.state.readers
    return readers


Controller = Annotated[Backend, Depends(backend_of)]
LedgerReaders = Annotated[Readers, Depends(readers_of)]


def known(model: str, backend: Controller) -> str:
    """The model of the path, if there is one of that name."""
    if model not in backend.models():
        if (why := backend.held().get(model)) is not None:
            raise held_model(model, why)
        raise unknown_model(model, backend.models())
    return model


Known = Annotated[str, Depends(known)]
_NO_MODEL: dict[int | str, dict[str, object]] = {404: {"model": Problem}, 503: {"model": Problem}}
_CONFLICT: dict[int | str, dict[str, object]] = {
    403: {"model": Problem},
    409: {"model": Problem},
    415: {"model": Problem},
    422: {"model": Problem},
    503: {"model": Problem},
}

router = APIRouter(prefix="/v1/models", tags=["models"])
of_model = APIRouter(prefix="/{model}", responses=_NO_MODEL)


@router.get("")
async def models(backend: Controller) -> Models:
    """Every model in one line, and the state of the router."""
    return Models(
        models=[Summary.of(backend.report(model)) for model in backend.models()],
        held=backend.held(),
        router={key: finite(value) for key, value in backend.router_status().items()},
    )


@of_model.get("")
async def model_report(model: Known, backend: Controller) -> ModelReport:
    """Where the model stands."""
    return ModelReport.of(backend.report(model))


@of_model.get("/arms")
async def arms(model: Known, backend: Controller) -> ModelReport:
    """Weights, rewards and intervals of every arm: the dashboard's source."""
    return ModelReport.of(backend.report(model))


@of_model.get("/history")
async def history(model: Known, backend: Controller) -> History:
    """Weights and rewards over time, as columns."""
    return History.of(model, backend.history(model))


@of_model.get("/decisions", responses={422: {"model": Problem}})
async def decisions(  # noqa: PLR0913 - a query's parameters
    model: Known,
    backend: Controller,
    readers: LedgerReaders,
    after: Annotated[
        int, Query(ge=0, le=LARGEST, description="only those with a greater number")
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    *,
    newest_first: bool = True,
) -> Decisions:
    """The decisions: verdict, split, reason and evidence of each."""
    found = await readers.ask(
        lambda: backend.decisions(model, after=after, limit=limit, newest_first=newest_first)
    )
    return Decisions(
        model=model,
        decisions=[{key: finite(value) for key, value in row.items()} for row in found],
    )


@of_model.get("/explain", responses={422: {"model": Problem}}, response_model_exclude_unset=True)
async def explain(
    model: Known,
    backend: Controller,
    readers: LedgerReaders,
    decision: Annotated[
        int | None, Query(ge=1, le=LARGEST, description="the present if left out")
    ] = None,
) -> Explanation | DecisionExplanation:
    """Why it moved, or why it did not: each condition, each guardrail, and plain words."""
    try:
        found = await readers.ask(lambda: backend.explain(model, decision))
    except KeyError as exc:
        which = "any decision yet" if decision is None else f"a decision {decision}"
        raise ProblemError(404, "unknown-decision", f"{model} does not have {which}.") from exc
    return explained(found)


@of_model.post(
    "/candidates",
    status_code=202,
    responses={201: {"model": ModelReport, "description": "Its rollout has begun."}, **_CONFLICT},
)
async def candidates(
    model: Known, backend: Controller, body: Candidate, response: Response
) -> ModelReport:
    """Offer a version. 201 when its rollout has begun, 202 when it waits for its turn."""
    if body.model not in {None, model}:
        detail = f"The body names the model {body.model!r}, the path {model!r}."
        raise ProblemError(422, "invalid", detail)
    report = await backend.candidate(model, body.event())
    if body.version in report.candidates:
        response.status_code = 201
        response.headers["Location"] = f"/v1/models/{model}"
    return ModelReport.of(report)


@of_model.post("/assignments", responses={422: {"model": Problem}, 503: {"model": Problem}})
async def assignments(
    model: Known, backend: Controller, body: AssignmentQuery
) -> Assignment | Assignments:
    """The arm of a unit, for routing layers that are not ours."""
    units = [body.unit] if body.units is None else body.units
    found = [
        _assignment(unit, row)
        for unit, row in zip(units, backend.assign(model, units, body.segment), strict=True)
    ]
    return found[0] if body.units is None else Assignments(assignments=found)


def _assignment(unit: str | None, row: dict[str, Json]) -> Assignment:
    wanted = {key: row[key] for key in ("arm", "epoch", "propensity", "request_id", "segment")}
    return Assignment.model_validate({"unit": unit, **wanted})


def _operate(operation: Operation) -> None:
    """Add the endpoint of one operation."""
    unsupported = operation in UNSUPPORTED

    @of_model.post(
        f"/{operation.value}",
        operation_id=operation.value,
        summary=operation.value.capitalize(),
        responses={501: {"model": Problem}, **_CONFLICT} if unsupported else _CONFLICT,
    )
    async def operate(
        model: Known, backend: Controller, request: Request, body: Command | None = None
    ) -> ModelReport:
        """Carry out an operator's command; 409 when it does not fit the phase."""
        if unsupported:
            raise ProblemError(501, "unsupported", f"{operation.value}: not supported yet.")
        command = body or Command()
        by = command.by or (request.client.host if request.client else "")
        report = await backend.command(
            model, operation, by=by, reason=command.reason, version=command.version
        )
        return ModelReport.of(report)


for _operation in Operation:
    _operate(_operation)
router.include_router(of_model)
