"""Who is told of a stored video: assets that a task has as outlets, Airflow's lineage collector, OpenLineage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_hailuo.apiframe.errors import excerpt
from airflow_provider_hailuo.compat import Asset, AssetAlias, Context
from airflow_provider_hailuo.storage import StorageError


def add_asset_events(context: Context, outlets: Iterable[Any], facts: Mapping[str, Any]) -> None:
    """Tell what the asset events of a task are about: `extra` gets prompt, job, credits, and where the video lies.

    An asset alias gets an event for the URI of the stored video.

    :param context: the context of the running task.
    :param outlets: its outlets.
    :param facts: the XCom `job`.
    :raises StorageError: Airflow refuses one of them.
    """
    stored = {name: facts[name] for name in ("uri", "bytes", "sha256") if name in facts}
    extra = {"job": facts["id"], "prompt": facts["prompt"], "credits": facts["credits"], **stored}
    try:
        for outlet in outlets:
            if isinstance(outlet, AssetAlias) and stored:
                context["outlet_events"][outlet].add(Asset(stored["uri"]), extra=extra)
            elif isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra.update(extra)
    except Exception as error:
        problem = f"The events of the outlets could not be made: {excerpt(repr(error))}"
        raise StorageError(problem, job_id=facts["id"]) from error
