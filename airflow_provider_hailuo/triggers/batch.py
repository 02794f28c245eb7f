"""`HailuoBatchTrigger`: submits the videos of a batch and waits for them, in the triggerer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.apiframe.batch import Outcome, Plan, fingerprint, generate_all, unpack
from airflow_provider_hailuo.compat import BaseTrigger, TriggerEvent
from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.triggers.hailuo import MIN_DEFERRED_SECONDS, error_facts, error_from

_PLAN_FIELDS = tuple(field.name for field in fields(Plan))


class HailuoBatchTrigger(BaseTrigger):
    """Submits the videos of a batch, a few at a time, waits for each, and fires one event of ids and words.

    When a triggerer dies, another one runs this again: under the same keys the API tells it the same jobs, and
    charges nothing. Unknown arguments, of a newer version perhaps, are ignored.

    :param items: what to generate, as `apiframe.batch.pack` returns it.
    :param hailuo_conn_id: the Airflow connection (default `hailuo_default`).
    :param try_number: the try of the task that waits; the event tells it (default 0: unknown).
    :param plan: the fields of `apiframe.batch.Plan`.
    """

    def __init__(
        self, *, items: str, hailuo_conn_id: str = HailuoHook.default_conn_name, try_number: int = 0, **plan: Any
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.items = items
        self.hailuo_conn_id = hailuo_conn_id
        self.try_number = try_number
        self.plan = {name: plan[name] for name in _PLAN_FIELDS if name in plan}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes this trigger again.

        :return: the class path and the arguments.
        """
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        own = {name: getattr(self, name) for name in ("items", "hailuo_conn_id", "try_number")}
        return path, {**own, **self.plan}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Submit, and wait.

        :return: the one event, which `outcomes_from_event` reads.
        """
        now = asyncio.get_running_loop().time
        settled = now() + MIN_DEFERRED_SECONDS
        hook = HailuoHook(self.hailuo_conn_id)
        outcomes = await generate_all(
            unpack(self.items),
            Plan(**self.plan),
            self.log.log,
            hook.hailuo_conn_id,
            hook.get_async_settings,
            connect=hook.connect,
        )
        await asyncio.sleep(max(0.0, settled - now()))
        yield TriggerEvent(
            {"try_number": self.try_number, "items": fingerprint(self.items), **_event_fields(outcomes)}
        )


def _event_fields(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return outcomes in a form that an event may have; what has befallen many is told once."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for index, outcome in enumerate(outcomes):
        if (error := outcome.error) is None:
            continue
        facts = {**error_facts(error), "message": errors.excerpt(error.message)}
        del facts["request_id"]  # each has its own
        groups.setdefault(tuple(facts.values()), {**facts, "items": []})["items"].append(index)
    return {"jobs": [outcome.job_id for outcome in outcomes], "errors": list(groups.values())}


def outcomes_from_event(event: Mapping[str, Any]) -> list[Outcome]:
    """Return what an event of `HailuoBatchTrigger` tells of each item.

    :param event: the event.
    :return: the outcomes, in the order of the items.
    """
    outcomes = [Outcome(job_id) for job_id in event["jobs"]]
    for group in event["errors"]:
        for index in group["items"]:
            job_id = outcomes[index].job_id
            outcomes[index] = Outcome(job_id, error_from(group, job_id))
    return outcomes
