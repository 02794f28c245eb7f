from __future__ import annotations

from types import SimpleNamespace

import pytest

from airflow_provider_hailuo.compat import XCom
from airflow_provider_hailuo.links import hailuo as links
from airflow_provider_hailuo.links.hailuo import HailuoVideoLink, video_page
from airflow_provider_hailuo.operators.batch import HailuoGenerateBatchOperator
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.sensors.hailuo import HailuoJobSensor
from airflow_provider_hailuo.transfers.hailuo_to_object_storage import HailuoToObjectStorageOperator
from airflow_provider_hailuo.xcoms import LINK

TI = SimpleNamespace(dag_id="d", run_id="manual__2026-01-01T00:00:00+00:00", task_id="a&b", map_index=-1)


def link_to(monkeypatch: pytest.MonkeyPatch, xcoms: dict[str, object], *, has_page: bool) -> str:
    def get_value(*, ti_key: object, key: str) -> object:
        assert ti_key is TI
        return xcoms.get(key)

    monkeypatch.setattr(XCom, "get_value", get_value)
    monkeypatch.setattr(links, "HAS_PAGE", has_page)
    return HailuoVideoLink().get_link(None, ti_key=TI)


@pytest.mark.parametrize(
    ("xcoms", "link"),
    [
        ({"job_id": "j"}, video_page(TI)),
        ({"job": {"id": "j", "url": None}}, video_page(TI)),
        ({"summary": {"items": 2}}, video_page(TI)),
        ({}, ""),
    ],
)
def test_the_button_leads_to_the_page_as_soon_as_something_is_submitted(
    monkeypatch: pytest.MonkeyPatch, xcoms: dict[str, object], link: str
):
    assert link_to(monkeypatch, xcoms, has_page=True) == link


@pytest.mark.parametrize(("map_index", "told"), [(-1, "-1"), (None, "-1"), (7, "7")])
def test_the_page_is_told_which_task_instance_it_is_about(map_index: int | None, told: str):
    # Relative: below whatever path Airflow lies.
    assert video_page(SimpleNamespace(**{**vars(TI), "map_index": map_index})) == (
        f"hailuo/video?dag_id=d&run_id=manual__2026-01-01T00%3A00%3A00%2B00%3A00&task_id=a%26b&map_index={told}"
    )


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
def test_where_there_is_no_page_it_leads_to_the_video_and_to_nothing_else(
    monkeypatch: pytest.MonkeyPatch, job: object, link: str
):
    assert link_to(monkeypatch, {"job": job}, has_page=False) == link


@pytest.mark.parametrize(
    "operator",
    [HailuoGenerateOperator, HailuoGenerateBatchOperator, HailuoJobSensor, HailuoToObjectStorageOperator],
)
def test_the_trigger_writes_the_xcom_that_airflow_reads_for_the_button(operator: type):
    (link,) = operator.operator_extra_links

    assert link.name == "Watch video"
    assert link.xcom_key == LINK == f"_link_{type(link).__name__}"
