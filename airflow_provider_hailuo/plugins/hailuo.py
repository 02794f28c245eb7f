"""`HailuoPlugin`: pages with videos in the Airflow UI, and the receiver of webhooks."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin


class HailuoPlugin(AirflowPlugin):
    """Adds the pages and the receiver of webhooks to Airflow's API server (Airflow 3.1.1)."""

    name = "hailuo"

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        """The app; only the API server asks for it, so no other process loads FastAPI."""
        from airflow_provider_hailuo.plugins.app import app  # noqa: PLC0415

        return [{"app": app, "url_prefix": "/hailuo", "name": "Hailuo"}]
