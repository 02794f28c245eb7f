from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_hailuo.compat import AIRFLOW, Asset, AssetAlias
from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.lineage import openlineage_facets, report, report_batch
from airflow_provider_hailuo.storage import StorageError
from tests.unit.operators.fakes import OutletEventAccessors, added

if AIRFLOW >= (3, 2):
    import airflow.sdk.lineage as airflow_lineage
else:
    import airflow.lineage.hook as airflow_lineage

RENDERED = {
    "id": "job_1",
    "url": "https://cdn.example/videos/job_1.mp4?signature=secret",
    "prompt": "a boat",
    "credits": 5,
    "model": "hailuo-02",
}
STORED = {**RENDERED, "uri": "s3://bucket/videos/boat.mp4", "bytes": 1234, "sha256": "ab12"}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a collector that collects, as Airflow has one when somebody wants to read it."""
    collector = airflow_lineage.HookLineageCollector()
    monkeypatch.setattr(airflow_lineage, "get_hook_lineage_collector", lambda: collector)
    return collector


def collected(collector: Any) -> tuple[list[str], list[str]]:
    lineage = collector.collected_assets if AIRFLOW >= (3, 0) else collector.collected_datasets
    of = "asset" if AIRFLOW >= (3, 0) else "dataset"
    return tuple([getattr(found, of).uri for found in side] for side in (lineage.inputs, lineage.outputs))


def test_the_collector_learns_from_where_the_video_went_where(collector: Any):
    report({}, (), STORED, HailuoHook())

    assert collected(collector) == (["https://cdn.example/videos/job_1.mp4"], ["s3://bucket/videos/boat.mp4"])


def test_of_a_video_that_is_not_stored_only_assets_are_told(collector: Any):
    asset, alias = Asset("videos"), AssetAlias("new videos")
    events = OutletEventAccessors()
    events[asset].extra["by"] = "us"

    report({"outlet_events": events}, [asset, alias, "something else"], RENDERED, HailuoHook())

    assert events[asset].extra == {"by": "us", "job": "job_1", "prompt": "a boat", "credits": 5}
    assert added(events, alias) == []
    assert collected(collector) == ([], [])


def test_an_alias_gets_an_asset_whatever_letters_the_uri_has(collector: Any):
    alias, events = AssetAlias("new videos"), OutletEventAccessors()

    report({"outlet_events": events}, [alias], {**STORED, "uri": "s3://bucket/лодка.mp4"}, HailuoHook())

    ((uri, extra),) = added(events, alias)
    assert (uri, extra["uri"]) == ("s3://bucket/%D0%BB%D0%BE%D0%B4%D0%BA%D0%B0.mp4", "s3://bucket/лодка.mp4")


def test_whatever_is_refused_names_the_job(collector: Any):
    with pytest.raises(StorageError) as raised:
        report({"outlet_events": {}}, [Asset("videos")], STORED, HailuoHook())

    assert raised.value.job_id == "job_1"


def test_of_a_batch_assets_get_the_summary_and_an_alias_the_manifest(collector: Any):
    asset, alias, events = Asset("videos"), AssetAlias("manifests"), OutletEventAccessors()
    summary = {"items": 2, "completed": 1, "credits": 5, "manifest": "s3://bucket/manifest.jsonl"}
    video = {"index": 0, "url": STORED["url"], "uri": STORED["uri"]}

    report_batch({"outlet_events": events}, [asset, alias], summary, [video, {"index": 1}], HailuoHook())

    assert events[asset].extra == summary
    assert added(events, alias) == [("s3://bucket/manifest.jsonl", summary)]
    assert collected(collector) == (["https://cdn.example/videos/job_1.mp4"], ["s3://bucket/videos/boat.mp4"])


def test_of_a_batch_that_stores_nothing_only_assets_are_told(collector: Any):
    asset, alias, events = Asset("videos"), AssetAlias("manifests"), OutletEventAccessors()

    report_batch({"outlet_events": events}, [asset, alias], {"items": 1}, [{"url": STORED["url"]}], HailuoHook())

    assert events[asset].extra == {"items": 1}
    assert added(events, alias) == []
    assert collected(collector) == ([], [])


@pytest.mark.parametrize(
    ("uri", "dataset"),
    [
        ("s3://bucket/videos/boat.mp4", ("s3://bucket", "videos/boat.mp4")),
        ("gs://bucket/boat.mp4", ("gs://bucket", "boat.mp4")),
        ("file:///videos/boat.mp4", ("file", "/videos/boat.mp4")),
    ],
)
def test_openlineage_is_told_of_the_job_and_of_both_files(uri: str, dataset: tuple[str, str]):
    pytest.importorskip("airflow.providers.openlineage")

    lineage = openlineage_facets({**STORED, "uri": uri}, "https://api.apiframe.ai")

    (source,), (target,) = lineage.inputs, lineage.outputs
    assert (source.namespace, source.name) == ("https://cdn.example", "videos/job_1.mp4")
    assert (target.namespace, target.name) == dataset
    assert target.outputFacets["outputStatistics"].size == 1234
    query = lineage.run_facets["externalQuery"]
    assert (query.externalQueryId, query.source) == ("job_1", "https://api.apiframe.ai")


@pytest.mark.parametrize("facts", [None, RENDERED])
def test_without_a_stored_video_openlineage_is_told_nothing(facts: Any):
    extractors = pytest.importorskip("airflow.providers.openlineage.extractors")

    assert openlineage_facets(facts, "https://api.apiframe.ai") == extractors.OperatorLineage()
