"""`HailuoGenerateOperator`: one task, one video."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

import jinja2

from airflow_provider_hailuo import idempotency, metrics, pictures, webhooks, xcoms
from airflow_provider_hailuo.apiframe import calls, errors
from airflow_provider_hailuo.apiframe.budget import check_budget, check_max_credits
from airflow_provider_hailuo.apiframe.client import Client
from airflow_provider_hailuo.apiframe.idempotency import nth_key
from airflow_provider_hailuo.apiframe.models import (
    FINAL_STATUSES,
    HAILUO_02,
    IMAGE_FIELDS,
    Job,
    JobStatus,
    VideoRequest,
    is_nothing,
)
from airflow_provider_hailuo.apiframe.polling import JobPoll, video_url
from airflow_provider_hailuo.compat import BaseOperator, StartTriggerArgs
from airflow_provider_hailuo.exceptions import HailuoFailException, HailuoUnavailableException, Situation, explained
from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.lineage import openlineage_facets, report
from airflow_provider_hailuo.links.hailuo import HailuoVideoLink
from airflow_provider_hailuo.operators.submission import Submission, SubmissionStore, decide_resume
from airflow_provider_hailuo.operators.worker_visits import MAX_WORKER_VISITS, effective_worker_visits
from airflow_provider_hailuo.storage import Destination, IfExists
from airflow_provider_hailuo.task_instance import has_retries_left, is_nested, map_index, task_instance_key
from airflow_provider_hailuo.triggers.hailuo import (
    DEFER_TIMEOUT_MARGIN_SECONDS,
    HailuoGenerateTrigger,
    HailuoJobTrigger,
    before_execution_timeout,
    raise_unless_finished,
)

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_hailuo.compat import Context

_REQUEST_FIELDS = tuple(VideoRequest.model_fields)
_SUBMITTED_FIELDS = (*_REQUEST_FIELDS, "hailuo_conn_id", "idempotency_key")
STORAGE_FIELDS = ("image_conn_id", "destination", "destination_conn_id")

MAX_DEAD_JOBS = 10
"""How many jobs that were dead when they were submitted, so of earlier tries, a try leaves behind before it gives
up."""

RESULT_TIMEOUT_SECONDS = 120.0
"""How long a worker that takes the result asks for it, should the API be out of order."""


class _ComputedAttribute:
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
    The URL is short-lived: with `destination` the task stores the file and returns where it lies.

    An optional field that renders to "" or "None" is left out. A retry goes on with what the task has begun, whatever
    its templates render to by then. Inside another task (`execute(context)`) it waits right there.

    XComs: `return_value` is the URL (with `destination` that of the stored file); `job_id` is there right after the
    submission; `credit_cost` (credits) and `job` (a dictionary of all that a page would show; with `destination` also
    `uri`, `bytes` and `sha256`) when the job is final.

    :param prompt: what to show, 1 to 2000 characters, of which emoji and the like count as two; templated.
    :param model: `hailuo-02` (default), `hailuo-2.3`, `hailuo-2.3-fast` or `hailuo-03`; templated.
    :param image: the first frame, none by default: an http(s) URL, or a picture (PNG, JPEG, WebP, GIF of at most
        25 MB) at a URL that Airflow's ObjectStoragePath takes or at an absolute path, which is uploaded right before
        the submission; templated.
    :param end_image: the last frame, likewise, with `hailuo-02` only; templated.
    :param resolution: `768p` or `1080p`; None (default): the API's, `768p`; templated.
    :param duration: 6 or 10 seconds; 1080p renders 6 seconds only; None (default): the API's, 6; templated.
    :param prompt_optimizer: whether the model may rewrite the prompt; None (default): the API's, yes; templated.
    :param webhook_url: where the API announces what becomes of the job; none by default. With `auto` (Airflow 3.1.1)
        that is this Airflow's own receiver, below `[api] base_url`: a finished video resumes its task at once, on a
        worker, and the triggerer looks at the job each 60 s only, for what gets lost. A retry sends what was sent
        first, wherever the receiver is by then. Templated.
    :param webhook_events: which of `progress`, `completed`, `failed` it announces; None (default): the API's, with
        `auto` the latter two; templated.
    :param hailuo_conn_id: the Airflow connection (default `hailuo_default`); templated.
    :param deferrable: wait in the triggerer (default) or, with False, on the worker, whose slot is held all along.
    :param worker_visits: how often the task may take a worker slot while all goes well: 2 (default), 1 (the triggerer
        ends the task) or 0 (the triggerer submits as well). Where something would get lost, as a success callback or
        a limit would, the task takes the next higher number by itself and logs why. 1 and 0 need Airflow 3.3.
    :param poll_interval: seconds (or a timedelta) between two looks at the job (default 5, the vendor recommends 5 to
        10).
    :param timeout: seconds (or a timedelta) to wait (default 1800), counted from the submission, with
        `worker_visits=0` from when Airflow hands over the task. `execution_timeout` holds as well.
    :param idempotency_key: overrides the derived key (None, the default) that keeps a crash or retry from paying
        twice. The same key stands for the same video, also when the task is cleared. Templated.
    :param image_conn_id: the Airflow connection of the storage of `image` and `end_image`; None (default): what the
        environment says; templated.
    :param destination: where to store the video: a URL that Airflow's ObjectStoragePath takes, as
        `s3://bucket/{{ ds }}/boat.mp4`, or an absolute path; if it ends with `/`, the file is `<job id>.mp4`. None
        (default) stores nothing. Half a file is never seen there, and a retry after a failure stores the same video.
        Templated.
    :param destination_conn_id: the Airflow connection of that storage; None (default): what the environment says;
        templated.
    :param if_exists: what to do with a file that lies there: `skip` (default) fetches nothing if it is the same video
        and replaces any other; `overwrite` replaces it in any case; `fail` replaces no other file.
    :param metadata: whether to store `<name>.json` beside it (default no): prompt, job, credits, sha256, DAG, run and
        so on.
    :param poster: whether to store the first frame as `<name>.jpg` beside it (default no; needs the extra `poster`).
    :param wait_for_completion: wait for the video (default); with False the task ends when the job is submitted and
        returns its id: wait for it with `HailuoJobSensor` and store it with `HailuoToObjectStorageOperator`.
    :param max_credits: refuse to submit a video that costs more credits than that, or more than the account has; None
        (default) leaves that to the API.
    :raises HailuoFailException: which Airflow does not retry: nothing was paid, and input, key, credits or rights
        will not do.
    :raises HailuoException: for everything else. Each message says what to do, and names the job once there is one.
    """

    # While the base class is made, Airflow asks already.
    worker_visits: int = MAX_WORKER_VISITS
    deferrable: bool = True
    wait_for_completion: bool = True
    _before_rendering: tuple[int, str | None] | None = None
    _lineage: tuple[Mapping[str, Any] | None, str] = (None, "")
    template_fields: Sequence[str] = (*_SUBMITTED_FIELDS, *STORAGE_FIELDS)
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
        webhook_events: Collection[str] | None = None,
        hailuo_conn_id: str = HailuoHook.default_conn_name,
        deferrable: bool = True,
        worker_visits: int = MAX_WORKER_VISITS,
        poll_interval: float | timedelta = 5.0,
        timeout: float | timedelta = 1800.0,
        idempotency_key: str | None = None,
        image_conn_id: str | None = None,
        destination: str | None = None,
        destination_conn_id: str | None = None,
        if_exists: IfExists = "skip",
        metadata: bool = False,
        poster: bool = False,
        wait_for_completion: bool = True,
        max_credits: float | None = None,
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
        self.poll_interval = seconds_above_0("poll_interval", poll_interval)
        self.timeout = seconds_above_0("timeout", timeout)
        self.idempotency_key = idempotency_key
        self.image_conn_id = image_conn_id
        self.destination = destination
        self.destination_conn_id = destination_conn_id
        self.if_exists = if_exists
        self.metadata = metadata
        self.poster = poster
        self.wait_for_completion = wait_for_completion
        self.max_credits = max_credits
        # What is known while the DAG is parsed is refused then, not in the night.
        for name in "deferrable", "wait_for_completion":
            if not isinstance(getattr(self, name), bool):
                raise HailuoFailException(f"{name}: {getattr(self, name)!r}: must be True or False")
        if destination is not None and not wait_for_completion:
            raise HailuoFailException(
                "destination: needs wait_for_completion=True: nobody else would store the video"
            )
        if isinstance(worker_visits, bool) or worker_visits not in range(MAX_WORKER_VISITS + 1):
            raise HailuoFailException(f"worker_visits: {worker_visits!r}: must be 0, 1 or 2")
        if is_literal(hailuo_conn_id) and not (is_nothing(hailuo_conn_id) or isinstance(hailuo_conn_id, str)):
            raise HailuoFailException(f"hailuo_conn_id: {hailuo_conn_id!r}: must be the id of a connection, a text")
        if getattr(self, "multiple_outputs", False):
            raise HailuoFailException(
                "multiple_outputs: True: the task returns one URL; its XCom 'job' is a dictionary"
            )
        try:
            known = {name: value for name, value in self._request_fields().items() if is_literal(value)}
            for name in pictures.to_upload(known):
                del known[name]
            VideoRequest(**{"prompt": "known later", **known})
            if is_literal(idempotency_key):
                calls.check_idempotency_key(idempotency_key)
            is_known = is_literal(destination) and not is_nothing(destination)
            Destination.of(self, destination if is_known else "/known/later")
            check_max_credits(max_credits)
        except errors.InvalidInputError as error:
            raise HailuoFailException(str(error)) from None

    def _effective_worker_visits(self) -> tuple[int, str | None]:
        """Return how often the task visits a worker, and what stands in the way of fewer visits that were wanted."""
        if not self.wait_for_completion:
            return 1, "wait_for_completion=False" if self.worker_visits == 0 else None
        return effective_worker_visits(
            self, self.worker_visits, deferrable=self.deferrable, of=HailuoGenerateOperator
        )

    def _start_from_trigger(self) -> bool:
        return self._effective_worker_visits()[0] == 0

    def _start_trigger_args(self) -> StartTriggerArgs | None:
        if not self._start_from_trigger():
            return None
        timeout = self.execution_timeout
        values: dict[str, Any] = {name: getattr(self, name) for name in _SUBMITTED_FIELDS}
        if isinstance(values["webhook_events"], Collection) and not isinstance(values["webhook_events"], str):
            # Not in the order of a set, which is another one in each process: the DAG would seem to change.
            values["webhook_events"] = sorted(values["webhook_events"], key=str)
        trigger = HailuoGenerateTrigger(
            **values,
            poll_interval=self.poll_interval,
            timeout=self.timeout,
            execution_timeout=None if timeout is None else timeout.total_seconds(),
        )
        path, arguments = trigger.serialize()
        return StartTriggerArgs(
            trigger_cls=path,
            trigger_kwargs=arguments,
            next_method="execute_complete",
            timeout=timedelta(seconds=self.timeout + DEFER_TIMEOUT_MARGIN_SECONDS),
        )

    # Whether Airflow starts the task in the triggerer.
    start_from_trigger = _ComputedAttribute(_start_from_trigger, of_class=False)
    start_trigger_args = _ComputedAttribute(_start_trigger_args, of_class=None)

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the templates, on a worker: what they stood in the way of is not to be seen afterwards.

        :param context: the context of the running task.
        :param jinja_env: the environment of its DAG; None (default): the task finds it.
        """
        self._before_rendering = self._effective_worker_visits()
        super().render_template_fields(context, jinja_env)

    def execute(self, context: Context) -> str:
        """Submit the job, and wait in the triggerer (or here, with `deferrable=False`).

        :param context: the context of the running task.
        :return: the URL of the video, or of the stored file; the job's id with `wait_for_completion=False`.
        :raises HailuoFailException: which Airflow does not retry, as of the class.
        :raises HailuoException: for everything else.
        """
        return self._execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> str:
        """Resume after the trigger: push the XComs of the job, and store its video.

        :param context: the context of the running task.
        :param event: the trigger's event.
        :return: the URL of the video, or of the stored file.
        :raises HailuoFailException: which Airflow does not retry, as of the class.
        :raises HailuoException: for everything else.
        """
        ti = context["ti"]
        # `START_ON_WORKER` is of no try, 0 means the one that is resumed. Airflow 3.0.0 to 3.1.0 may resume another
        # try than waited, and `airflow tasks test` of a run that a trigger has ended resumes without an event.
        if not isinstance(event, dict) or event.get("try_number") not in {0, ti.try_number}:
            return self._execute(context, previous=xcoms.pull_previous(ti))
        submissions = self._submission_store(context)
        with self._explained(ti, submissions, unknown=not submissions.has_store):
            submission = self._submission_of_event(ti, submissions, event)
            # Not through defer(kwargs=...): dag.test() of Airflow 3.3 drops them.
            seen = ti.xcom_pull(task_ids=self.task_id, key=xcoms.JOB, map_indexes=ti.map_index)
            if not isinstance(seen, dict) or seen.get("id") != submission.job_id:
                seen = None
            if event.get("hint") and seen is None:
                if (job := self._final_job(submission, cleared=False)) is not None:
                    return self._finish(context, submissions, submission, job)
                self._wait(ti, submission, float(event.get("deadline") or self._deadline(ti)))
            if seen is not None:
                ti.xcom_push(key=xcoms.CREDIT_COST, value=seen["credits"])
            raise_unless_finished(event)
            if seen is not None and seen["url"]:
                self.log.info("Job %s: video is ready, %s credits", submission.job_id, seen["credits"])
                return self._deliver(context, submissions, submission, seen)
            # The trigger could leave nothing: look again.
            ti.xcom_push(key=xcoms.JOB_ID, value=submission.job_id)
            until = min(time.time() + RESULT_TIMEOUT_SECONDS, self._deadline(ti))
            job = HailuoHook(submission.conn_id).wait_with(
                JobPoll(str(submission.job_id), until, self.poll_interval), self.log.log
            )
            return self._finish(context, submissions, submission, job)

    def _execute(self, context: Context, previous: Mapping[str, Any] | None = None) -> str:
        """Begin a try on a worker.

        `previous` are the XComs that a trigger has pushed; None if no trigger was there before.
        """
        ti = context["ti"]
        nested = is_nested(self, ti)
        submissions = self._submission_store(context)
        ends_in_trigger = self._ends_in_trigger(ti)
        # What a trigger began, the store does not tell, and perhaps its XComs do not either.
        unknown = not submissions.has_store or (previous is not None and xcoms.JOB_ID not in previous)
        with self._explained(ti, submissions, unknown=unknown):
            submission, job = self._submit(ti, submissions, previous)
            if not self.wait_for_completion:
                if job is not None:
                    video_url(job)  # raises, if there is none
                self._record_delivery(ti, submissions, submission)
                return str(submission.job_id)
            poll = JobPoll(str(submission.job_id), self._deadline(ti), self.poll_interval)
            if job is None and (nested or not self.deferrable):
                job = HailuoHook(submission.conn_id).wait_with(poll, self.log.log)
            if job is not None:
                return self._finish(context, submissions, submission, job)
        if ends_in_trigger:
            submission = replace(submission, ends_in_trigger=True)
            submissions.update(submission)
        self._wait(ti, submission, poll.deadline)

    def _wait(self, ti: Any, submission: Submission, deadline: float) -> NoReturn:
        """Wait in the triggerer, until `deadline` (seconds since the epoch)."""
        announced = webhooks.RECEIVER in submission.uploads
        interval = max(self.poll_interval, webhooks.FALLBACK_POLL_SECONDS) if announced else self.poll_interval
        self.defer(
            trigger=HailuoJobTrigger(
                job_id=str(submission.job_id),
                hailuo_conn_id=submission.conn_id,
                poll_interval=interval,
                deadline=deadline,
                request=xcoms.request_facts(submission.body),
                end_from_trigger=submission.ends_in_trigger,
                try_number=ti.try_number,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=max(0.0, deadline - time.time()) + DEFER_TIMEOUT_MARGIN_SECONDS),
        )

    def _ends_in_trigger(self, ti: Any) -> bool:
        """Tell whether a trigger ends this try; log what stands in the way of as few visits as were wanted."""
        # Mapped tasks are not seen as such before they run: Airflow starts them on a worker by itself.
        visits, blocker = self._before_rendering or self._effective_worker_visits()
        if visits == 0:
            visits, blocker = 1, "mapping" if map_index(ti) >= 0 else None
        if blocker is not None:
            self.log.info("worker_visits=%d cannot be had with %s: it is %d", self.worker_visits, blocker, visits)
        return visits < MAX_WORKER_VISITS

    def _submission_store(self, context: Context) -> SubmissionStore:
        # Each upload of a picture has a URL of its own, and so a body that the API takes for another request.
        needed = bool(self._pictures_to_upload())
        return SubmissionStore(context, nested=is_nested(self, context["ti"]), needed=needed)

    @property
    def _conn_id(self) -> str:
        return HailuoHook(self.hailuo_conn_id).hailuo_conn_id

    def _request_fields(self) -> dict[str, Any]:
        return webhooks.with_receiver({name: getattr(self, name) for name in _REQUEST_FIELDS})

    def _current_request(self, contents: Mapping[str, str] | None = None) -> tuple[VideoRequest, str | None]:
        """Return the request and the task's own key, as its templates render now.

        Pictures that are elsewhere it names by their content: `contents` by field, or what lies there now.
        """
        if contents is None:
            to_upload = self._pictures_to_upload()
            contents = {name: pictures.content_url(name, url, self.image_conn_id) for name, url in to_upload.items()}
        fields = {**self._request_fields(), **contents}
        return VideoRequest(**fields), calls.check_idempotency_key(self.idempotency_key)

    def _pictures_to_upload(self) -> dict[str, str]:
        return pictures.to_upload({name: getattr(self, name) for name in IMAGE_FIELDS})

    def _submit(
        self, ti: Any, submissions: SubmissionStore, previous: Mapping[str, Any] | None
    ) -> tuple[Submission, Job | None]:
        """Go on with what the task has begun, or begin; return the submission, and its job if that is final."""
        submission = self._resumable_submission(ti, submissions, previous or {})
        xcoms.delete_previous(ti, previous or {})
        salt = None
        if submissions.has_store:
            # Of the first try perhaps a trigger has sent the request already: under this key.
            begun_by_trigger = previous is not None and ti.try_number <= 1 and not submissions.is_earlier
            salt = str(ti.id) if begun_by_trigger else uuid4().hex
        n = first = submission.nth if submission else 1
        while True:
            new = running = False
            if submission is None or submission.job_id is None:
                with HailuoHook(submission.conn_id if submission else self._conn_id).get_conn() as client:
                    if submission is None:
                        submission = self._new_submission(ti, submissions, client, n, salt)
                        if xcoms.JOB_ID in (previous or {}):
                            xcoms.delete_job_id(ti)
                        # Under a key that nothing else can have it is of this try, even if it is dead at once.
                        new = salt is not None and submission.own_key is None
                    submission, running = self._send(client, ti, submissions, submission)
            else:
                self._record_job(ti, submissions, submission)
            job = None if running else self._final_job(submission, cleared=submissions.cleared)
            if job is None or not _is_dead(job) or new or n == first + MAX_DEAD_JOBS - 1:
                return submission, job
            self.log.info("Job %s: ended without a video: another one is submitted", job.id)
            submission = submissions.current = None
            n += 1

    def _resumable_submission(
        self, ti: Any, submissions: SubmissionStore, previous: Mapping[str, Any]
    ) -> Submission | None:
        """Return what the task has begun in an earlier try, if it is to go on with that."""
        begun = submissions.load()
        body, own_key, invalid = dict[str, Any](), None, None
        try:
            request, own_key = self._current_request()
            body = request.to_wire()
        except (errors.InvalidInputError, errors.FileError) as error:
            invalid = error
        if begun is None and submissions.has_store and xcoms.JOB_ID in previous:
            begun = self._submission_by_trigger(ti, previous[xcoms.JOB_ID], body, own_key)
            submissions.update(begun)  # only this try can tell
        if begun is None:
            if invalid is not None:
                raise invalid
            return None
        if not begun.delivered and xcoms.was_delivered(ti, previous, by_trigger=begun.ends_in_trigger):
            begun = replace(begun, delivered=True)
            submissions.update(begun)  # only this try can tell
        submissions.cleared = begun.max_tries != ti.max_tries
        if invalid is not None and submissions.cleared:
            submissions.current = None if begun.delivered else begun
            raise invalid
        goes_on, note = decide_resume(
            begun, max_tries=ti.max_tries, body=body, own_key=own_key, conn_id=self._conn_id
        )
        self.log.info(note)
        here = replace(begun, max_tries=ti.max_tries, ends_in_trigger=False)
        submissions.current = here if goes_on else None
        return submissions.current

    def _submission_by_trigger(
        self, ti: Any, job_id: str, body: Mapping[str, Any], own_key: str | None
    ) -> Submission:
        """Return the submission of a job that a trigger has made, which cannot write to the store.

        What the API tells of its request is taken from there; of the rest it is believed that it has not changed.
        """
        job = None
        with suppress(errors.ApiframeError):
            job = HailuoHook(self._conn_id).get_job(job_id)
        told = {**(job.input or {}), "model": job.model} if job else {}
        known = {name: told[name] for name in ("prompt", "model", "hailuoParams") if told.get(name) is not None}
        cleared = ti.try_number > 1 and ti.max_tries != (self.retries or 0)
        max_tries = -1 if cleared else ti.max_tries or 0
        body = {**body, **known}
        return Submission("", body, self._conn_id, max_tries, own_key, job_id, ends_in_trigger=True)

    def _new_submission(
        self, ti: Any, submissions: SubmissionStore, client: Client, n: int, salt: str | None
    ) -> Submission:
        """Return a new submission, written down; `salt` makes its key one that nothing else can have."""
        to_upload = self._pictures_to_upload()
        uploads = {name: pictures.upload(client, name, url, self.image_conn_id) for name, url in to_upload.items()}
        # What was uploaded, should a picture be replaced meanwhile.
        request, own_key = self._current_request({name: content for name, (content, _) in uploads.items()})
        # What would be of no use, or too dear, is not paid for; what may be paid already is not given up for that.
        may_be_paid = not submissions.has_store and ti.try_number > 1
        destination = self._destination()
        if destination is not None and not may_be_paid:
            destination.check()
        if self.max_credits is not None:
            team = None if may_be_paid else client.send(calls.get_account()).team
            check_budget([request], self.max_credits, team.credits if team else None)
        more = [salt or ti.max_tries or 0]
        if is_nested(self, ti):
            more.append(self.task_id)
        key = own_key or idempotency.task_key(ti, self._conn_id, client.settings, request, *more)
        stand_for = dict(uploads.values())
        if request.webhook_url == webhooks.RECEIVER:
            stand_for[webhooks.RECEIVER] = webhooks.receiver_url(self._conn_id, client.settings)
        submission = Submission(
            *(nth_key(key, n), request.to_wire(), self._conn_id, ti.max_tries or 0, own_key), nth=n, uploads=stand_for
        )
        submissions.save(submission)
        return submission

    def _send(
        self, client: Client, ti: Any, submissions: SubmissionStore, submission: Submission
    ) -> tuple[Submission, bool]:
        """Send a submission; return it with its job's id, and whether that job is known to run."""
        try:
            answer = client.send(calls.generate_video(submission.wire_body, submission.key))
        except errors.ApiframeError as error:
            if isinstance(error, errors.ConflictError):
                idempotency.add_key_to_message(error, submission.key, submission.body["prompt"])
            if not (error.in_doubt or submissions.in_doubt):
                submissions.discard()
            raise
        submission = replace(submission, job_id=answer.job_id)
        metrics.count(metrics.SUBMITTED, self._tags(ti, submission))
        status = errors.excerpt(answer.status or "status untold")
        self.log.info("Job %s: submitted, %s; idempotency key %s", answer.job_id, status, submission.key)
        self._record_job(ti, submissions, submission)
        return submission, answer.status is not None and answer.status not in FINAL_STATUSES

    def _record_job(self, ti: Any, submissions: SubmissionStore, submission: Submission) -> None:
        submissions.update(submission)
        ti.xcom_push(key=xcoms.JOB_ID, value=submission.job_id)

    def _final_job(self, submission: Submission, *, cleared: bool) -> Job | None:
        """Return the job of a submission if it is final; what cannot be seen just now is waited for.

        That a video is purged is believed at once of a task that was `cleared`: then another one is wanted.
        """
        try:
            job = HailuoHook(submission.conn_id).get_job(str(submission.job_id))
        except errors.ApiframeError as error:
            # Whoever waits looks again, and looks up the connection.
            self.log.warning("Job %s: cannot see it: %s", submission.job_id, error.without_job())
            return None
        is_purged = job.status == JobStatus.COMPLETED and job.expired
        return job if job.is_final and not job.lacks_url and (cleared or not is_purged) else None

    def _submission_of_event(self, ti: Any, submissions: SubmissionStore, event: Mapping[str, Any]) -> Submission:
        """Return the submission that `event` is about; what a trigger has made is written down for a later try."""
        try:
            begun = submissions.load()
        except HailuoUnavailableException as error:
            self.log.warning("%s", error)
            begun = None
        # A trigger that was started again and refused does not know what it submitted before; its XCom does.
        job_id = event["job_id"] or ti.xcom_pull(task_ids=self.task_id, key=xcoms.JOB_ID, map_indexes=ti.map_index)
        if begun is not None and begun.job_id in {None, job_id}:
            submissions.current = replace(begun, job_id=job_id, ends_in_trigger=False)
            if begun.ends_in_trigger:
                submissions.update(submissions.current)
            return submissions.current
        body, own_key = event.get("body") or {}, None
        with suppress(errors.InvalidInputError, errors.FileError):
            request, own_key = self._current_request()
            body = body or request.to_wire()
        made = Submission(event.get("key") or "", body, self._conn_id, ti.max_tries or 0, own_key, job_id)
        if job_id is not None or (event.get("in_doubt") and body):
            submissions.update(made)
        return made

    def _deadline(self, ti: Any) -> float:
        """Return the moment to give up at, in seconds since the epoch."""
        return within_execution_timeout(time.time() + self.timeout, self, ti)

    def _finish(self, context: Context, submissions: SubmissionStore, submission: Submission, job: Job) -> str:
        """Push the XComs of a final `job` and return the URL of its video, or raise what it ended with."""
        ti = context["ti"]
        facts = xcoms.job_facts(job, xcoms.request_facts(submission.body))
        ti.xcom_push(key=xcoms.JOB, value=facts)
        ti.xcom_push(key=xcoms.CREDIT_COST, value=job.credit_cost)
        video_url(job)  # raises, if there is none
        self.log.info("Job %s: video is ready, %s credits, %s s", job.id, job.credit_cost, job.seconds)
        return self._deliver(context, submissions, submission, facts)

    def _deliver(
        self, context: Context, submissions: SubmissionStore, submission: Submission, facts: dict[str, Any]
    ) -> str:
        """Store the video of the XCom `job`, where that is wanted, and return the URL that the task hands on."""
        ti, url, hook = context["ti"], str(facts["url"]), HailuoHook(submission.conn_id)
        if (destination := self._destination()) is not None:
            settings = hook.get_settings()
            stored = destination.store(facts, task_instance_key(ti), allow_local=settings.is_local)
            facts, url = {**facts, **asdict(stored)}, stored.uri
            ti.xcom_push(key=xcoms.JOB, value=facts)
            self._lineage = facts, settings.base_url
            metrics.count(metrics.BYTES_STORED, self._tags(ti, submission), stored.bytes)
        report(context, () if is_nested(self, ti) else self.outlets, facts, hook)
        metrics.completed(facts, self._tags(ti, submission))
        self._record_delivery(ti, submissions, submission)
        return url

    def _tags(self, ti: Any, submission: Submission | None) -> metrics.Tags:
        if submission is None:
            return metrics.task_tags(ti, self._conn_id)
        return metrics.task_tags(ti, submission.conn_id, submission.body.get("model"))

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:  # noqa: ARG002
        """Return what OpenLineage is to know: the job, and where its video was stored, if it was.

        :param task_instance: the task instance, which is not looked at.
        :return: the facets.
        """
        return openlineage_facets(*self._lineage)

    def _destination(self) -> Destination | None:
        return None if is_nothing(self.destination) else Destination.of(self, self.destination)

    def _record_delivery(self, ti: Any, submissions: SubmissionStore, submission: Submission) -> None:
        # Airflow may still fail to keep the URL. If it can, the next try is better told by Airflow that it did.
        if not (self.do_xcom_push and xcoms.are_previous_keys_known(ti)):
            submissions.update(replace(submission, delivered=True))

    @contextmanager
    def _explained(self, ti: Any, submissions: SubmissionStore, *, unknown: bool) -> Iterator[None]:
        """Turn an `ApiframeError` into the exception that Airflow retries or not, and say what is paid and to do.

        `unknown`: whether an earlier try may have begun what `submissions` does not hold.
        """
        try:
            yield
        except errors.ApiframeError as error:
            current = submissions.current
            metrics.failed(error, self._tags(ti, current))
            situation = Situation(
                conn_id=current.conn_id if current else self._conn_id,
                job_id=current.job_id if current else None,
                in_doubt=error.in_doubt
                or submissions.in_doubt
                or (unknown and not submissions.is_earlier and ti.try_number > 1),
                tries_left=has_retries_left(ti),
                kept=submissions.is_saved or (current is not None and current.own_key is not None),
                retried=ti.try_number > 1,
            )
            # The cause is told in full, and its traceback would bury it.
            raise explained(error, situation) from None


def _is_dead(job: Job) -> bool:
    """Tell whether no video is to be had from a final `job` any more."""
    return job.status != JobStatus.COMPLETED or bool(job.expired)


def seconds_above_0(name: str, value: float | timedelta) -> float:
    """Return the seconds that a parameter of a task gives.

    :param name: the parameter.
    :param value: seconds, or a timedelta.
    :return: seconds.
    :raises HailuoFailException: it is not above 0.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
        raise HailuoFailException(f"{name}: {value!r}: must be a number of seconds above 0, or a timedelta")
    return seconds


def within_execution_timeout(deadline: float, task: BaseOperator, ti: Any) -> float:
    """Return when a task has to give up, so that its `execution_timeout` does not end it before.

    :param deadline: when it would give up by itself, in seconds since the epoch.
    :param task: the task.
    :param ti: its task instance.
    :return: the moment, in seconds since the epoch.
    """
    if task.execution_timeout is None or ti.start_date is None:
        return deadline
    allowed = before_execution_timeout(task.execution_timeout.total_seconds())
    return min(deadline, float(ti.start_date.timestamp()) + allowed)


def is_literal(value: Any) -> bool:
    """Tell whether a value stays as it is.

    :param value: the value of a parameter.
    :return: whether it is neither a template nor something that is resolved at run time.
    """
    if isinstance(value, str):
        return not any(mark in value for mark in ("{{", "{%", "{#"))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_literal, value))
    return not hasattr(value, "resolve")
