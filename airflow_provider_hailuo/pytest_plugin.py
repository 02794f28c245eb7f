"""The pytest plugin: a sandbox for the tests of DAGs.

Every pytest of the environment imports this module when it starts, so that it imports nothing else of the package.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_provider_hailuo.sandbox import Sandbox


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `hailuo_sandbox`.

    :param config: the configuration of this run.
    """
    config.addinivalue_line("markers", "hailuo_sandbox(**settings): how to start the sandbox of this fixture")


@pytest.fixture
def hailuo_sandbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Run a sandbox, to which the Airflow connection `hailuo_default` leads, until the test ends.

    A render is done as soon as somebody looks at its job. The marker `hailuo_sandbox` takes other settings, which are
    the parameters of `Sandbox`: `@pytest.mark.hailuo_sandbox(credits=3)`.

    :param request: the test.
    :param monkeypatch: sets `AIRFLOW_CONN_HAILUO_DEFAULT`, and takes it back at the end.
    :return: the sandbox.
    """
    try:
        from airflow_provider_hailuo.sandbox import Sandbox  # noqa: PLC0415
    except ImportError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    marker = request.node.get_closest_marker("hailuo_sandbox")
    with Sandbox(**{"render_seconds": 0, **(marker.kwargs if marker else {})}) as sandbox:
        connection = {"conn_type": "hailuo", "host": sandbox.base_url, "password": sandbox.api_key}
        monkeypatch.setenv("AIRFLOW_CONN_HAILUO_DEFAULT", json.dumps(connection))
        # That wait is for the scheduler, and `dag.test()` has none. `batch` takes the number from `hailuo`.
        for module in ("batch", "hailuo"):
            monkeypatch.setattr(f"airflow_provider_hailuo.triggers.{module}.MIN_DEFERRED_SECONDS", 0.0)
        yield sandbox
