"""HttpOperator and, in each of its modes, HttpSensor of the http provider. A DAG's id is its connection's."""

import json
from typing import Any

import pendulum
import requests
from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
from airflow.sdk import DAG, PokeReturnValue

MODES: dict[str, dict[str, Any]] = {
    "http_sensor_poke": {"mode": "poke"},
    "http_sensor_reschedule": {"mode": "reschedule"},
    "http_sensor_deferrable": {"deferrable": True},
}


def job_id(response: requests.Response) -> str:
    """Return the id of the job in the answer to a submission."""
    return str(response.json()["jobId"])


def video_url(response: requests.Response) -> PokeReturnValue:
    """Tell whether the job in an answer is done, and the URL of its video."""
    job = response.json()
    return PokeReturnValue(is_done=job["status"] == "COMPLETED", xcom_value=(job["result"] or {}).get("videoUrl"))


for name, mode in MODES.items():
    with DAG(
        name, schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), params={"prompt": "Clouds"}
    ) as dag:
        submit = HttpOperator(
            task_id="submit",
            http_conn_id=name,
            endpoint="v2/videos/generate",
            headers={"Content-Type": "application/json"},
            data=json.dumps({"prompt": "{{ params.prompt }}", "model": "hailuo-02"}),
            response_filter=job_id,
        )
        video = HttpSensor(
            task_id="video",
            http_conn_id=name,
            endpoint="v2/jobs/{{ ti.xcom_pull('submit') }}",
            response_check=video_url,
            poke_interval=5,
            **mode,
        )
        submit >> video
