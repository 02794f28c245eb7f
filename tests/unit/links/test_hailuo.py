from __future__ import annotations

import pytest

from airflow_provider_hailuo.compat import XCom
from airflow_provider_hailuo.links.hailuo import HailuoVideoLink
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.record import LINK

TI_KEY = object()


@pytest.mark.parametrize(
    ("job", "link"),
    [
        ({"url": "https://cdn.example/v.mp4"}, "https://cdn.example/v.mp4"),
        ({"url": "http://cdn.example/v.mp4?sig=a%2Fb", "uri": "s3://b/v.mp4"}, "http://cdn.example/v.mp4?sig=a%2Fb"),
        ({"url": None}, ""),
        ({"url": "javascript:alert(1)"}, ""),
        ({"url": "file:///tmp/xcom/v"}, ""),
        ({}, ""),
        (None, ""),
        ("https://cdn.example/v.mp4", ""),
    ],
)
def test_the_button_leads_to_the_video_and_to_nothing_else(monkeypatch: pytest.MonkeyPatch, job: object, link: str):
    def get_value(*, ti_key: object, key: str) -> object:
        assert (ti_key, key) == (TI_KEY, "job")
        return job

    monkeypatch.setattr(XCom, "get_value", get_value)

    assert HailuoVideoLink().get_link(None, ti_key=TI_KEY) == link


def test_the_trigger_writes_the_xcom_that_airflow_reads_for_the_button():
    (link,) = HailuoGenerateOperator.operator_extra_links

    assert link.name == "Watch video"
    assert link.xcom_key == LINK == f"_link_{type(link).__name__}"
