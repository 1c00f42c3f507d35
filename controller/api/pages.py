"""The dashboard's files, from the package.

They are few and small: read once, kept in memory, sent with a strong ETag and `no-cache`, so that
a browser asks each time and mostly gets a 304, and an upgrade is seen at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

from controller.api.problems import ProblemError

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One file, ready to be sent."""

    body: bytes
    media_type: str
    etag: str

    def response(self, if_none_match: str | None) -> Response:
        """The file, or 304 when the browser has it."""
        headers = {"ETag": self.etag, "Cache-Control": "no-cache"}
        held = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
        if self.etag in held or "*" in held:
            return Response(status_code=304, headers=headers)
        return Response(self.body, media_type=self.media_type, headers=headers)


def _read() -> dict[str, Page]:
    folder = files("controller.api") / "dashboard"
    return {
        item.name: _page(item.name, item.read_bytes())
        for item in folder.iterdir()
        if item.name.rpartition(".")[2] in _MEDIA_TYPES
    }


def _page(name: str, body: bytes) -> Page:
    digest = hashlib.sha256(body).hexdigest()[:32]
    return Page(body, _MEDIA_TYPES[name.rpartition(".")[2]], f'"{digest}"')


PAGES = _read()

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def dashboard(request: Request) -> Response:
    """The dashboard."""
    return PAGES["index.html"].response(request.headers.get("if-none-match"))


@router.api_route("/assets/{name}", methods=["GET", "HEAD"])
async def asset(name: str, request: Request) -> Response:
    """A script, a style sheet or a picture of the dashboard."""
    if name not in PAGES:
        raise ProblemError(404, "", f"The dashboard has no file {name!r}.")
    return PAGES[name].response(request.headers.get("if-none-match"))
