"""Sensors of each mode, which wait for one job that comes with the run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG

from airflow_provider_hailuo.sensors.hailuo import HailuoJobSensor

MODES: dict[str, dict[str, Any]] = {
    "deferred": {"deferrable": True, "poke_interval": 1},
    "poked": {"mode": "poke", "poke_interval": 1},
    # A task that comes back sooner, Airflow may fail (apache/airflow 68741).
    "rescheduled": {"mode": "reschedule", "poke_interval": 10},
    "soft": {"deferrable": True, "poke_interval": 1, "soft_fail": True},
}

for name, timeout in {"sensors": 600, "hasty_sensors": 5}.items():
    with DAG(name, schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False):
        for task_id, arguments in MODES.items():
            HailuoJobSensor(
                task_id=task_id,
                job_id="{{ dag_run.conf.job }}",
                hailuo_conn_id="{{ dag_run.conf.connection }}",
                timeout=timeout,
                retries=2,
                retry_delay=timedelta(seconds=1),
                **arguments,
            )
