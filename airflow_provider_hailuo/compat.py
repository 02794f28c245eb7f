"""What this provider needs of Airflow, from where each release keeps it: 2.11 to 3.3, without a deprecation warning.

Airflow's own module for this, `airflow.providers.common.compat.sdk`, is not in what Airflow 2.11.0 and 3.0 publish as
their constraints.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow import __version__ as _version
from airflow.triggers.base import BaseTrigger, StartTriggerArgs, TaskSuccessEvent, TriggerEvent
from asgiref.sync import sync_to_async

AIRFLOW: tuple[int, ...] = tuple(int(number) for number in _version.split(".")[:2])
"""The minor release of Airflow, such as `(3, 3)`."""

if TYPE_CHECKING or AIRFLOW >= (3, 0):
    from airflow.sdk import Asset, AssetAlias, BaseOperator, BaseOperatorLink, Connection, Context, Variable
    from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory
    from airflow.sdk.bases.sensor import BaseSensorOperator, PokeReturnValue
    from airflow.sdk.execution_time.xcom import XCom
else:
    from airflow.datasets import Dataset as Asset
    from airflow.datasets import DatasetAlias as AssetAlias
    from airflow.decorators.base import DecoratedOperator, TaskDecorator, task_decorator_factory
    from airflow.models.baseoperator import BaseOperator
    from airflow.models.baseoperatorlink import BaseOperatorLink
    from airflow.models.connection import Connection
    from airflow.models.variable import Variable
    from airflow.models.xcom import XCom
    from airflow.sensors.base import BaseSensorOperator, PokeReturnValue
    from airflow.utils.context import Context

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

if TYPE_CHECKING or AIRFLOW >= (3, 1):
    from airflow.sdk import BaseHook
else:
    from airflow.hooks.base import BaseHook

if TYPE_CHECKING or AIRFLOW >= (3, 2):
    from airflow.sdk.bases.decorator import determine_kwargs
    from airflow.sdk.configuration import conf
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        TaskDeferred,
    )
else:
    from airflow.configuration import conf
    from airflow.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSensorTimeout,
        TaskDeferred,
    )
    from airflow.utils.operator_helpers import determine_kwargs

__all__ = [
    "AIRFLOW",
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSensorTimeout",
    "Asset",
    "AssetAlias",
    "BaseHook",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "BaseTrigger",
    "Connection",
    "Context",
    "DecoratedOperator",
    "PokeReturnValue",
    "StartTriggerArgs",
    "TaskDecorator",
    "TaskDeferred",
    "TaskSuccessEvent",
    "TriggerEvent",
    "Variable",
    "XCom",
    "collect_lineage",
    "conf",
    "determine_kwargs",
    "get_async_connection",
    "object_storage_path",
    "stats",
    "task_decorator_factory",
]


def stats(*, in_triggerer: bool) -> Any:
    """Return where Airflow counts.

    :param in_triggerer: whether this runs in the triggerer, where those of tasks are not set up (Airflow 3.2).
    :return: Airflow's `Stats`.
    """
    if AIRFLOW < (3, 2):
        module = "airflow.stats"
    else:
        module = "airflow.observability.stats" if in_triggerer else "airflow.sdk.observability.stats"
    return import_module(module).Stats


def collect_lineage(hook: BaseHook, source: str, target: str) -> None:
    """Tell Airflow's lineage collector that a hook has read one thing and written another.

    :param hook: the hook.
    :param source: the URI of what was read.
    :param target: the URI of what was written.
    """
    # The collector looks for all providers when it is made, and few tasks need it.
    if TYPE_CHECKING or AIRFLOW >= (3, 2):
        from airflow.sdk.lineage import get_hook_lineage_collector  # noqa: PLC0415
    else:
        from airflow.lineage.hook import get_hook_lineage_collector  # noqa: PLC0415
    collector = get_hook_lineage_collector()
    if TYPE_CHECKING or AIRFLOW >= (3, 0):
        collector.add_input_asset(context=hook, uri=source)
        collector.add_output_asset(context=hook, uri=target)
    else:
        collector.add_input_dataset(context=hook, uri=source)
        collector.add_output_dataset(context=hook, uri=target)


def object_storage_path(url: str, conn_id: str | None) -> ObjectStoragePath:
    """Return the path of a file or directory in whatever storage Airflow knows.

    :param url: its URL; the id of a connection may stand before an `@` in it.
    :param conn_id: the Airflow connection of the storage; None for that of the URL, or what the environment says.
    :return: the path; whether something is there was not looked at.
    :raises AirflowNotFoundException: there is no such connection.
    :raises ValueError: there is no file system for the URL.
    :raises ImportError: a package of the file system is missing.
    """
    # Not while this module is imported: it takes half a second to load, and few tasks need it.
    if TYPE_CHECKING or AIRFLOW >= (3, 0):
        from airflow.sdk import ObjectStoragePath  # noqa: PLC0415
    else:
        from airflow.io.path import ObjectStoragePath  # noqa: PLC0415
    # Which of two connections counts, and whether that of the URL does, differs between releases.
    parts = urlsplit(url)
    named, _, place = parts.netloc.rpartition("@")
    conn_id = conn_id or named or None
    if conn_id is None:
        return ObjectStoragePath(url)
    # Without it the file system of S3 goes on with whatever credentials the machine has.
    BaseHook.get_connection(conn_id)
    return ObjectStoragePath(parts._replace(netloc=place).geturl(), conn_id=conn_id)


async def get_async_connection(conn_id: str) -> Connection:
    """Look up a connection where an event loop runs, as in the triggerer.

    :param conn_id: its id.
    :return: the connection.
    :raises AirflowNotFoundException: there is none of this id.
    """
    # Not Airflow's own asynchronous look-up: under dag.test() and `airflow tasks test` it finds nothing (3.1 to 3.3),
    # and before 3.3.2 it masks secrets with a blocking call, and fails while another look-up is under way. Not
    # asyncio.to_thread: from its threads older Airflows find no way back to the loop that talks to their supervisor.
    return await sync_to_async(BaseHook.get_connection)(conn_id)
