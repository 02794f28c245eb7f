"""What runs in the triggerer: `HailuoJobTrigger` waits for a job, `HailuoGenerateTrigger` submits it as well."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from datetime import timezone
from typing import Any

import jinja2
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from airflow_provider_hailuo import record
from airflow_provider_hailuo.apiframe import calls, errors
from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.apiframe.polling import Finished, GaveUp, JobPoll, video_url
from airflow_provider_hailuo.apiframe.watcher import JobWatcher, shared_watcher
from airflow_provider_hailuo.hooks.hailuo import HailuoHook

# Airflow's own timeout of a deferral bypasses execute_complete: it is there for a lost trigger only.
BACKSTOP_SECONDS = 300.0

START_ON_WORKER: dict[str, Any] = {"job_id": None, "error": None, "start_on_worker": True}
"""The event of a `HailuoGenerateTrigger` that has submitted nothing and leaves that to a worker."""


class HailuoJobTrigger(BaseTrigger):
    """Waits until a job is final and fires one event of ids and words: no URL, no key.

    From Airflow 3.3 on it leaves the XCom `job`, so that nobody has to look again.

    Parameters:

    - `job_id`: the job.
    - `hailuo_conn_id`: the Airflow connection (default `hailuo_default`).
    - `poll_interval`: seconds between two looks (default 5).
    - `deadline`: when to give up, in seconds since the epoch; a moment, so that a restarted triggerer does not
      extend it.
    - `request`: what the XCom `job` shows of the request (`record.request_facts`); None (default): leave no XCom.
    - `end_from_trigger`: end the task here if there is a video (default False: resume it on a worker).

    Unknown arguments, of a newer version perhaps, are ignored: an error in a trigger's constructor would stop the
    whole triggerer.
    """

    def __init__(
        self,
        *,
        job_id: str,
        hailuo_conn_id: str = HailuoHook.default_conn_name,
        poll_interval: float = 5.0,
        deadline: float = 0.0,
        request: dict[str, Any] | None = None,
        end_from_trigger: bool = False,
        **_: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_id = job_id
        self.hailuo_conn_id = hailuo_conn_id
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.request = request
        self.end_from_trigger = end_from_trigger

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that make this trigger again."""
        names = ("job_id", "hailuo_conn_id", "poll_interval", "deadline", "request", "end_from_trigger")
        return _serialized(self, names)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield the one event that ends the task or that `raise_unless_finished` reads."""
        async with shared_watcher(self.hailuo_conn_id, HailuoHook(self.hailuo_conn_id).get_async_conn) as watcher:
            end = await watcher.wait(JobPoll(self.job_id, self.deadline, self.poll_interval), self.log.log)
        yield await _event(self, self.job_id, end, self.request, {}, end_task=self.end_from_trigger)


class HailuoGenerateTrigger(BaseTrigger):
    """Does all that a video takes where Airflow starts a task in the triggerer: submits, waits, ends the task.

    Only what went wrong, and every try but the first, is left to a worker: retry or cleared, it alone can tell. When
    a triggerer dies, another one runs this again: the idempotency key brings back the job.

    Parameters, those that describe the request rendered by the triggerer:

    - `hailuo_conn_id`, `idempotency_key`, and the fields of the request: as of `HailuoGenerateOperator`.
    - `poll_interval`: seconds between two looks (default 5).
    - `timeout`: seconds to wait, counted from when Airflow handed over the task (default 1800).
    - `execution_timeout`: seconds after which Airflow ends the task, None (default) for never.

    Unknown arguments, of a newer version perhaps, are ignored.
    """

    def __init__(
        self,
        *,
        hailuo_conn_id: str = HailuoHook.default_conn_name,
        idempotency_key: str | None = None,
        poll_interval: float = 5.0,
        timeout: float = 1800.0,
        execution_timeout: float | None = None,
        **request: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.hailuo_conn_id = hailuo_conn_id
        self.idempotency_key = idempotency_key
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.execution_timeout = execution_timeout
        # Each one an attribute of its own: that is what Airflow renders.
        for name in VideoRequest.model_fields:
            setattr(self, name, request.get(name))
        self._rendered = True

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments that make this trigger again."""
        names = ("hailuo_conn_id", "idempotency_key", "poll_interval", "timeout", "execution_timeout")
        return _serialized(self, (*names, *VideoRequest.model_fields))

    def render_template_fields(self, context: Any, jinja_env: jinja2.Environment | None = None) -> None:
        """Render what describes the request. What cannot be rendered here is left to a worker."""
        environment = jinja_env or self.get_template_env()
        # As on a worker: an unknown name is an error, not an empty string.
        environment.undefined = jinja2.StrictUndefined
        try:
            super().render_template_fields(context, environment)
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            self.log.warning("The triggerer cannot render the templates: %s", errors.excerpt(str(error)))
            self._rendered = False

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Submit, wait, and yield the one event that ends the task or that `execute_complete` reads."""
        ti: Any = self.task_instance
        if ti is None or ti.try_number > 1 or not self._rendered:
            yield TriggerEvent(START_ON_WORKER)
        else:
            yield await self._generate(ti)

    async def _generate(self, ti: Any) -> TriggerEvent:
        job_id = None
        xcoms: dict[str, Any] = {}
        try:
            request = VideoRequest(**{name: getattr(self, name) for name in VideoRequest.model_fields})
            async with shared_watcher(self.hailuo_conn_id, HailuoHook(self.hailuo_conn_id).get_async_conn) as watcher:
                job_id = await self._submit(watcher, ti, request)
                xcoms[record.JOB_ID] = job_id
                if await _leave(self, xcoms):
                    xcoms = {}
                poll = JobPoll(job_id, self._deadline(), self.poll_interval)
                end = await watcher.wait(poll, self.log.log)
        except errors.ApiframeError as error:
            return TriggerEvent(_failure(job_id, error))
        return await _event(self, job_id, end, record.request_facts(request), xcoms, end_task=True)

    async def _submit(self, watcher: JobWatcher, ti: Any, request: VideoRequest) -> str:
        key = self.idempotency_key
        if key is None:
            key = record.task_key(ti, self.hailuo_conn_id, 0, request)
        try:
            submission = await watcher.send(calls.generate_video(request, key))
        except errors.ConflictError as error:
            record.name_key(error, key, request)
            raise
        status = errors.excerpt(submission.status)
        self.log.info("Job %s: submitted, %s; idempotency key %s", submission.job_id, status, key)
        return submission.job_id

    def _deadline(self) -> float:
        """Return the moment to give up at, in seconds since the epoch: the same after a restart."""
        allowed, in_all = self.timeout, self.timeout + BACKSTOP_SECONDS
        if self.execution_timeout is not None:
            # Before Airflow does, which would not name the job.
            allowed = min(allowed, self.execution_timeout - self.poll_interval)
            in_all = min(in_all, self.execution_timeout)
        end = getattr(self, "timeout_after", None)
        if end is None:
            return time.time() + allowed
        return float((end if end.tzinfo else end.replace(tzinfo=timezone.utc)).timestamp()) - in_all + allowed


def _serialized(trigger: BaseTrigger, names: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    path = f"{type(trigger).__module__}.{type(trigger).__qualname__}"
    return path, {name: getattr(trigger, name) for name in names}


async def _event(
    trigger: BaseTrigger,
    job_id: str,
    end: Finished | GaveUp,
    request: Mapping[str, Any] | None,
    xcoms: Mapping[str, Any],
    *,
    end_task: bool,
) -> TriggerEvent:
    """Leave the XComs of a final job, as far as this Airflow lets a trigger do it, and return the event.

    `xcoms` have to be left as well. With `end_task` the task ends here, if there is a video: all else takes a worker.
    """
    if isinstance(end, GaveUp):
        return TriggerEvent(_failure(job_id, end.error))
    final = {"job_id": job_id, "error": None}
    if request is None or not record.TRIGGERS_WRITE_XCOMS or trigger.task_instance is None:
        return TriggerEvent(final)
    facts = record.job_facts(end.job, request)
    try:
        url = video_url(end.job)
    except errors.JobError as error:
        left = await _leave(trigger, {**xcoms, record.JOB: facts})
        return TriggerEvent(_failure(job_id, error) if left else final)
    if not end_task:
        await _leave(trigger, {**xcoms, record.JOB: facts})
        return TriggerEvent(final)
    more = {record.CREDIT_COST: end.job.credit_cost, record.LINK: url, record.RETURN_VALUE: url}
    if not await _leave(trigger, {**xcoms, record.JOB: facts, **more}):
        return TriggerEvent(final)
    trigger.log.info("Job %s: video is ready, %s credits, %s s", job_id, end.job.credit_cost, end.job.seconds)
    return TaskSuccessEvent()


async def _leave(trigger: BaseTrigger, xcoms: Mapping[str, Any]) -> bool:
    """Write XComs; tell whether it worked. A worker can do what did not: the video is paid for."""
    try:
        await record.leave(trigger.task_instance, xcoms)  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001 - whatever Airflow's API server or an XCom backend raises
        trigger.log.warning("Could not write XComs here, a worker has to: %s", errors.excerpt(repr(error)))
        return False
    return True


def _failure(job_id: str | None, error: errors.ApiframeError) -> dict[str, Any]:
    # What derives from an error of the API, for Airflow's sake, comes back as that error.
    known = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    facts = {"message": error.message, "status": error.status, "request_id": error.request_id}
    return {"job_id": job_id, "error": known.__name__, **facts}


def raise_unless_finished(event: dict[str, Any] | None, job_id: str | None) -> None:
    """Return when `event` tells that job `job_id` is final.

    Raises the `ApiframeError` that the trigger ended with, and `UnreadableAnswerError` when the event is about
    another job or none.
    """
    if not isinstance(event, dict) or event.get("job_id") != job_id or "error" not in event:
        about = event.get("job_id") if isinstance(event, dict) else None
        raise errors.UnreadableAnswerError(f"The task was resumed by an event about job {about}", job_id=job_id)
    if event["error"] is not None:
        kind = getattr(errors, event["error"], errors.ApiframeError)
        raise kind(event["message"], status=event["status"], request_id=event["request_id"], job_id=job_id)
