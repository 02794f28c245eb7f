"""The vendor's documented quick start and loop, in a task. The DAG's id is that of its connection."""

import time

import pendulum
import requests
from airflow.sdk import Connection, dag, task


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), params={"prompt": "Clouds"})
def documented_loop() -> None:
    """Submit a video and wait for it, in one task."""

    @task
    def video(prompt: str) -> dict[str, str]:
        """Return the result of the job."""
        api = Connection.get("documented_loop")
        headers = {"X-API-Key": api.password or ""}
        response = requests.post(
            f"{api.host}/v2/videos/generate",
            headers=headers,
            json={"prompt": prompt, "model": "hailuo-02", "hailuoParams": {"resolution": "768p"}},
            timeout=30,
        )
        job_id = response.json()["jobId"]
        while True:
            job = requests.get(f"{api.host}/v2/jobs/{job_id}", headers=headers, timeout=30).json()
            if job["status"] in ("COMPLETED", "FAILED"):
                break
            time.sleep(2)
        return dict(job["result"])

    video("{{ params.prompt }}")


documented_loop()
