from advert import advert_dag


def test_a_video_is_made_and_paid(hailuo_sandbox):
    assert advert_dag.test().state == "success"
    assert hailuo_sandbox.stats()["creditsCharged"] == 5
