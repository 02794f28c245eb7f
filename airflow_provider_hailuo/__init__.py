"""Apache Airflow provider for AI video: Hailuo 02 through the Apiframe API."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def get_provider_info() -> dict[str, Any]:
    """Return what Airflow wants to know of a provider (entry point `apache_airflow_provider`).

    :return: the description, as Airflow's `provider_info.schema.json` wants it.
    """
    return {
        "package-name": "airflow-provider-hailuo",
        "name": "Hailuo",
        "description": "AI video with Hailuo 02 through the Apiframe API.",
        "versions": [__version__],
        "integrations": [
            {"integration-name": "Hailuo", "external-doc-url": "https://apiframe.ai", "tags": ["service"]}
        ],
        "hooks": _modules("hooks.hailuo"),
        "operators": _modules("operators.hailuo", "operators.batch"),
        "sensors": _modules("sensors.hailuo"),
        "triggers": _modules("triggers.hailuo", "triggers.batch"),
        "transfers": [
            {
                "source-integration-name": "Hailuo",
                "target-integration-name": "Common IO",
                "python-module": "airflow_provider_hailuo.transfers.hailuo_to_object_storage",
            }
        ],
        "task-decorators": [
            {"name": "hailuo", "class-name": "airflow_provider_hailuo.decorators.hailuo.hailuo_task"}
        ],
        "extra-links": ["airflow_provider_hailuo.links.hailuo.HailuoVideoLink"],
        "config": {
            "hailuo": {
                "description": "The pages with videos in the Airflow UI.",
                "options": {
                    "video_tab": {
                        "description": (
                            "Whether the tabs Video, on each task, and Videos, on each DAG and run, are shown. From "
                            "Airflow 3.4 on the tasks of this provider have theirs in any case."
                        ),
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": "True",
                        "default": "False",
                    }
                },
            }
        },
        "connection-types": [
            {
                "connection-type": "hailuo",
                "hook-class-name": "airflow_provider_hailuo.hooks.hailuo.HailuoHook",
                "hook-name": "Hailuo (Apiframe)",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login", "port", "extra"],
                    "relabeling": {"password": "Apiframe API key", "host": "Base URL"},
                    "placeholders": {"password": "afk_...", "host": "https://api.apiframe.ai"},
                },
                "conn-fields": {
                    "timeout": {
                        "label": "Request timeout (seconds)",
                        "schema": {"type": ["integer", "null"], "default": 30},
                    },
                    "retries": {
                        "label": "Retries of a request",
                        "schema": {"type": ["integer", "null"], "default": 4},
                    },
                    "namespace": {
                        "label": "Namespace (one of its own for each deployment that shares the account)",
                        "schema": {"type": ["string", "null"], "maxLength": 60},
                    },
                },
            }
        ],
    }


def _modules(*names: str) -> list[dict[str, Any]]:
    return [{"integration-name": "Hailuo", "python-modules": [f"{__name__}.{name}" for name in names]}]
