import pytest
from airflow.models import DagBag


@pytest.mark.hailuo_sandbox(credits=3)
def test_without_enough_credits_the_run_fails(hailuo_sandbox):
    assert DagBag().get_dag("advert").test().state == "failed"
    assert hailuo_sandbox.stats()["jobsCreated"] == 0
