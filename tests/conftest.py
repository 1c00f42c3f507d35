"""What all tests share: which of them run beside each other.

`make test` runs three processes on two cores, for a test that starts services waits for them half
of the time. Whatever starts services (Envoy, Chromium, `serve`) stays in one of them, one test
after the other, so that no service is starved by a neighbour; those with a Kubernetes control plane
stay in another, so that only one process starts one. Those of the event log in Kafka are a group,
so that they share a broker. Arithmetic fills the rest and gives way to services (it is `nice`,
where we may take that back).

Services share two cores with everything else, and a test that waits for them sometimes meets one
that is late. So each of their tests may fail once, and so may those that start a command or two: it
is shown as `R`, tried again, and told at the end with its traceback; after five in a run
(`pyproject.toml`) there are no more second tries. A test that shows that nothing is lost or doubled
has one only where it waited in vain: where it counted wrongly, it has none. Arithmetic has none.

No example of Hypothesis has a time limit: on cores that are shared the clock says nothing, and
benchmarks judge speed.

Python keeps what it compiled, whatever the environment says: the tests start hundreds of processes,
each of which would compile the checkout anew, an eighth of the processor time of its start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_HERE = Path(__file__).parent
_PATIENCE = 15
_SERVICES = {"api", "chaos", "demo", "docs", "loop", "router", "service", "topics"}
_PROCESSES = {"cli", "cluster", "deploy"}
_EXACT = {"chaos", "ledger", "loop", "topics"}
_EXACT_FILES = {
    "test_failover.py",
    "test_fleet_faults.py",
    "test_kafka_store.py",
    "test_kill.py",
    "test_partitions.py",
    "test_stores.py",
}
_LATE = "not within|ConnectionError|ConnectionRefused|Timeout|KafkaException"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(_HERE).parts[0]
        is_kafka = folder == "stream" and "kafka" in item.nodeid
        group = "services" if folder in _SERVICES else "kafka" if is_kafka else folder
        if folder in _SERVICES | {"cluster"} or is_kafka:
            item.add_marker(pytest.mark.xdist_group(group))
        if is_kafka or folder in _EXACT or item.path.name in _EXACT_FILES:
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=[_LATE]))
        elif folder in _SERVICES | _PROCESSES:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    is_patient = item.get_closest_marker("xdist_group") is None and os.geteuid() == 0
    if is_patient:
        os.setpriority(os.PRIO_PROCESS, 0, _PATIENCE)
    try:
        return (yield)
    finally:
        if is_patient:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
