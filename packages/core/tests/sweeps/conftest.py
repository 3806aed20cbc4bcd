"""One Ray for all the tests that need one: starting it costs more than most of them."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    from pellucid.core.sweeps.cluster import connected

    logging.getLogger("ray").setLevel(logging.ERROR)
    with connected(None, 2):
        yield


@pytest.fixture
def by_value(request: pytest.FixtureRequest) -> Iterator[None]:
    """Send the test module's functions to workers whole: workers cannot import a test module."""
    import ray

    ray.cloudpickle.register_pickle_by_value(request.module)
    yield
    ray.cloudpickle.unregister_pickle_by_value(request.module)
