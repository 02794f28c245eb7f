"""A video of a product, made once a day."""

import pendulum
from airflow.sdk import dag  # Airflow 2.11: from airflow.decorators import dag

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator


@dag(schedule="@daily", start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False)
def advert() -> None:
    """Make the video."""
    HailuoGenerateOperator(task_id="make_video", prompt="A teapot on a table, soft light, {{ ds }}", retries=2)


advert_dag = advert()
