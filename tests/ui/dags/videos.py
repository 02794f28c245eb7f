"""The DAGs of the tests in a browser, each of one thing that the pages show."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, task

from airflow_provider_hailuo.operators.batch import HailuoGenerateBatchOperator
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator

SETTINGS: dict[str, Any] = {
    "schedule": None,
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "default_args": {"retries": 0, "retry_delay": timedelta(seconds=1)},
}
PROMPT = "A red paper boat on a calm lake, seen from above"
MARKUP = "<script>document.title = 'hacked'</script> <img src=x onerror='document.title = \"hacked\"'> & \"quotes\""


@task
def no_video() -> str:
    """Do something else."""
    return "something else"


with DAG("ready", **SETTINGS):
    HailuoGenerateOperator(task_id="video", prompt=PROMPT, poll_interval=1) >> no_video()

with DAG("markup", **SETTINGS):
    HailuoGenerateOperator(task_id="video", prompt=MARKUP, resolution="1080p", poll_interval=1)

with DAG("rendering", **SETTINGS):
    HailuoGenerateOperator(
        task_id="video",
        prompt="[[stall]] [[slow: 20]] {{ dag_run.conf.words }}",
        timeout=timedelta(days=1),  # longer than the tests may take
        poll_interval=1,
    )

with DAG("failed", **SETTINGS):
    HailuoGenerateOperator(task_id="video", prompt="[[fail: content policy]] a brawl", poll_interval=1)

with DAG("paid", **SETTINGS):
    HailuoGenerateOperator(task_id="video", prompt="[[stall]] a late train", timeout=4, poll_interval=1)

with DAG("expired", **SETTINGS):
    HailuoGenerateOperator(task_id="video", prompt="A fading rainbow", hailuo_conn_id="hailuo_brief", poll_interval=1)

with DAG("stored", **SETTINGS):
    HailuoGenerateOperator(
        task_id="video", prompt="A lighthouse", destination="{{ dag_run.conf.directory }}/", poll_interval=1
    )

with DAG("mapped", **SETTINGS):
    HailuoGenerateOperator.partial(task_id="video", poll_interval=1).expand(
        prompt=["A green car", "A blue car", "A yellow car"]
    )

with DAG("batch", **SETTINGS):
    HailuoGenerateBatchOperator(
        task_id="videos",
        requests=["A tall tree", "[[fail: content policy]] a mob", "A small tree"],
        on_item_failure="skip",
        poll_interval=1,
    )

with DAG("decorated", **SETTINGS):

    @task.hailuo(poll_interval=1)
    def teapot() -> str:
        """Return a prompt."""
        return "A teapot on a table"

    teapot()

with DAG("confidential", **SETTINGS):
    HailuoGenerateOperator(task_id="video", prompt="The unreleased product", poll_interval=1)
