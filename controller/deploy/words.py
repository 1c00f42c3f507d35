"""What Understudy's labels and annotations are called, and the names that it gives."""

from __future__ import annotations

import hashlib
import re
from typing import Final

MANAGER: Final = "understudy"
"""Our field manager."""

MODEL: Final = "understudy.dev/model"
VERSION: Final = "understudy.dev/version"
ROLE: Final = "understudy.dev/role"
PARENT: Final = "understudy.dev/parent"
TRAINED_AT: Final = "understudy.dev/trained-at"
METRICS: Final = "understudy.dev/metrics"
URI: Final = "understudy.dev/uri"
FIELDS: Final = "understudy.dev/fields"
"""Annotation: the fields that were taken over from whoever wrote them before, once."""
MIN_REPLICAS: Final = "understudy.dev/min-replicas"
"""Annotation: what the autoscaler's minimum was before a rollout raised it."""
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
OURS: Final = {MANAGED_BY: "understudy"}

_LONGEST: Final = 63


def service_name(model: str, version: str) -> str:
    """The name of an arm's own Service: a DNS label (RFC 1035) that no other arm gets."""
    plain = f"arm-{model}-{version}"
    name = re.sub("[^a-z0-9-]", "-", plain.lower())
    if name == plain and len(name) <= _LONGEST and not name.endswith("-"):
        return name
    mark = hashlib.sha256(f"{model}\0{version}".encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - 9].rstrip('-')}-{mark}"


def selector(model: str, version: str) -> dict[str, str]:
    """The labels of an arm's objects."""
    return {MODEL: model, VERSION: version}


def written(labels: dict[str, str]) -> str:
    """Labels as a selector in a query."""
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
