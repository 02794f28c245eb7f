"""`HailuoJobSensor`: waits for a video that was submitted elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_hailuo import metrics, xcoms
from airflow_provider_hailuo.apiframe import calls, errors
from airflow_provider_hailuo.apiframe.models import Job, is_nothing
from airflow_provider_hailuo.apiframe.polling import SHORTEST_WAIT_SECONDS, Finished, GaveUp, JobPoll, Wait, video_url
from airflow_provider_hailuo.compat import AirflowSensorTimeout, BaseSensorOperator, PokeReturnValue, conf
from airflow_provider_hailuo.exceptions import HailuoFailException, Situation, explained
from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.links.hailuo import HailuoVideoLink
from airflow_provider_hailuo.operators.hailuo import is_literal
from airflow_provider_hailuo.task_instance import has_retries_left
from airflow_provider_hailuo.triggers.hailuo import (
    DEFER_TIMEOUT_MARGIN_SECONDS,
    HailuoJobTrigger,
    raise_unless_finished,
)

if TYPE_CHECKING:
    from airflow_provider_hailuo.compat import Context

MAX_POLL_SECONDS = 5.0
"""How long a poke waits, at most, before it looks again at what is believed only when it lasts."""


class HailuoJobSensor(BaseSensorOperator):
    """Waits for a video that was submitted elsewhere, and returns its URL. It submits nothing and pays nothing.

    XComs: `return_value` is the URL; `credit_cost` (credits) and `job` (a dictionary of all that a page would show)
    are there when the job is final, also when it has failed.

    :param job_id: the job; templated.
    :param hailuo_conn_id: the Airflow connection (default `hailuo_default`): of the account that submitted the job;
        templated.
    :param deferrable: wait in the triggerer, where no worker slot is held. Default: what Airflow's configuration says
        (`[operators] default_deferrable`), as for Airflow's own sensors. Without it `mode` says how it waits.
    :param poke_interval: seconds (or a timedelta) between two looks (Airflow's default: 60). With `mode="reschedule"`
        take 10 or more: a task that comes back sooner, Airflow may fail (apache/airflow 68741).
    :param timeout: seconds (or a timedelta) to wait (Airflow's default: 7 days), also while deferred. Then it fails
        with AirflowSensorTimeout, which Airflow does not retry.
    :raises HailuoFailException: which Airflow does not retry: the job has failed, its file was purged, or `job_id`
        cannot be one. `soft_fail` skips the task then.
    :raises HailuoException: for everything else, as when the API refuses for a minute to tell of the job.
    """

    template_fields: Sequence[str] = ("job_id", "hailuo_conn_id")
    operator_extra_links = (HailuoVideoLink(),)
    ui_color: str = "#e8e4fb"

    def __init__(
        self,
        *,
        job_id: str,
        hailuo_conn_id: str = HailuoHook.default_conn_name,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.hailuo_conn_id = hailuo_conn_id
        self.deferrable = deferrable
        # What is known while the DAG is parsed is refused then, not in the night.
        if not isinstance(deferrable, bool):
            raise HailuoFailException(f"deferrable: {deferrable!r}: must be True or False")
        if is_literal(job_id):
            try:
                _check_job_id(job_id)
            except errors.InvalidInputError as error:
                raise HailuoFailException(str(error)) from None

    def poke(self, context: Context) -> PokeReturnValue:
        """Look at the job; while it renders, wait in the triggerer (`deferrable`), or for the next poke.

        :param context: the context of the running task.
        :return: whether the video is there, and its URL.
        :raises HailuoFailException: the job has no video, as of the class.
        :raises HailuoException: for everything else.
        """
        ti = context["ti"]
        url = self._look(ti)
        if url is None and self.deferrable:
            # From here, so that Airflow treats what goes wrong alike in each mode (`soft_fail` and the like).
            self._defer(ti)
        return PokeReturnValue(is_done=url is not None, xcom_value=url)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> str:
        """Resume after the trigger: look at the job, and wait on if it cannot be seen just now.

        :param context: the context of the running task.
        :param event: the trigger's event.
        :return: the URL of the video.
        :raises HailuoFailException: the job has no video, as of the class.
        :raises HailuoException: for everything else.
        :raises AirflowSensorTimeout: the job was not final in time.
        """
        ti = context["ti"]
        # Airflow 3.0.0 to 3.1.0 may resume another try than the one that waited.
        if isinstance(event, dict) and event.get("error") and event.get("try_number") == ti.try_number:
            with self._explained(ti):
                raise_unless_finished(event)
        return self._look(ti) or self._defer(ti)

    def _look(self, ti: Any) -> str | None:
        """Push the XComs of the job and return the URL of its video, None if the job is not final as far as it seems.

        :raises AirflowException: what it ended with.
        """
        with self._explained(ti):
            _check_job_id(self.job_id)
            interval = min(self.poke_interval, MAX_POLL_SECONDS)
            poll = _PokePoll(self.job_id, time.time() + self.timeout, interval)
            try:
                job = HailuoHook(self.hailuo_conn_id).wait_with(poll, self.log.log)
            except errors.JobTimeoutError as error:
                self.log.info(error.message)
                return None
            facts = xcoms.job_facts(job)
            ti.xcom_push(key=xcoms.JOB, value=facts)
            ti.xcom_push(key=xcoms.CREDIT_COST, value=job.credit_cost)
            url = video_url(job)
        self.log.info("Job %s: video is ready, %s credits, %s s", job.id, job.credit_cost, job.seconds)
        metrics.completed(facts, metrics.task_tags(ti, self._conn_id, job.model))
        return url

    def _defer(self, ti: Any) -> NoReturn:
        # Of a task that was deferred before, Airflow tells the moment at which the try began.
        now = time.time()
        deadline = (ti.start_date.timestamp() if ti.start_date else now) + self.timeout
        # By which a webhook finds the task that waits.
        ti.xcom_push(key=xcoms.JOB_ID, value=self.job_id)
        if now >= deadline:
            raise AirflowSensorTimeout(f"Job {self.job_id}: could not be seen in {self.timeout:g} s")
        self.defer(
            trigger=HailuoJobTrigger(
                job_id=self.job_id,
                hailuo_conn_id=self._conn_id,
                poll_interval=max(self.poke_interval, SHORTEST_WAIT_SECONDS),
                deadline=deadline,
                try_number=ti.try_number,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=deadline - now + DEFER_TIMEOUT_MARGIN_SECONDS),
        )

    @property
    def _conn_id(self) -> str:
        return HailuoHook(self.hailuo_conn_id).hailuo_conn_id

    @contextmanager
    def _explained(self, ti: Any) -> Iterator[None]:
        """Turn an `ApiframeError` into the exception that Airflow retries or not, and say what to do."""
        try:
            yield
        except errors.ApiframeError as error:
            metrics.failed(error, metrics.task_tags(ti, self._conn_id))
            if isinstance(error, errors.JobTimeoutError):
                raise AirflowSensorTimeout(f"{error}. Clearing the task looks again") from None
            situation = Situation(
                conn_id=self._conn_id, job_id=error.job_id, tries_left=has_retries_left(ti), watches=True
            )
            raise explained(error, situation) from None


class _PokePoll(JobPoll):
    """Decides as `JobPoll`, but what takes its time is left to the next poke: a render, an outage.

    What is believed only when it lasts, a refusal or a URL that is not there, is not: the next poke may be another
    process, which does not know of it. That takes a minute or so.
    """

    def on_job(self, job: Job, now: float) -> Wait | Finished | GaveUp:
        decision = super().on_job(job, now)
        return decision if job.is_final else self._next_time(decision)

    def on_error(self, error: errors.ApiframeError, now: float) -> Wait | GaveUp:
        decision = super().on_error(error, now)
        passes = error.transient or (error.status is not None and not error.from_api)
        return self._next_time(decision) if passes else decision

    def _next_time(self, decision: Wait | Finished | GaveUp) -> GaveUp:
        seen = decision.news if isinstance(decision, Wait) else None
        return GaveUp(errors.JobTimeoutError(seen or f"Job {self.job_id}: cannot see it", job_id=self.job_id))


def _check_job_id(job_id: object) -> None:
    if is_nothing(job_id) or not isinstance(job_id, str) or "{{" in job_id:
        problem = "must be the id of a job, as its submission returned it; a template has to be rendered"
        raise errors.InvalidInputError.of(("job_id", job_id, problem))
    calls.get_job(job_id)
