"""What only one policy may have: its model, and the prefix of its route.

Of two policies with one prefix, one would never get a request; so a router takes neither.
"""

from __future__ import annotations

from typing import Final

from controller.core.policy.document import read
from controller.core.policy.manifest import Policy
from controller.errors import Problem

_NAMED: Final = {("metadata", "name"): "model", ("spec", "route", "prefix"): "prefix"}


class Owners:
    """The policies so far, and what each of them has for itself."""

    def __init__(self) -> None:
        self._sources: dict[tuple[str, str], str] = {}

    def twins(self, policy: Policy, text: str, source: str) -> tuple[Problem, ...]:
        """What an earlier policy has already; the rest is this one's from now on."""
        found = []
        for path, value in zip(_NAMED, (policy.model, policy.spec.route.prefix), strict=True):
            other = self._sources.setdefault((_NAMED[path], value), source)
            if other != source:
                line, column = read(text).at(path)
                wanted = f"a {_NAMED[path]} of its own: {other} has it"
                found.append(Problem(".".join(path), value, wanted, line=line, column=column))
        return tuple(found)
