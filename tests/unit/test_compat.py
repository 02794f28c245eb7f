import asyncio
import subprocess
import sys

from airflow_provider_hailuo import compat

SILENT = """
import warnings
import airflow.triggers.base  # it warns by itself in Airflow 2.11, whatever imports it
with warnings.catch_warnings():
    warnings.simplefilter("error")
    from airflow_provider_hailuo.compat import *
"""


def test_nothing_is_deprecated_where_it_is_taken_from():
    done = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_connection_is_found_where_an_event_loop_runs(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SOME", "http://user:a-long-word@host/")

    async def many():
        return await asyncio.gather(*(compat.get_async_connection("some") for _ in range(10)))

    found = asyncio.run(many())
    assert {(type(c), c.host, c.password) for c in found} == {(type(found[0]), "host", "a-long-word")}
