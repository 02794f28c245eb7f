"""`HailuoPlugin`: pages with videos in the Airflow UI, and the receiver of webhooks."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow import __version__
from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

OPERATORS = [
    "HailuoGenerateOperator",
    "HailuoGenerateBatchOperator",
    "_HailuoDecoratedOperator",
    "HailuoJobSensor",
    "HailuoToObjectStorageOperator",
]
"""The classes whose tasks have a video to show."""

_LIMITS_TABS = tuple(map(int, __version__.split(".")[:2])) >= (3, 4)
_ICONS = {"icon": "hailuo/static/icon.svg", "icon_dark_mode": "hailuo/static/icon-dark.svg"}
_DAG, _RUN = "dag_id={DAG_ID}", "run_id={RUN_ID}"

# Every process of Airflow loads this: it imports nothing that is not there already.


class HailuoPlugin(AirflowPlugin):
    """Adds the pages and the receiver of webhooks to Airflow's API server (Airflow 3.1.1)."""

    name = "hailuo"

    @cached_property
    def external_views(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The entry "Hailuo" in the navigation, and the tabs.

        A tab can be limited to the tasks of our operators from Airflow 3.4 on; older ones would show it on every task
        of every DAG, so it takes `[hailuo] video_tab = True` there.
        """
        # Relative, so that they work below a base URL with a path.
        views = [_view("Hailuo", "nav", "hailuo", "hailuo/gallery", nav_top_level=True)]
        wanted = conf.getboolean("hailuo", "video_tab", fallback=False)
        if wanted or _LIMITS_TABS:
            page = f"hailuo/video?{_DAG}&{_RUN}&task_id={{TASK_ID}}&map_index={{MAP_INDEX}}"
            tab = _view("Video", "task_instance", "hailuo-video", page)
            views.append({**tab, "applies_to": {"operators": OPERATORS}} if _LIMITS_TABS else tab)
        if wanted:
            views.append(_view("Videos", "dag", "hailuo-dag", f"hailuo/gallery?{_DAG}"))
            views.append(_view("Videos", "dag_run", "hailuo-run", f"hailuo/gallery?{_DAG}&{_RUN}"))
        return views

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The app; only the API server asks for it, so no other process loads FastAPI."""
        from airflow_provider_hailuo.plugins.app import app  # noqa: PLC0415

        return [{"app": app, "url_prefix": "/hailuo", "name": "Hailuo"}]


def _view(name: str, destination: str, route: str, href: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "destination": destination, "url_route": route, "href": href, **_ICONS, **more}
