"""What a task has begun, written down before anything is sent, so that a later try goes on from there."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, Generic, TypeVar

from airflow_provider_hailuo.apiframe.errors import excerpt
from airflow_provider_hailuo.compat import Context, Variable
from airflow_provider_hailuo.exceptions import HailuoUnavailableException
from airflow_provider_hailuo.task_instance import task_instance_key

T = TypeVar("T")


def state_store(context: Context, *, nested: bool, needed: Callable[[], bool]) -> Any:
    """Return where a task keeps what it has begun.

    :param context: the context of the running task.
    :param nested: whether the task runs inside another one: it has no store then.
    :param needed: tells whether a key alone does not do, because the same request has another body at each try.
    :return: Airflow's task state store, or before Airflow 3.3 a `VariableStore` if it is needed; None for none.
    """
    if nested:
        return None
    store = context.get("task_state_store")
    return VariableStore(context["ti"]) if store is None and needed() else store


class TaskState(Generic[T]):
    """A value in Airflow's task state store (Airflow 3.3).

    :param store: the store; None where there is none: then nothing is kept, and nothing fails.
    :param key: the key of the value.
    :param kind: its dataclass, which raises TypeError or AttributeError for what it cannot be made of. Fields that it
        does not know, of a newer version, are ignored.

    Attribute `is_kept`: whether there is a store.
    """

    def __init__(self, store: Any, key: str, kind: type[T]) -> None:
        self._store = store
        self.is_kept = store is not None
        self._key = key
        self._kind = kind

    def load(self) -> T | None:
        """Return the value.

        :return: the value; None if there is none.
        :raises HailuoUnavailableException: the store cannot be read, or holds something else.
        """
        if self._store is None:
            return None
        try:
            stored = self._store.get(self._key)
        except Exception as error:
            raise _unavailable("read", error) from error
        if stored is None:
            return None
        try:
            return self._kind(**{each.name: stored[each.name] for each in fields(self._kind) if each.name in stored})  # type: ignore[arg-type]
        except (TypeError, AttributeError):
            raise HailuoUnavailableException(
                f"{self._key!r} in the task state store holds something else: delete it on the page 'Task State "
                "Store' of the task instance. What the task has submitted is not known any more then"
            ) from None

    def save(self, value: T) -> None:
        """Keep the value.

        :param value: the value.
        :raises HailuoUnavailableException: the store cannot be written; then nothing may be sent.
        """
        try:
            self._write(value)
        except Exception as error:
            raise _unavailable("written", error) from error

    def try_save(self, value: T | None) -> bool:
        """Keep the value, or log that the store cannot be written.

        :param value: the value; None deletes it.
        :return: whether the store was written, if there is one.
        """
        try:
            self._write(value)
        except Exception as error:  # noqa: BLE001 - whatever Airflow's API server or a custom backend raises
            logging.getLogger(__name__).warning("The task state store could not be written: %s", _excerpt(error))
            return False
        return True

    def _write(self, value: T | None) -> None:
        if self._store is None:
            return
        if value is None:
            self._store.delete(self._key)
        else:
            known = asdict(value)  # type: ignore[call-overload]
            self._store.set(self._key, {name: each for name, each in known.items() if each is not None})


class VariableStore:
    """What a task state store does, in Airflow Variables, for Airflow before 3.3.

    A Variable stays until somebody deletes it: after a day it is of no use any more.

    :param ti: the task instance.
    """

    def __init__(self, ti: Any) -> None:
        identity = json.dumps(list(task_instance_key(ti).values()))
        # A name that tells of a secret would have Airflow mask what it holds.
        self._suffix = hashlib.sha256(identity.encode()).hexdigest()

    def get(self, key: str) -> Any:
        """Return a value.

        :param key: its key.
        :return: the value; None if there is none.
        """
        stored = Variable.get(f"{key}_{self._suffix}", None)
        return None if stored is None else json.loads(stored)

    def set(self, key: str, value: Any) -> None:
        """Keep a value.

        :param key: its key.
        :param value: the value, which is JSON.
        """
        Variable.set(f"{key}_{self._suffix}", json.dumps(value))

    def delete(self, key: str) -> None:
        """Delete a value.

        :param key: its key.
        """
        Variable.delete(f"{key}_{self._suffix}")


def _unavailable(done: str, error: Exception) -> HailuoUnavailableException:
    return HailuoUnavailableException(
        f"The task state store could not be {done}: {_excerpt(error)}. Without it nothing is submitted, lest it be "
        "paid twice. Once it answers, a retry goes on from there, and so does clearing the task"
    )


def _excerpt(error: Exception) -> str:
    return excerpt(f"{type(error).__name__}: {error}").rstrip(" .")
