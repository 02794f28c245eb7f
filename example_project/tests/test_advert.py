from airflow.models import DagBag


def test_a_video_is_made_and_paid(hailuo_sandbox):
    assert DagBag().get_dag("advert").test().state == "success"
    assert hailuo_sandbox.stats()["creditsCharged"] == 5
