"""What all tests share: which of them run beside each other.

`make test` runs two processes. Whatever starts services (Envoy, Chromium, `serve`) stays in one of
them, one test after the other, so that no service is starved by a neighbour and no two tests wait
for one another's ports; arithmetic fills the other. The tests with a Kubernetes control plane are a
group of their own, so that only one process starts one. Six services of a cluster share two cores
with everything else, so each of these tests may fail once: it is shown as `R`, and tried again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_SERVICES = {"api", "demo", "docs", "loop", "router", "service"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(_HERE).parts[0]
        if folder in _SERVICES:
            item.add_marker(pytest.mark.xdist_group("services"))
        if folder == "cluster":
            item.add_marker(pytest.mark.xdist_group("cluster"))
            item.add_marker(pytest.mark.flaky(reruns=1))
