"""Who is told of a stored video: assets that a task has as outlets, Airflow's lineage collector, OpenLineage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow_provider_hailuo.apiframe.errors import excerpt
from airflow_provider_hailuo.compat import Asset, AssetAlias, BaseHook, Context, collect_lineage
from airflow_provider_hailuo.storage import StorageError

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage


def report(context: Context, outlets: Iterable[Any], facts: Mapping[str, Any], hook: BaseHook) -> None:
    """Tell Airflow what became of a task's video.

    The events of its assets get an `extra` of prompt, job, credits, and where the video lies; an asset alias gets an
    event for the URI of the stored video. The lineage collector learns from where the video went where.

    :param context: the context of the running task.
    :param outlets: its outlets.
    :param facts: the XCom `job`.
    :param hook: through which the video was asked for.
    :raises StorageError: Airflow refuses one of them.
    """
    stored = {name: facts[name] for name in ("uri", "bytes", "sha256") if name in facts}
    extra = {"job": facts["id"], "prompt": facts["prompt"], "credits": facts["credits"], **stored}
    with _refused("the video", job_id=facts["id"]):
        _tell_assets(context, outlets, extra, stored.get("uri"))
        if stored:
            _collect(hook, facts)


def report_batch(
    context: Context,
    outlets: Iterable[Any],
    summary: Mapping[str, Any],
    videos: Iterable[Mapping[str, Any]],
    hook: BaseHook,
) -> None:
    """Tell Airflow what became of a task's videos.

    The events of its assets get the summary as their `extra`; an asset alias gets an event for the URI of the
    manifest. The lineage collector learns from where each stored video went where.

    :param context: the context of the running task.
    :param outlets: its outlets.
    :param summary: the XCom `summary`.
    :param videos: what the manifest tells of each item that has a video.
    :param hook: through which the videos were asked for.
    :raises StorageError: Airflow refuses one of them.
    """
    with _refused("the batch"):
        _tell_assets(context, outlets, summary, summary.get("manifest"))
        for video in videos:
            if "uri" in video:
                _collect(hook, video)


def _tell_assets(context: Context, outlets: Iterable[Any], extra: Mapping[str, Any], uri: str | None) -> None:
    for outlet in outlets:
        if isinstance(outlet, AssetAlias) and uri is not None:
            context["outlet_events"][outlet].add(Asset(_ascii(uri)), extra=dict(extra))
        elif isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra.update(extra)


def _collect(hook: BaseHook, video: Mapping[str, Any]) -> None:
    collect_lineage(hook, _ascii(_without_query(video["url"])), _ascii(video["uri"]))


@contextmanager
def _refused(what: str, job_id: str | None = None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise StorageError(f"Airflow could not be told of {what}: {excerpt(repr(error))}", job_id=job_id) from error


def openlineage_facets(facts: Mapping[str, Any] | None, api_url: str) -> OperatorLineage[Any, Any]:
    """Return what OpenLineage is to know of a task: the job, and from where its video went where.

    :param facts: the XCom `job`; None if there is no video.
    :param api_url: the base URL of the API.
    :return: the facets; none without a stored video.
    """
    # Of the OpenLineage provider, which alone asks for this, and warns of a None.
    from airflow.providers.openlineage.extractors import OperatorLineage  # noqa: PLC0415

    if facts is None or "uri" not in facts:
        return OperatorLineage()
    from openlineage.client.event_v2 import InputDataset, OutputDataset  # noqa: PLC0415
    from openlineage.client.facet_v2 import (  # noqa: PLC0415
        external_query_run,
        output_statistics_output_dataset,
    )

    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(size=facts["bytes"], fileCount=1)
    return OperatorLineage(
        inputs=[InputDataset(*_dataset(_without_query(facts["url"])))],
        outputs=[OutputDataset(*_dataset(facts["uri"]), outputFacets={"outputStatistics": statistics})],
        run_facets={
            "externalQuery": external_query_run.ExternalQueryRunFacet(externalQueryId=facts["id"], source=api_url)
        },
    )


def _ascii(uri: str) -> str:
    """Percent-encode what is not ASCII: Airflow before 3.1 takes no asset of such a URI."""
    return quote(uri, safe=":/?#[]@!$&'()*+,;=%~ ")


def _without_query(url: str) -> str:
    """Return a URL without its query, which may be a signature."""
    return url.partition("?")[0].partition("#")[0]


def _dataset(uri: str) -> tuple[str, str]:
    """Return namespace and name of a file, as OpenLineage names datasets."""
    parts = urlsplit(uri)
    if not parts.netloc:
        return parts.scheme, parts.path
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/")
