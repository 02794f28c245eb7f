"""What all tests share: an Airflow home of their own, and nothing that leads beyond loopback."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import pytest
from local_airflow import LocalAirflow
from production import DEPLOYMENTS
from xdist.scheduler import LoadFileScheduling

# Airflow reads these while it is imported.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="hailuo-tests-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(name, None)
    os.environ.pop(name.lower(), None)

# Without a connection the file system of S3 goes on with what the machine knows of AWS.
os.environ.update(
    AWS_ENDPOINT_URL="http://127.0.0.1:9",
    AWS_EC2_METADATA_DISABLED="true",
    AWS_CONFIG_FILE=os.devnull,
    AWS_SHARED_CREDENTIALS_FILE=os.devnull,
)

import airflow  # noqa: E402

if airflow.__version__.startswith("2."):
    # A hook alone, in no DAG, meets half-configured database models there.
    from airflow.models import import_all_models

    import_all_models()

ONE_AIRFLOW = [f"tests/system/test_{name}.py" for name in ("decorated", "errors", "operator", "sensor", "webhooks")]
"""The files of `tests/system` that look at the same running Airflow."""

WITH_ONE_AIRFLOW = ("tests/examples/", "tests/ui/")
"""The folders of which all files look at the same running Airflow."""


class OneAirflowScheduling(LoadFileScheduling):
    """Gives each file to one of the processes (`pytest -n 3`), and what shares a running Airflow to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        for folder in WITH_ONE_AIRFLOW:
            if nodeid.startswith(folder):
                return folder
        file = super()._split_scope(nodeid)
        return "the running Airflow" if file in ONE_AIRFLOW else file


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--deployment", choices=DEPLOYMENTS, default="postgres", help="the Airflow that tests with a running one have"
    )


@pytest.fixture(scope="session")
def deploy(pytestconfig: pytest.Config) -> Callable[..., LocalAirflow]:
    """Return what runs an Airflow as `--deployment` says; it takes the arguments of `LocalAirflow`."""
    return DEPLOYMENTS[pytestconfig.getoption("deployment")]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneAirflowScheduling:
    return OneAirflowScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What takes longest begins: one process goes on with it while the other does the rest. What shares an Airflow
    # comes after the others of its folder: with the last of them it ends.
    def rank(item: pytest.Item) -> int:
        if item.nodeid.startswith(tuple(ONE_AIRFLOW)):
            return 1
        return 0 if item.nodeid.startswith("tests/system") else 2 if item.nodeid.startswith(WITH_ONE_AIRFLOW) else 3

    items.sort(key=rank)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report for report in terminalreporter.getreports("skipped") if report.nodeid.startswith("tests/ui/")]
    if skipped:
        reason = skipped[0].longrepr[-1]
        line = f"!!! {len(skipped)} TESTS OF THE PAGES DID NOT RUN. {reason}"
        terminalreporter.write_line(line, red=True, bold=True)
