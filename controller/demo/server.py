"""One version of the digits model behind the Open Inference Protocol v2, over REST.

    GET  /v2                                        what this server is
    GET  /v2/health/live, /v2/health/ready
    GET  /v2/models/digits[/versions/V]             tensors that it takes and gives
    GET  /v2/models/digits[/versions/V]/ready
    POST /v2/models/digits[/versions/V]/infer       {"inputs": [...]} -> {"outputs": [...]}

It takes one tensor of FP32 [n, 64], flat or nested as the protocol allows, and gives `label`
(INT64 [n]) and `probabilities` (FP32 [n, 10]), or those of the two that the request names. Whatever
does not fit is answered with 400 (404 for another model's name) and `{"error": "..."}`; nothing a
client sends makes it answer 500.

The port is bound before the model is loaded and printed at once (`{"port": 40123}`): whoever starts
the servers can write the policy while they warm up. Requests that come early wait in the backlog.

`python -m controller.demo.server --model PATH [--version V] [--port 0]`
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from controller.core.model import Float
from controller.demo.models import CLASSES, PIXELS, Classifier, Images, load, skip_checks
from controller.errors import UnderstudyError

MODEL = "digits"
MAX_ROWS = 4_096
KEEP_ALIVE_S = 86_400
"""Idle connections are never closed from here: a router that has just written to one would see a
reset, which is a lost request."""

_OUTPUTS: dict[str, tuple[str, list[int]]] = {
    "label": ("INT64", [-1]),
    "probabilities": ("FP32", [-1, CLASSES]),
}


class Tensor(msgspec.Struct):
    """An input of a request: `data` flat or nested, in row-major order."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class Wanted(msgspec.Struct):
    """An output that a request asks for."""

    name: str


class Inference(msgspec.Struct):
    """The body of a request; what else the protocol allows in it has no meaning here."""

    inputs: list[Tensor]
    id: str | None = None
    outputs: list[Wanted] = []


class _BadRequestError(UnderstudyError):
    """The client's fault; answered as the protocol's error document."""


@dataclass(frozen=True, slots=True)
class Server:
    """A version and its routes."""

    version: str
    model: Classifier

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v2", self._server),
            Route("/v2/health/live", _constant({"live": True})),
            Route("/v2/health/ready", _constant({"ready": True})),
        ]
        for prefix in (f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/versions/{self.version}"):
            routes += [
                Route(prefix, self._metadata),
                Route(f"{prefix}/ready", _constant({"name": MODEL, "ready": True})),
                Route(f"{prefix}/infer", self._infer, methods=["POST"]),
            ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _not_found})

    async def _server(self, _: Request) -> Response:
        return _json({"name": "understudy-demo", "version": self.version, "extensions": []})

    async def _metadata(self, _: Request) -> Response:
        outputs = [
            {"name": name, "datatype": datatype, "shape": shape}
            for name, (datatype, shape) in _OUTPUTS.items()
        ]
        return _json(
            {
                "name": MODEL,
                "versions": [self.version],
                "platform": "sklearn",
                "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, PIXELS]}],
                "outputs": outputs,
            }
        )

    async def _infer(self, request: Request) -> Response:
        try:
            asked = _decode(await request.body())
            images = _images(asked.inputs)
            outputs = _outputs(self.model.predict_proba(images), [o.name for o in asked.outputs])
        except _BadRequestError as exc:
            return _json({"error": str(exc)}, status=400)
        answer: dict[str, Any] = {"model_name": MODEL, "model_version": self.version}
        if asked.id is not None:
            answer["id"] = asked.id
        return _json({**answer, "outputs": outputs})


def _decode(body: bytes) -> Inference:
    try:
        return _REQUEST.decode(body)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise _BadRequestError(f"not an inference request: {exc}") from exc


_REQUEST = msgspec.json.Decoder(Inference)


def _images(inputs: list[Tensor]) -> Images:
    """The one input as an array  (n, PIXELS) float32, finite."""
    if len(inputs) != 1:
        raise _BadRequestError(f"found {len(inputs)} inputs, expected 1")
    tensor = inputs[0]
    if tensor.datatype != "FP32":
        raise _BadRequestError(f"found datatype {tensor.datatype!r}, expected 'FP32'")
    if len(tensor.shape) != 2 or tensor.shape[1] != PIXELS or not 1 <= tensor.shape[0] <= MAX_ROWS:
        raise _BadRequestError(
            f"found shape {tensor.shape}, expected [n, {PIXELS}] with 1 <= n <= {MAX_ROWS}"
        )
    values = _numbers(tensor.data)
    if values.size != tensor.shape[0] * PIXELS:
        raise _BadRequestError(
            f"found {values.size} values, expected {tensor.shape[0] * PIXELS} for {tensor.shape}"
        )
    return values.reshape(tensor.shape[0], PIXELS)


def _numbers(data: list[Any]) -> Images:
    try:
        values = np.asarray(data)
    except ValueError as exc:
        raise _BadRequestError("data is ragged, expected rows of one length") from exc
    # Text and booleans would turn into numbers silently.
    if values.dtype.kind not in "if":
        raise _BadRequestError("data has something that is not a number")
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if not np.isfinite(single).all():
        raise _BadRequestError("data has a number that does not fit FP32")
    return single


def _outputs(probabilities: Float, wanted: list[str]) -> list[dict[str, Any]]:
    n = len(probabilities)
    values: dict[str, Callable[[], list[Any]]] = {
        "label": lambda: probabilities.argmax(axis=1).tolist(),
        "probabilities": lambda: probabilities.ravel().tolist(),
    }
    if unknown := [name for name in wanted if name not in values]:
        raise _BadRequestError(f"unknown output {unknown[0]!r}, expected one of {list(values)}")
    return [
        {
            "name": name,
            "datatype": _OUTPUTS[name][0],
            "shape": [n, *_OUTPUTS[name][1][1:]],
            "data": values[name](),
        }
        for name in (wanted or values)
    ]


def _json(document: dict[str, Any], *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(document), status, media_type="application/json")


def _constant(document: dict[str, Any]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return _json(document)

    return answer


async def _not_found(request: Request, exc: Exception) -> Response:
    """Unknown paths and methods, as the protocol's error document."""
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    return _json({"error": f"{request.method} {request.url.path}: not served here"}, status=status)


def _listen(port: int) -> socket.socket:
    # asyncio switches Nagle's algorithm off only where the protocol is named, which
    # `socket.create_server` does not; with it, every answer waits 40 ms for a delayed ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(2_048)
    return listener


def serve(path: Path, version: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    # One row per request: a second thread costs more than it brings.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    listener = _listen(port)
    print(msgspec.json.encode({"port": listener.getsockname()[1]}).decode(), flush=True)  # noqa: T201
    model = load(path)
    skip_checks()
    config = uvicorn.Config(
        Server(version, model).app(),
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="serve one version of the digits model")
    parser.add_argument("--model", type=Path, required=True, help="a file that models.save wrote")
    parser.add_argument("--version", help="its name; the file's name by default")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    given = parser.parse_args()
    try:
        serve(given.model, given.version or given.model.stem, given.port)
    except UnderstudyError as exc:
        raise SystemExit(str(exc)) from exc


if __name__ == "__main__":
    main()
