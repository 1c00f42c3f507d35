"""The Redis of the stream tests."""

from collections.abc import Iterator

import pytest

from tests.stores.redis import Redis


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    with Redis() as running:
        yield running
