"""The deployment's own receiver, as a request names it."""

from __future__ import annotations

import pytest

from airflow_provider_hailuo import webhooks
from airflow_provider_hailuo.apiframe.client import Settings
from airflow_provider_hailuo.apiframe.errors import InvalidInputError
from airflow_provider_hailuo.compat import AIRFLOW, Asset
from airflow_provider_hailuo.webhooks import RECEIVER, jobs_asset_uri, receiver_url, with_receiver

REAL = Settings(api_key="afk_1")
LOCAL = Settings(api_key="afk_1", base_url="http://127.0.0.1:8787")


@pytest.mark.skipif(AIRFLOW < (3, 1), reason="there are no pages of plugins before Airflow 3.1")
def test_auto_is_the_receiver_wherever_it_is():
    assert with_receiver({"prompt": "a", "webhook_url": "auto"}) == {
        "prompt": "a",
        "webhook_url": RECEIVER,
        "webhook_events": ("completed", "failed"),
    }
    assert with_receiver({"webhook_url": "auto", "webhook_events": ["failed"]})["webhook_events"] == ["failed"]


def test_any_other_url_stays_as_it_is():
    for url in None, "https://example.com/auto", "":
        assert with_receiver({"webhook_url": url}) == {"webhook_url": url}


def test_an_older_airflow_has_no_receiver(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(webhooks, "AIRFLOW", (3, 0))

    with pytest.raises(InvalidInputError, match=r"webhook_url: 'auto': needs Airflow 3\.1\.1"):
        with_receiver({"webhook_url": "auto"})


@pytest.mark.parametrize(
    ("base", "conn_id", "settings", "url"),
    [
        ("https://air.example", "hailuo_default", REAL, "https://air.example/hailuo/webhooks/hailuo_default"),
        ("https://air.example/team/", "a/b:c", REAL, "https://air.example/team/hailuo/webhooks/a%2Fb%3Ac"),
        # A sandbox reaches an Airflow on the same machine.
        ("http://localhost:8080", "c", LOCAL, "http://localhost:8080/hailuo/webhooks/c"),
    ],
)
def test_it_lies_below_the_base_url(
    monkeypatch: pytest.MonkeyPatch, base: str, conn_id: str, settings: Settings, url: str
):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)

    assert receiver_url(conn_id, settings) == url


@pytest.mark.parametrize("base", ["http://localhost:8080", "http://127.0.0.1", "", "airflow.example.com"])
def test_what_the_api_could_not_reach_is_refused(monkeypatch: pytest.MonkeyPatch, base: str):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)

    with pytest.raises(InvalidInputError, match=r"webhook_url: 'auto': .*\[api\] base_url"):
        receiver_url("c", REAL)


def test_the_asset_of_a_connection_is_one_for_airflow():
    assert Asset(jobs_asset_uri("hailuo_default")).uri == "hailuo://hailuo_default/jobs"
