"""Videos that nobody's task has submitted: the API's webhooks start the DAG that stores them."""

from __future__ import annotations

import pytest

from airflow_provider_hailuo.apiframe import calls
from airflow_provider_hailuo.apiframe.client import Client, Settings
from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.compat import AIRFLOW
from tests.examples.conftest import SIX_SECONDS, VIDEOS, Stage

pytestmark = pytest.mark.system
if AIRFLOW < (3, 1):
    pytest.skip("Airflow has pages of plugins from 3.1 on", allow_module_level=True)

DAGS = ("hailuo_on_finished",)
(DAG,) = DAGS

PROMPTS = ("A finished paper boat", "A finished kite")


def begin(stage: Stage) -> None:
    stage.airflow.request("PATCH", f"dags/{DAG}", json={"is_paused": False})
    receiver = f"{stage.airflow.url}/hailuo/webhooks/hailuo_default"
    with Client(Settings(api_key=stage.sandbox.api_key, base_url=stage.sandbox.base_url)) as client:
        for prompt in PROMPTS:
            client.send(calls.generate_video(VideoRequest(prompt=prompt, webhook_url=receiver)))


def test_each_finished_video_is_stored(stage: Stage):
    jobs = {job["id"] for job in stage.sandbox.jobs() if job["input"]["prompt"] in PROMPTS}
    assert len(jobs) == len(PROMPTS)
    files = {f"examples/finished/{job_id}.mp4" for job_id in jobs}

    stage.airflow.until(lambda: files <= set(stage.s3.keys))

    for job_id in jobs:
        assert stage.video(f"{VIDEOS}/finished/{job_id}.mp4") == SIX_SECONDS
