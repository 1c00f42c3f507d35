"""What the page of the HTTP API takes from code: the table of what health may hold."""

from __future__ import annotations

import re
from pathlib import Path

from controller.core.model import SIGNS

HTTP_PAGE = Path(__file__).parent / "http-api.md"
_TABLE = re.compile(r"(?<=<!-- health -->\n).*?(?=<!-- end of health -->)", re.DOTALL)


def http_page() -> str:
    """The page with its table renewed."""
    rows = "".join(f"| `{key}` | {sign.meaning} |\n" for key, sign in SIGNS.items())
    table = f"| key | is |\n|---|---|\n{rows}"
    made, count = _TABLE.subn(lambda _: table, HTTP_PAGE.read_text(encoding="utf-8"))
    assert count == 1, f"{HTTP_PAGE} has no place for the table of health"
    return made
