from airflow.models import DagBag


def test_an_answer_that_is_lost_is_not_paid_twice(hailuo_sandbox):
    hailuo_sandbox.set_faults([{"fault": "reset", "after": True, "route": "POST /v2/videos/generate", "times": 1}])
    assert DagBag().get_dag("advert").test().state == "success"
    assert hailuo_sandbox.stats()["faults"] == {"reset": 1}
    assert hailuo_sandbox.stats()["creditsCharged"] == 5
