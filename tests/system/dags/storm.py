"""DAGs for a storm of webhooks: one of many videos, which are waited for in different ways, and one that follows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, task

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

SETTINGS: dict[str, Any] = {
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "max_active_tasks": 1000,
    "default_args": {"retries": 20, "retry_delay": timedelta(seconds=1), "max_retry_delay": timedelta(seconds=2)},
}


@task
def videos(**context: Any) -> list[dict[str, Any]]:
    """Return as many videos as the run was asked for, which render until their wave is released.

    Half of them the triggerer looks for itself, each second: it and the webhook come together.
    """
    run = context["dag_run"]
    waves, receivers = run.conf["waves"], run.conf["receivers"]
    return [
        {
            "prompt": f"[[stall]] wave {n % waves}: {run.run_id} {n}",
            "webhook_url": "auto" if n % 4 < 2 else receivers[n // 4 % len(receivers)],
            "poll_interval": 5 if n % 4 < 2 else 1,
            "worker_visits": 1 + n % 2,
        }
        for n in range(run.conf["videos"])
    ]


with DAG("storm", schedule=None, **SETTINGS):
    HailuoGenerateOperator.partial(task_id="video", hailuo_conn_id="hailuo_storm", timeout=7200).expand_kwargs(
        videos()
    )

# There are no events of an asset that nobody waits for.
with DAG("storm_follows", schedule=[Asset("hailuo://hailuo_storm/jobs")], **SETTINGS):
    EmptyOperator(task_id="follow")
