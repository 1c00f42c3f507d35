"""The servers of the stream tests."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from controller.stream import Stream, open_stream
from tests.stores.kafka import Kafka
from tests.stores.redis import Redis
from tests.stores.redis_cluster import Cluster
from tests.stores.redis_sentinel import Watched


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    with Redis() as running:
        yield running


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    with Kafka() as running:
        yield running


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[Watched]:
    with Watched() as running:
        yield running


@pytest.fixture
def url(kafka: Kafka) -> str:
    """The address of a new log; in a Kafka where a module does not say another."""
    return kafka.address()


@pytest.fixture
def stream(url: str) -> Iterator[Stream]:
    with closing(open_stream(url)) as opened:
        yield opened
