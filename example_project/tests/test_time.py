from airflow_provider_hailuo.hooks.hailuo import HailuoHook


def test_a_video_is_done_when_the_test_says_so(hailuo_sandbox):
    job_id = HailuoHook().generate_video(prompt="A wave [[stall]]").job_id
    assert HailuoHook().get_job(job_id).status == "PROCESSING"
    hailuo_sandbox.release()
    assert HailuoHook().get_job(job_id).status == "COMPLETED"
