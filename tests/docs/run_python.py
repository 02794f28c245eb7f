"""Runs, in a scratch AIRFLOW_HOME and in this order, what the documentation shows and a test has laid there.

- `commands.json`: by place, arguments of the command `airflow`
- `scripts/`: Python files that need no Airflow to run in
- `dags/`: files with DAGs, each of which is run to its end

`results.json` tells what went wrong, by place; "" if nothing did.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from airflow.cli.cli_parser import get_parser
from airflow.dag_processing.dagbag import DagBag
from airflow.models import Connection
from airflow.utils.session import create_session

from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.triggers import hailuo as trigger


def run(arguments: list[str]) -> None:
    """Run a command of Airflow."""
    given = get_parser().parse_args(arguments)
    given.func(given)


def check(arguments: list[str]) -> None:
    """Run a command if it only adds to the database; of any other see whether Airflow understands it."""
    match arguments:
        case ["pools", "set", *_]:
            run(arguments)
        case ["connections", "add", name, *_]:
            with suppress(SystemExit):  # there is none yet
                run(["connections", "delete", name])
            run(arguments)
            with create_session() as session:
                connection = session.query(Connection).filter_by(conn_id=name).one()
            os.environ[f"AIRFLOW_CONN_{name.upper()}"] = connection.as_json()
            HailuoHook(name).get_settings()
        case _:
            get_parser().parse_args(arguments)


def run_dags(path: Path) -> None:
    """Run each DAG of a file."""
    bag = DagBag(path)
    assert not bag.import_errors, bag.import_errors
    assert bag.dags, "no DAG"
    for dag in bag.dags.values():
        assert dag.test().state == "success", dag.dag_id


def problem(of: Callable[[], object]) -> str:
    """Return what goes wrong when something is run, in an environment that it may change."""
    environment = dict(os.environ)
    try:
        of()
    except BaseException as error:  # noqa: BLE001
        return "" if isinstance(error, SystemExit) and not error.code else traceback.format_exc()
    finally:
        os.environ.clear()
        os.environ.update(environment)
    return ""


def main() -> None:
    """Run all of it."""
    home = Path(os.environ["AIRFLOW_HOME"])
    os.chdir(home)
    trigger.MIN_DEFERRED_SECONDS = 0.0  # nobody else resumes tasks here
    run(["db", "migrate"])
    results = {}
    for place, arguments in json.loads(Path("commands.json").read_text()).items():
        results[place] = problem(lambda arguments=arguments: check(arguments))
    for path in sorted(home.glob("scripts/*.py")):
        results[path.stem] = problem(lambda path=path: runpy.run_path(str(path)))
    for path in sorted(home.glob("dags/*.py")):
        results[path.stem] = problem(lambda path=path: run_dags(path))
    Path("results.json").write_text(json.dumps(results))


sys.exit(main())
