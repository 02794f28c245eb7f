"""`HailuoJobTrigger`: waits for a job in the triggerer, where no worker slot is held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_hailuo.apiframe import calls, errors
from airflow_provider_hailuo.apiframe.polling import Finished, GaveUp, JobPoll, Wait
from airflow_provider_hailuo.apiframe.shared import SharedClient, shared_client
from airflow_provider_hailuo.hooks.hailuo import HailuoHook


class HailuoJobTrigger(BaseTrigger):
    """Waits until a job is final and fires one event of ids and words: no URL, no key.

    Parameters:

    - `job_id`: the job.
    - `hailuo_conn_id`: the Airflow connection (default `hailuo_default`).
    - `poll_interval`: seconds between two looks (default 5).
    - `deadline`: when to give up, in seconds since the epoch; a moment, so that a restarted triggerer does not
      extend it.

    Unknown arguments, of a newer version perhaps, are ignored: an error in a trigger's constructor would stop the
    whole triggerer.
    """

    def __init__(
        self,
        job_id: str,
        hailuo_conn_id: str = HailuoHook.default_conn_name,
        poll_interval: float = 5.0,
        deadline: float = 0.0,
        **_: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_id = job_id
        self.hailuo_conn_id = hailuo_conn_id
        self.poll_interval = poll_interval
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that make this trigger again."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "job_id": self.job_id,
                "hailuo_conn_id": self.hailuo_conn_id,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event that `raise_unless_finished` reads."""
        yield TriggerEvent(_to_event(self.job_id, await self._wait()))

    async def _wait(self) -> Finished | GaveUp:
        poll = JobPoll(self.job_id, self.deadline, self.poll_interval)
        hook = HailuoHook(self.hailuo_conn_id)
        async with shared_client(self.hailuo_conn_id, hook.get_async_conn) as client:
            while True:
                decision = await self._look(client, poll)
                if not isinstance(decision, Wait):
                    return decision
                if decision.news:
                    self.log.info(decision.news)
                await asyncio.sleep(decision.seconds)

    async def _look(self, client: SharedClient, poll: JobPoll) -> Wait | Finished | GaveUp:
        try:
            job = await (await client.get()).send(calls.get_job(self.job_id), retries=0)
        except errors.ApiframeError as error:
            return poll.on_error(error, time.time())
        except AirflowNotFoundException as error:
            return GaveUp(errors.InvalidInputError(str(error), job_id=self.job_id))
        except Exception as error:  # noqa: BLE001
            # Airflow could not look up the connection just now. The job is paid for: do not give it up.
            what = f"{type(error).__name__}: {errors.excerpt(str(error))}"
            return poll.on_error(errors.NetworkError(what, job_id=self.job_id), time.time())
        return poll.on_job(job, time.time())


def _to_event(job_id: str, end: Finished | GaveUp) -> dict[str, Any]:
    if isinstance(end, Finished):
        return {"job_id": job_id, "error": None}
    error = end.error
    facts = {"message": error.message, "status": error.status, "request_id": error.request_id}
    return {"job_id": job_id, "error": type(error).__name__, **facts}


def raise_unless_finished(event: dict[str, Any] | None, job_id: str) -> None:
    """Return when `event` tells that job `job_id` is final.

    Raises the `ApiframeError` that the trigger gave up with, and `UnreadableAnswerError` when the event is about
    another job or none.
    """
    if not isinstance(event, dict) or event.get("job_id") != job_id or "error" not in event:
        about = event.get("job_id") if isinstance(event, dict) else None
        raise errors.UnreadableAnswerError(f"The task was resumed by an event about job {about}", job_id=job_id)
    if event["error"] is not None:
        kind = getattr(errors, event["error"], errors.ApiframeError)
        raise kind(event["message"], status=event["status"], request_id=event["request_id"], job_id=job_id)
