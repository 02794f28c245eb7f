import pendulum
from airflow.sdk import dag  # Airflow 2.11: from airflow.decorators import dag

from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator


@dag(schedule="@daily", start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False)
def advert():
    HailuoGenerateOperator(task_id="make_video", prompt="A teapot on a table, soft light, {{ ds }}", retries=2)


advert()
