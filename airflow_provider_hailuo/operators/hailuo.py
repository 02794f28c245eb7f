"""`HailuoGenerateOperator`: one task, one video."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2
from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator
from airflow.triggers.base import StartTriggerArgs

from airflow_provider_hailuo import record
from airflow_provider_hailuo.apiframe import calls, errors
from airflow_provider_hailuo.apiframe.client import Client
from airflow_provider_hailuo.apiframe.idempotency import nth_key
from airflow_provider_hailuo.apiframe.models import FINAL_STATUSES, HAILUO_02, Job, JobStatus, VideoRequest
from airflow_provider_hailuo.apiframe.polling import Finished, GaveUp, JobPoll, video_url
from airflow_provider_hailuo.exceptions import HailuoFailException, exception_for
from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.links.hailuo import HailuoVideoLink
from airflow_provider_hailuo.operators.visits import MOST, fewest_visits
from airflow_provider_hailuo.triggers.hailuo import (
    BACKSTOP_SECONDS,
    START_ON_WORKER,
    HailuoGenerateTrigger,
    HailuoJobTrigger,
    raise_unless_finished,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_REQUEST_FIELDS = tuple(VideoRequest.model_fields)


class _WhenAsked:
    """An attribute that is worked out whenever it is read: a task may be given more after it was made.

    Of the class itself it is `of_class`, which is what Airflow asks for before it maps a task.
    """

    def __init__(self, work_out: Callable[[HailuoGenerateOperator], Any], *, of_class: Any) -> None:
        self._work_out = work_out
        self._of_class = of_class

    def __get__(self, task: HailuoGenerateOperator | None, owner: type) -> Any:
        return self._of_class if task is None else self._work_out(task)


class HailuoGenerateOperator(BaseOperator):
    """Generates a video with Hailuo 02 through Apiframe and returns its URL.

    The task submits the job, then waits in the triggerer, where it holds no worker slot, then resumes on a worker.
    The URL is short-lived: copy the file to storage of your own in a task that follows.

    Parameters, templated as far as they describe the request:

    - `prompt`: what to show, 1 to 2000 characters.
    - `model`: `hailuo-02` (default), `hailuo-2.3`, `hailuo-2.3-fast` or `hailuo-03`.
    - `image`, `end_image`: URLs of the first and the last frame; the last one with `hailuo-02` only.
    - `resolution`: `768p` (the API's default) or `1080p`.
    - `duration`: 6 (the API's default) or 10 seconds; 1080p renders 6 seconds only.
    - `prompt_optimizer`: whether the model may rewrite the prompt (the API's default: yes).
    - `webhook_url`, `webhook_events`: where to announce `progress`, `completed`, `failed`.
    - `hailuo_conn_id`: the Airflow connection (default `hailuo_default`).
    - `deferrable`: wait in the triggerer (default) or, with False, on the worker.
    - `worker_visits`: how often the task may take a worker slot while all goes well: 2 (default), 1 (the triggerer
      ends the task) or 0 (the triggerer submits as well). Where something would get lost, as a success callback or
      a limit would, the task takes the next higher number by itself and logs why. 1 and 0 need Airflow 3.3.
    - `poll_interval`: seconds between two looks at the job (default 5, the vendor recommends 5 to 10).
    - `timeout`: seconds to wait (default 1800), counted from the submission, with `worker_visits=0` from when Airflow
      hands over the task. `execution_timeout` holds as well.
    - `idempotency_key`: overrides the derived key that keeps a crash or retry from paying twice.

    XComs: `return_value` is the URL; `job_id` is there right after the submission; `credit_cost` (credits) and
    `job` (a dictionary of all that a page would show) when the job is final.

    Raises `HailuoFailException`, which Airflow does not retry, for input, key, credits or rights that will not do,
    and a `HailuoException` for everything that a retry may mend. Each message says what to do, and names the job.
    """

    # While the base class is made, Airflow asks already.
    worker_visits: int = MOST
    deferrable: bool = True
    _before_rendering: tuple[int, str | None] | None = None
    template_fields: Sequence[str] = (*_REQUEST_FIELDS, "hailuo_conn_id", "idempotency_key")
    operator_extra_links = (HailuoVideoLink(),)
    ui_color: str = "#e8e4fb"

    def __init__(
        self,
        *,
        prompt: str,
        model: str = HAILUO_02,
        image: str | None = None,
        end_image: str | None = None,
        resolution: str | None = None,
        duration: int | str | None = None,
        prompt_optimizer: bool | str | None = None,
        webhook_url: str | None = None,
        webhook_events: list[str] | None = None,
        hailuo_conn_id: str = HailuoHook.default_conn_name,
        deferrable: bool = True,
        worker_visits: int = MOST,
        poll_interval: float = 5.0,
        timeout: float = 1800.0,
        idempotency_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prompt = prompt
        self.model = model
        self.image = image
        self.end_image = end_image
        self.resolution = resolution
        self.duration = duration
        self.prompt_optimizer = prompt_optimizer
        self.webhook_url = webhook_url
        self.webhook_events = webhook_events
        self.hailuo_conn_id = hailuo_conn_id
        self.deferrable = deferrable
        self.worker_visits = worker_visits
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.idempotency_key = idempotency_key
        for name, seconds in (("poll_interval", poll_interval), ("timeout", timeout)):
            if not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
                raise HailuoFailException(f"{name}: {seconds!r}: must be a number of seconds above 0")
        # What is known while the DAG is parsed is refused then, not in the night.
        known = {name: value for name, value in self._request_fields().items() if _is_literal(value)}
        with self._explained():
            VideoRequest(**{"prompt": "known later", **known})
        if worker_visits not in range(MOST + 1):
            raise HailuoFailException(f"worker_visits: {worker_visits!r}: must be 0, 1 or 2")

    def _visits(self) -> tuple[int, str | None]:
        """Return how often the task visits a worker, and what stands in the way of fewer visits that were wanted."""
        return fewest_visits(self, self.worker_visits, deferrable=self.deferrable)

    def _start_from_trigger(self) -> bool:
        return self._visits()[0] == 0

    def _start_trigger_args(self) -> StartTriggerArgs | None:
        if not self._start_from_trigger():
            return None
        timeout = self.execution_timeout
        trigger = HailuoGenerateTrigger(
            **{name: getattr(self, name) for name in self.template_fields},
            poll_interval=self.poll_interval,
            timeout=self.timeout,
            execution_timeout=None if timeout is None else timeout.total_seconds(),
        )
        path, arguments = trigger.serialize()
        return StartTriggerArgs(
            trigger_cls=path,
            trigger_kwargs=arguments,
            next_method="execute_complete",
            timeout=timedelta(seconds=self.timeout + BACKSTOP_SECONDS),
        )

    # Whether Airflow starts the task in the triggerer.
    start_from_trigger = _WhenAsked(_start_from_trigger, of_class=False)
    start_trigger_args = _WhenAsked(_start_trigger_args, of_class=None)

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the templates, on a worker: what they stood in the way of is not to be seen afterwards."""
        self._before_rendering = self._visits()
        super().render_template_fields(context, jinja_env)

    def execute(self, context: Context) -> str:
        """Submit the job, wait in the triggerer (or here, with `deferrable=False`), return the URL of the video."""
        # Mapped tasks are not seen as such before they run: Airflow starts them on a worker by itself.
        visits, blocker = self._before_rendering or self._visits()
        if visits == 0:
            visits, blocker = 1, "mapping" if record.map_index(context["ti"]) >= 0 else None
        if blocker is not None:
            self.log.info("worker_visits=%d cannot be had with %s: it is %d", self.worker_visits, blocker, visits)
        with self._explained():
            request = VideoRequest(**self._request_fields())
            with HailuoHook(self.hailuo_conn_id).get_conn() as client:
                job_id, job = self._submit(client, request, context)
                deadline = self._deadline(context)
                if job is None and not self.deferrable:
                    job = self._wait_here(client, JobPoll(job_id, deadline, self.poll_interval))
                if job is not None:
                    return self._finish(context, request, job)
        self.defer(
            trigger=HailuoJobTrigger(
                job_id=job_id,
                hailuo_conn_id=self.hailuo_conn_id,
                poll_interval=self.poll_interval,
                deadline=deadline,
                request=record.request_facts(request),
                end_from_trigger=visits < MOST,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=max(0.0, deadline - time.time()) + BACKSTOP_SECONDS),
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        """Resume after the trigger's `event`: push the XComs of the job, return the URL of the video."""
        ti = context["ti"]
        if event == START_ON_WORKER:
            record.forget(ti)
            return self.execute(context)
        with self._explained(event.get("job_id")):
            # Not through defer(kwargs=...): dag.test() of Airflow 3.3 drops them.
            job_id, seen = (
                ti.xcom_pull(task_ids=self.task_id, key=key, map_indexes=ti.map_index)
                for key in (record.JOB_ID, record.JOB)
            )
            if seen is not None:
                ti.xcom_push(key=record.CREDIT_COST, value=seen["credits"])
            raise_unless_finished(event, job_id)
            if seen is not None:
                self.log.info("Job %s: video is ready, %s credits", job_id, seen["credits"])
                return str(seen["url"])
            # The trigger could leave nothing: look again.
            with HailuoHook(self.hailuo_conn_id).get_conn() as client:
                job = client.send(calls.get_job(job_id))
            return self._finish(context, VideoRequest(**self._request_fields()), job)

    def _request_fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _REQUEST_FIELDS}

    def _submit(self, client: Client, request: VideoRequest, context: Context) -> tuple[str, Job | None]:
        """Submit under the first key whose job is alive; return the job's id, and the job if it is final."""
        for key in self._keys(request, context):
            try:
                submission = client.send(calls.generate_video(request, key))
            except errors.ConflictError as error:
                record.name_key(error, key, request)
                raise
            job_id = submission.job_id
            context["ti"].xcom_push(key=record.JOB_ID, value=job_id)
            self.log.info("Job %s: submitted, %s; idempotency key %s", job_id, errors.excerpt(submission.status), key)
            if submission.status not in FINAL_STATUSES:
                return job_id, None
            job = client.send(calls.get_job(job_id))
            # Only what is surely dead is left for another job, which would be paid as well.
            if not job.is_final:
                return job_id, None
            if job.status == JobStatus.COMPLETED and not job.expired:
                break
            self.log.info("Job %s: ended without a video in an earlier try", job_id)
        return job_id, job

    def _keys(self, request: VideoRequest, context: Context) -> Iterator[str]:
        """Yield as many idempotency keys as there were tries since the task was last cleared.

        An automatic retry leaves `max_tries` as it is, clearing the task raises it: so a retry gets the original
        job, and clearing gets a new one. Each try adds one key, for the case that all jobs before are dead.
        """
        ti = context["ti"]
        retries = self.retries or 0
        epoch = (retries if ti.max_tries is None else ti.max_tries) - retries
        key = self.idempotency_key
        if key is None:
            key = record.task_key(ti, self.hailuo_conn_id, epoch, request)
        return (nth_key(key, n) for n in range(1, max(1, ti.try_number - epoch) + 1))

    def _deadline(self, context: Context) -> float:
        """Return the moment to give up at, in seconds since the epoch."""
        deadline = time.time() + self.timeout
        started = context["ti"].start_date
        if self.execution_timeout is not None and started is not None:
            return min(deadline, (started + self.execution_timeout).timestamp())
        return deadline

    def _wait_here(self, client: Client, poll: JobPoll) -> Job:
        while True:
            try:
                decision = poll.on_job(client.send(calls.get_job(poll.job_id), retries=0), time.time())
            except errors.ApiframeError as error:
                decision = poll.on_error(error, time.time())
            if isinstance(decision, Finished):
                return decision.job
            if isinstance(decision, GaveUp):
                raise decision.error
            if decision.news:
                self.log.info(decision.news)
            time.sleep(decision.seconds)

    def _finish(self, context: Context, request: VideoRequest, job: Job) -> str:
        """Push the XComs of a final `job` and return the URL of its video, or raise what it ended with."""
        facts = record.job_facts(job, record.request_facts(request))
        context["ti"].xcom_push(key=record.JOB, value=facts)
        context["ti"].xcom_push(key=record.CREDIT_COST, value=job.credit_cost)
        url = video_url(job)
        self.log.info("Job %s: video is ready, %s credits, %s s", job.id, job.credit_cost, job.seconds)
        return url

    @contextmanager
    def _explained(self, job_id: str | None = None) -> Iterator[None]:
        """Turn an `ApiframeError` into the exception that Airflow retries or not, and say what is paid and to do.

        `job_id` is the job that was submitted before, None when there is none yet.
        """
        try:
            yield
        except errors.ApiframeError as error:
            error.job_id = error.job_id or job_id
            self._fail(error)

    def _fail(self, error: errors.ApiframeError) -> NoReturn:
        kind = exception_for(error)
        if isinstance(error, errors.JobError):
            money = ""
        elif not issubclass(kind, AirflowFailException):
            money = "A retry of the task goes on from here and does not pay twice. "
        elif error.job_id is None:
            money = "Nothing was paid. "
        else:
            money = "The job goes on, and is paid if it completes; clearing the task would pay for another one. "
        advice = next((text for cause, text in _ADVICE.items() if isinstance(error, cause)), "")
        # The cause is told in full, and its traceback would bury it.
        raise kind(f"{error}. {money}{advice.format(conn_id=self.hailuo_conn_id)}".rstrip(" ")) from None


_ADVICE: Mapping[type[errors.ApiframeError], str] = {
    errors.InvalidInputError: "Correct it, then clear the task",
    errors.BadRequestError: "Correct the parameters of the task",
    errors.AuthenticationError: "Check the API key in the connection {conn_id!r}",
    errors.InsufficientCreditsError: "Top up the credits of the account, then clear the task",
    errors.PermissionDeniedError: "Check that the API key in the connection {conn_id!r} is active and may do this",
    errors.NotFoundError: "Check that the connection {conn_id!r} belongs to the account that submitted the job",
    errors.ConflictError: "Take another idempotency_key, or leave it out",
    errors.JobFailedError: "A retry renders it anew",
    errors.JobExpiredError: "A retry renders it anew, which costs credits again",
    errors.JobTimeoutError: "A retry of the task takes the job up again",
}


def _is_literal(value: Any) -> bool:
    """Tell whether `value` stays as it is: neither a template nor an XComArg."""
    if isinstance(value, str):
        return not any(mark in value for mark in ("{{", "{%", "{#"))
    if isinstance(value, list):
        return all(map(_is_literal, value))
    return isinstance(value, int | float)
