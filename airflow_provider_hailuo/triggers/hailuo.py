"""What runs in the triggerer: `HailuoJobTrigger` waits for a job, `HailuoGenerateTrigger` submits it as well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from datetime import timezone
from typing import Any

import jinja2

from airflow_provider_hailuo import idempotency, metrics, pictures, xcoms
from airflow_provider_hailuo.apiframe import calls, errors
from airflow_provider_hailuo.apiframe.models import FINAL_STATUSES, JobStatus, Submission, VideoRequest
from airflow_provider_hailuo.apiframe.polling import Finished, GaveUp, JobPoll, video_url
from airflow_provider_hailuo.apiframe.watcher import JobWatcher, shared_watcher, wait_for_job
from airflow_provider_hailuo.compat import BaseTrigger, TaskSuccessEvent, TriggerEvent
from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.links.hailuo import video_page
from airflow_provider_hailuo.triggers.progress import report_progress
from airflow_provider_hailuo.webhooks import is_auto

DEFER_TIMEOUT_MARGIN_SECONDS = 300.0
"""How long after a trigger's own end Airflow's timeout of the deferral comes, which bypasses execute_complete: it is
there for a lost trigger only."""

RESUME_SECONDS = 30.0
"""How long before `execution_timeout` the wait ends, so that there is time to say which job it was."""

MIN_DEFERRED_SECONDS = 10.0
"""How long a task stays deferred at least. Airflow 3.0 to 3.3 may take the end of the first visit to a worker, of
which the scheduler hears some seconds late, for the end of the second one, and fail the task (apache/airflow 68741,
72716)."""

START_ON_WORKER: dict[str, Any] = {"job_id": None, "error": None, "start_on_worker": True}
"""The event of a `HailuoGenerateTrigger` that has submitted nothing and leaves that to a worker."""


class HailuoJobTrigger(BaseTrigger):
    """Waits until a job is final and fires one event of ids and words: no URL, no key.

    From Airflow 3.3 on it pushes the XCom `job`, so that nobody has to look again.

    Unknown arguments, of a newer version perhaps, are ignored: an error in a trigger's constructor would stop the
    whole triggerer.

    :param job_id: the job.
    :param hailuo_conn_id: the Airflow connection (default `hailuo_default`).
    :param poll_interval: seconds between two looks (default 5).
    :param deadline: when to give up, in seconds since the epoch (default 0: at once); a moment, so that a restarted
        triggerer does not extend it.
    :param request: what the XCom `job` shows of the request (`xcoms.request_facts`); None (default): push no XCom.
    :param end_from_trigger: end the task here if there is a video (default False: resume it on a worker).
    :param try_number: the try of the task that waits; the event tells it (default 0: unknown).
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
        try_number: int = 0,
        **_: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_id = job_id
        self.hailuo_conn_id = hailuo_conn_id
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.request = request
        self.end_from_trigger = end_from_trigger
        self.try_number = try_number

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes this trigger again.

        :return: the class path and the arguments.
        """
        names = ("job_id", "hailuo_conn_id", "poll_interval", "deadline", "request", "end_from_trigger", "try_number")
        return _serialize(self, names)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait.

        :return: the one event, which ends the task, or which `raise_unless_finished` reads.
        """
        now = asyncio.get_running_loop().time
        settled = now() + MIN_DEFERRED_SECONDS
        end = await _wait(self, self.job_id, self.deadline)
        facts = {"job_id": self.job_id, "try_number": self.try_number}
        event = await _event(self, facts, end, self.request, {}, end_task=self.end_from_trigger)
        if not isinstance(event, TaskSuccessEvent):
            await asyncio.sleep(max(0.0, settled - now()))
        yield event


class HailuoGenerateTrigger(BaseTrigger):
    """Does all that a video takes where Airflow starts a task in the triggerer: submits, waits, ends the task.

    Only what went wrong, and every try but the first, is left to a worker: retry or cleared, it alone can tell. When
    a triggerer dies, another one runs this again: it goes on with the job that the XCom `job_id` names.

    Unknown arguments, of a newer version perhaps, are ignored.

    :param hailuo_conn_id: the Airflow connection (default `hailuo_default`); templated.
    :param idempotency_key: as of `HailuoGenerateOperator` (default None: derived); templated.
    :param poll_interval: seconds between two looks (default 5).
    :param timeout: seconds to wait, counted from when Airflow handed over the task (default 1800).
    :param execution_timeout: seconds after which Airflow ends the task, None (default) for never.
    :param request: the fields of the request, as of `HailuoGenerateOperator`; templated.
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
        """Return what makes this trigger again.

        :return: the class path and the arguments.
        """
        names = ("hailuo_conn_id", "idempotency_key", "poll_interval", "timeout", "execution_timeout")
        return _serialize(self, (*names, *VideoRequest.model_fields))

    def render_template_fields(self, context: Any, jinja_env: jinja2.Environment | None = None) -> None:
        """Render what describes the request. What cannot be rendered here is left to a worker.

        :param context: the context of the task.
        :param jinja_env: the environment of its DAG; None (default) for one without a DAG.
        """
        environment = jinja_env or self.get_template_env()
        # As on a worker: an unknown name is an error, not an empty string.
        environment.undefined = jinja2.StrictUndefined
        try:
            super().render_template_fields(context, environment)
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            self.log.warning("Could not render templates here, a worker has to: %s", errors.excerpt(str(error)))
            self._rendered = False

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Submit, and wait.

        :return: the one event, which ends the task, or which `execute_complete` reads.
        """
        ti: Any = self.task_instance
        fields = self._request_fields()
        ready = self._rendered and not pictures.to_upload(fields) and not is_auto(fields)
        if ti is None or ti.try_number > 1 or not ready:
            yield TriggerEvent(START_ON_WORKER)
        else:
            yield await self._generate(ti)

    async def _generate(self, ti: Any) -> TriggerEvent:
        facts: dict[str, Any] = {"job_id": None, "try_number": ti.try_number}
        try:
            # A triggerer before may have submitted: then it does not matter what the templates render to by now, or
            # where the connection leads.
            facts["job_id"] = job_id = await xcoms.pull_job_id(ti)
        except Exception as error:  # noqa: BLE001 - whatever Airflow's API server or an XCom backend raises
            self.log.warning("Could not read XComs here, a worker has to: %s", errors.excerpt(repr(error)))
            return TriggerEvent(START_ON_WORKER)
        if job_id is not None:
            self.log.info("Job %s: was submitted before; looking on", job_id)
            end = await _wait(self, job_id, self._deadline())
            return await _event(self, facts, end, self._request_facts(), {}, end_task=True)
        unpushed: dict[str, Any] = {}
        hook = HailuoHook(self.hailuo_conn_id)
        try:
            request = VideoRequest(**self._request_fields())
            key = calls.check_idempotency_key(self.idempotency_key)
            async with shared_watcher(hook.hailuo_conn_id, hook.get_async_settings, hook.connect) as (
                settings,
                watcher,
            ):
                # The id is the same when another triggerer runs this again, and another in a run that is made again.
                facts["key"] = key or idempotency.task_key(ti, hook.hailuo_conn_id, settings, request, str(ti.id))
                submission = await self._submit(ti, watcher, hook.hailuo_conn_id, facts["key"], request)
                if submission.status in FINAL_STATUSES - {JobStatus.COMPLETED}:
                    return TriggerEvent(START_ON_WORKER)  # it may submit another one
                facts["job_id"] = unpushed[xcoms.JOB_ID] = submission.job_id
                unpushed[xcoms.LINK] = video_page(ti)  # in the other modes the worker that submits pushes it
                if await _push_xcoms(self, unpushed):
                    unpushed = {}
                poll = JobPoll(submission.job_id, self._deadline(), self.poll_interval)
                with report_progress(self.task_instance, poll):
                    end = await watcher.wait(poll, self.log.log)
        except errors.CredentialsUnavailableError as error:
            self.log.warning("The triggerer cannot submit, a worker has to: %s", error)
            return TriggerEvent(START_ON_WORKER)
        except errors.ApiframeError as error:
            if error.in_doubt:
                facts["body"] = request.to_wire()  # a retry has to send the same
            return TriggerEvent({**facts, **error_facts(error)})
        return await _event(self, facts, end, xcoms.request_facts(request.to_wire()), unpushed, end_task=True)

    def _request_fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in VideoRequest.model_fields}

    def _request_facts(self) -> dict[str, Any]:
        """Return what the XCom `job` shows of the request, as far as it can be told by now."""
        try:
            return xcoms.request_facts(VideoRequest(**self._request_fields()).to_wire())
        except errors.InvalidInputError:
            return dict.fromkeys(xcoms.request_facts({}))

    async def _submit(
        self, ti: Any, watcher: JobWatcher, conn_id: str, key: str, request: VideoRequest
    ) -> Submission:
        try:
            submission = await watcher.send(calls.generate_video(request, key))
        except errors.ConflictError as error:
            idempotency.add_key_to_message(error, key, request.prompt)
            raise
        status = errors.excerpt(submission.status or "status untold")
        self.log.info("Job %s: submitted, %s; idempotency key %s", submission.job_id, status, key)
        metrics.count(metrics.SUBMITTED, metrics.task_tags(ti, conn_id, request.model), in_triggerer=True)
        return submission

    def _deadline(self) -> float:
        """Return the moment to give up at, in seconds since the epoch: the same after a restart."""
        allowed, in_all = self.timeout, self.timeout + DEFER_TIMEOUT_MARGIN_SECONDS
        if self.execution_timeout is not None:
            allowed = min(allowed, before_execution_timeout(self.execution_timeout))
            in_all = min(in_all, self.execution_timeout)
        end = getattr(self, "timeout_after", None)
        if end is None:
            return time.time() + allowed
        return float((end if end.tzinfo else end.replace(tzinfo=timezone.utc)).timestamp()) - in_all + allowed


def before_execution_timeout(seconds: float) -> float:
    """Return how long a task may wait that has an `execution_timeout`.

    Airflow's own end would name no job: a part of the time is left for ours.

    :param seconds: the `execution_timeout`, in seconds.
    :return: seconds.
    """
    return seconds - min(RESUME_SECONDS, seconds / 4)


def _serialize(trigger: BaseTrigger, names: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    path = f"{type(trigger).__module__}.{type(trigger).__qualname__}"
    return path, {name: getattr(trigger, name) for name in names}


async def _wait(trigger: HailuoJobTrigger | HailuoGenerateTrigger, job_id: str, deadline: float) -> Finished | GaveUp:
    poll = JobPoll(job_id, deadline, trigger.poll_interval)
    hook = HailuoHook(trigger.hailuo_conn_id)
    with report_progress(trigger.task_instance, poll):
        return await wait_for_job(poll, trigger.log.log, hook.hailuo_conn_id, hook.get_async_settings, hook.connect)


async def _event(
    trigger: HailuoJobTrigger | HailuoGenerateTrigger,
    facts: Mapping[str, Any],
    end: Finished | GaveUp,
    request: Mapping[str, Any] | None,
    unpushed: Mapping[str, Any],
    *,
    end_task: bool,
) -> TriggerEvent:
    """Push the XComs of a final job, as far as this Airflow lets a trigger do it, and return the event.

    `facts` are those that any event tells: they are enough for a worker to go on. `unpushed` are pushed as well.
    With `end_task` the task ends here, if there is a video: all else takes a worker.
    """
    if isinstance(end, GaveUp):
        return TriggerEvent({**facts, **error_facts(end.error)})
    final = TriggerEvent({**facts, "error": None})
    if request is None or not xcoms.TRIGGERS_PUSH_XCOMS or trigger.task_instance is None:
        return final
    shown = xcoms.job_facts(end.job, request)
    values = {**unpushed, xcoms.JOB: shown}
    try:
        url = video_url(end.job)
    except errors.JobError as error:
        return TriggerEvent({**facts, **error_facts(error)}) if await _push_xcoms(trigger, values) else final
    if end_task:
        values |= {xcoms.CREDIT_COST: end.job.credit_cost, xcoms.RETURN_VALUE: url}
    if not await _push_xcoms(trigger, values) or not end_task:
        return final
    trigger.log.info(
        "Job %s: video is ready, %s credits, %s s", facts["job_id"], end.job.credit_cost, end.job.seconds
    )
    conn_id = HailuoHook(trigger.hailuo_conn_id).hailuo_conn_id
    tags = metrics.task_tags(trigger.task_instance, conn_id, end.job.model)
    metrics.completed(shown, tags, in_triggerer=True)
    return TaskSuccessEvent(xcoms={xcoms.DELIVERED: True})


async def _push_xcoms(trigger: BaseTrigger, values: Mapping[str, Any]) -> bool:
    """Write XComs; tell whether it worked. A worker can do what did not: the video is paid for."""
    try:
        await xcoms.push(trigger.task_instance, values)  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001 - whatever Airflow's API server or an XCom backend raises
        trigger.log.warning("Could not write XComs here, a worker has to: %s", errors.excerpt(repr(error)))
        return False
    return True


def error_facts(error: errors.ApiframeError) -> dict[str, Any]:
    """Return what an event tells of an error.

    :param error: the error.
    :return: what `error_from` makes it of again, but for the job.
    """
    facts = {name: getattr(error, name) for name in ("message", "status", "request_id", "from_api", "in_doubt")}
    return {"error": errors.name_of(error), **facts}


def error_from(event: Mapping[str, Any], job_id: str | None) -> errors.ApiframeError:
    """Return the error that an event tells of; an older one tells less.

    :param event: the event.
    :param job_id: the job that it is about.
    :return: the error.
    """
    kind: type[errors.ApiframeError] = getattr(errors, event["error"], errors.ApiframeError)
    facts = {name: event[name] for name in ("status", "request_id", "from_api", "in_doubt") if name in event}
    return kind(event["message"], job_id=job_id, **facts)


def raise_unless_finished(event: Mapping[str, Any]) -> None:
    """Check that a job has become final.

    :param event: the event of the trigger that waited.
    :raises ApiframeError: the error that the trigger ended with.
    """
    if event["error"] is not None:
        raise error_from(event, event["job_id"])
