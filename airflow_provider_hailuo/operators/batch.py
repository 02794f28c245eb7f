"""`HailuoGenerateBatchOperator`: one task, many videos."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit
from uuid import uuid4

from airflow_provider_hailuo import idempotency, metrics, pictures, webhooks, xcoms
from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.apiframe.batch import (
    KEY_SECONDS,
    MOST_ITEMS,
    Item,
    Outcome,
    Plan,
    fingerprint,
    generate_all,
    pack,
    ranges,
    refusal,
    request,
    seconds_for,
)
from airflow_provider_hailuo.apiframe.budget import check_budget, check_max_credits
from airflow_provider_hailuo.apiframe.client import Client, Settings
from airflow_provider_hailuo.apiframe.models import HAILUO_02, VideoRequest, is_nothing
from airflow_provider_hailuo.apiframe.polling import Finished, GaveUp, JobPoll, video_url
from airflow_provider_hailuo.apiframe.watcher import known, shared_watcher
from airflow_provider_hailuo.compat import BaseOperator
from airflow_provider_hailuo.exceptions import HailuoFailException, HailuoUnavailableException, Situation, explained
from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.lineage import report_batch
from airflow_provider_hailuo.links.hailuo import HailuoVideoLink
from airflow_provider_hailuo.operators.batch_results import (
    MAX_ERRORS_TOLD,
    ItemResult,
    abbreviate,
    failure,
    summarize,
)
from airflow_provider_hailuo.operators.hailuo import (
    RESULT_TIMEOUT_SECONDS,
    STORAGE_FIELDS,
    is_literal,
    seconds_above_0,
    within_execution_timeout,
)
from airflow_provider_hailuo.operators.task_state import TaskState, state_store
from airflow_provider_hailuo.storage import Destination, IfExists
from airflow_provider_hailuo.task_instance import has_retries_left, is_nested, task_instance_key
from airflow_provider_hailuo.triggers.batch import HailuoBatchTrigger, outcomes_from_event
from airflow_provider_hailuo.triggers.hailuo import DEFER_TIMEOUT_MARGIN_SECONDS

if TYPE_CHECKING:
    from airflow_provider_hailuo.compat import Context

OnItemFailure = Literal["fail", "skip"]

STATE_KEY = "hailuo_batch"
"""The key of what a task has begun in Airflow's task state store."""

RESULT_POLL_SECONDS = 1.0
"""Seconds between two looks of the worker that takes the results, as a rule there is one."""

CONCURRENT_FILES = 4
"""How many files a worker moves at a time."""

MAX_XCOM_ITEMS = 1000
"""Of how many items the XCom `items` tells, at most."""

MAX_FAILED_FILES = 5
"""How many files in a row may fail before the rest are left to a retry: then the storage is away, not a file."""

_DEFAULT_FIELDS = tuple(name for name in VideoRequest.model_fields if name != "prompt")

_PICTURE = f"{pictures.CONTENT_URL_PREFIX}known-later"


@dataclass(frozen=True)
class BatchState:
    """What a task has begun, written down before anything is sent.

    :param salt: goes into all its keys.
    :param max_tries: Airflow's `max_tries` of the task instance: clearing the task changes that, a retry does not.
    :param since: when it was begun, in seconds since the epoch.
    :param tries: how many tries there were since, this one included.
    :param cleared: whether the task was cleared since.
    :param delivered: whether it has returned its videos.
    :param contents: the URLs that stand for the content of its pictures, by where they lie.
    :param uploads: where they were uploaded at each try, by where they lie, and what the receiver of webhooks was.
    """

    salt: str
    max_tries: int
    since: float
    tries: int = 1
    cleared: bool = False
    delivered: bool = False
    contents: Mapping[str, str] = field(default_factory=dict)
    uploads: Sequence[Mapping[str, str]] = field(default_factory=list)

    def keys_expired(self, now: float) -> bool:
        """Tell whether the API may have forgotten the keys, so that to send them again would pay again.

        :param now: in seconds since the epoch.
        :return: whether it may.
        """
        return now - self.since >= KEY_SECONDS

    def next_try(self, max_tries: int, now: float) -> BatchState | None:
        """Return what a try begins with that comes after this one.

        A retry always goes on, and so does a task that was cleared before it had delivered.

        :param max_tries: Airflow's `max_tries` of the task instance now.
        :param now: in seconds since the epoch.
        :return: what it goes on with; None if it begins anew.
        """
        if max_tries == self.max_tries:
            return replace(self, tries=self.tries + 1)
        if self.delivered or self.keys_expired(now):
            return None
        return replace(self, max_tries=max_tries, tries=self.tries + 1, cleared=True)


class HailuoGenerateBatchOperator(BaseOperator):
    """Generates many videos with Hailuo 02 through Apiframe, a few at a time, in one task.

    The task checks all items, then the triggerer submits them and waits, where no worker slot is held, then a worker
    takes the results. Whatever crashes, no video is paid twice: a retry takes up what is there and submits only what
    is missing, and a failed render once more. Items are told apart by index and request: one that is another request
    at a retry, because upstream gives something else by then, is a new video.

    A task that is cleared makes all videos anew if it has returned them; else it goes on. Before Airflow 3.3, where
    there is no task state store, it always makes all anew, unless it uploads pictures: what it needs to know of these
    is kept in a Variable. A retry more than 23 hours after the first try fails,
    because the API forgets the keys after 24.

    Returns a list in the order of the items, of dictionaries: `index`, `job_id`, `status`, `url`, `credits` and
    `error`, as far as they are there; with `destination` the URI of a manifest, a file of such dictionaries as JSON
    Lines, with `uri`, `bytes` and `sha256` of each stored video. XCom `summary`: how many `items`, `completed`,
    `failed` and `refused`, the `credits` paid, and the `manifest`. XCom `items`, for the page of the task, also of
    one that fails: the same dictionaries, of the first 1,000 items, with the beginning of their `prompt`. Assets
    among the `outlets` get an event with the summary as its `extra`, an asset alias one for the manifest.

    :param requests: what to generate: a list of at most 10,000 prompts, or of dictionaries of the fields
        that the API takes (`prompt`, ...); or a template that renders to one, or to JSON of one
        (`{{ ... | tojson }}`). Templated.
    :param model: `hailuo-02` (default), `hailuo-2.3`, `hailuo-2.3-fast` or `hailuo-03`; templated. This and the
        following are for the items that say nothing else.
    :param image: the first frame, as of `HailuoGenerateOperator`: an http(s) URL, or a picture in a storage, which is
        uploaded before the first submission and lives for 1 to 2 hours then; none by default. Of a picture that is
        replaced between two tries the first one counts. Templated.
    :param end_image: the last frame, likewise, with `hailuo-02` only; none by default; templated.
    :param resolution: `768p` or `1080p`; None (default): the API's, `768p`; templated.
    :param duration: 6 or 10 seconds; 1080p renders 6 seconds only; None (default): the API's, 6; templated.
    :param prompt_optimizer: whether the model may rewrite the prompts; None (default): the API's, yes; templated.
    :param webhook_url: where the API announces what becomes of the jobs; none by default. With `auto` (Airflow 3.1.1)
        that is this Airflow's own receiver, which gives the asset `hailuo://<connection>/jobs` an event for each
        video; the batch itself waits as ever. Templated.
    :param webhook_events: which of `progress`, `completed`, `failed` it announces; None (default): the API's, with
        `auto` the latter two; templated.
    :param hailuo_conn_id: the Airflow connection (default `hailuo_default`); templated.
    :param max_in_flight: how many videos render at a time, at most (default 20).
    :param on_item_failure: what an item means that is refused or whose render fails: `fail` (default) fails the task,
        after all others are there, and submits nothing if an item is bad input; `skip` goes on without it. What a
        retry can still get, as after an outage, fails the task in any case.
    :param max_credits: refuse to submit anything if all items together cost more credits than that, or more than the
        account has; None (default) leaves that to the API.
    :param poll_interval: seconds (or a timedelta) between two looks (default 5).
    :param timeout: seconds (or a timedelta) to wait for each video, from its submission (default 1800). The whole may
        take that long for each round of `max_in_flight` videos, at most 23 hours; `execution_timeout` holds as well.
    :param image_conn_id: the Airflow connection of the storage of the pictures; None (default): what the environment
        says; templated.
    :param destination: a directory in which to store the videos as `<job id>.mp4`: a URL that Airflow's
        ObjectStoragePath takes, as `s3://bucket/{{ ds }}/`, or an absolute path; it ends with `/`. None (default)
        stores nothing. Templated.
    :param destination_conn_id: the Airflow connection of that storage; None (default): what the environment says;
        templated.
    :param if_exists: what to do with a file that lies there, as of `HailuoGenerateOperator` (default `skip`).
    :param metadata: whether to store `<job id>.json` beside each video (default no).
    :param poster: whether to store the first frame as `<job id>.jpg` beside it (default no; needs the extra
        `poster`).
    :param deferrable: wait in the triggerer (default) or, with False, on the worker, whose slot is held all along.
    :raises HailuoFailException: which Airflow does not retry: bad input, or what no retry can mend.
    :raises HailuoException: for everything else.
    """

    template_fields: Sequence[str] = ("requests", *_DEFAULT_FIELDS, "hailuo_conn_id", *STORAGE_FIELDS)
    ui_color: str = "#e8e4fb"
    operator_extra_links = (HailuoVideoLink(),)

    def __init__(
        self,
        *,
        requests: Any,
        model: str = HAILUO_02,
        image: str | None = None,
        end_image: str | None = None,
        resolution: str | None = None,
        duration: int | str | None = None,
        prompt_optimizer: bool | str | None = None,
        webhook_url: str | None = None,
        webhook_events: Collection[str] | None = None,
        hailuo_conn_id: str = HailuoHook.default_conn_name,
        max_in_flight: int = 20,
        on_item_failure: OnItemFailure = "fail",
        max_credits: float | None = None,
        poll_interval: float | timedelta = 5.0,
        timeout: float | timedelta = 1800.0,
        image_conn_id: str | None = None,
        destination: str | None = None,
        destination_conn_id: str | None = None,
        if_exists: IfExists = "skip",
        metadata: bool = False,
        poster: bool = False,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.requests = requests
        self.model = model
        self.image = image
        self.end_image = end_image
        self.resolution = resolution
        self.duration = duration
        self.prompt_optimizer = prompt_optimizer
        self.webhook_url = webhook_url
        self.webhook_events = webhook_events
        self.hailuo_conn_id = hailuo_conn_id
        self.max_in_flight = max_in_flight
        self.on_item_failure = on_item_failure
        self.max_credits = max_credits
        self.poll_interval = seconds_above_0("poll_interval", poll_interval)
        self.timeout = seconds_above_0("timeout", timeout)
        self.image_conn_id = image_conn_id
        self.destination = destination
        self.destination_conn_id = destination_conn_id
        self.if_exists = if_exists
        self.metadata = metadata
        self.poster = poster
        self.deferrable = deferrable
        # What is known while the DAG is parsed is refused then, not in the night.
        try:
            self._check_parameters()
        except errors.InvalidInputError as error:
            raise HailuoFailException(str(error)) from None

    def _check_parameters(self) -> None:
        if not isinstance(self.deferrable, bool):
            raise errors.InvalidInputError.of(("deferrable", self.deferrable, "must be True or False"))
        if isinstance(self.max_in_flight, bool) or not isinstance(self.max_in_flight, int) or self.max_in_flight < 1:
            raise errors.InvalidInputError.of(("max_in_flight", self.max_in_flight, "must be a whole number above 0"))
        if self.on_item_failure not in get_args(OnItemFailure):
            raise errors.InvalidInputError.of(("on_item_failure", self.on_item_failure, "must be 'fail' or 'skip'"))
        check_max_credits(self.max_credits)
        for name in _DEFAULT_FIELDS:
            if is_literal(value := getattr(self, name)):
                _request(webhooks.with_receiver({"prompt": "known later", name: value}))
        known = is_literal(self.destination) and not is_nothing(self.destination)
        self._directory(self.destination if known else "/known/later/")

    def execute(self, context: Context) -> list[dict[str, Any]] | str:
        """Check all items, submit them, and wait in the triggerer (or here, with `deferrable=False`).

        :param context: the context of the running task.
        :return: what became of each item, or the URI of the manifest, as of the class.
        :raises HailuoFailException: which Airflow does not retry, as of the class.
        :raises HailuoException: for everything else.
        """
        ti = context["ti"]
        hook = HailuoHook(self.hailuo_conn_id)
        nested = is_nested(self, ti)
        state = self._state(context)
        begun = state.load()
        if begun is not None and not begun.delivered and xcoms.was_delivered(ti):
            begun = replace(begun, delivered=True)
            state.save(begun)  # only this try can tell
        begun, going_on = self._begin(ti, begun, kept=state.is_kept)
        with self._explained(ti, hook, going_on=going_on, kept=state.is_kept):
            items = self._items()
            self._check(items)
            settings = hook.get_settings()
            requests = [_request(item) for item in items if not isinstance(item, str)]
            if self.max_credits is not None and requests:
                # What may be paid already is not given up for the balance.
                team = None if going_on else hook.get_account().team
                check_budget(requests, self.max_credits, team.credits if team else None)
            if (destination := self._destination()) is not None and not going_on:
                destination.check()
            begun, refused = self._upload_pictures(hook, settings, items, begun)
        state.save(begun)
        identity = [*idempotency.key_identity(ti, hook.hailuo_conn_id, settings), begun.salt]
        plan = Plan(
            readable=idempotency.key_prefix(ti),
            identity=[*identity, self.task_id] if nested else identity,
            tries=begun.tries,
            renew=begun.cleared,
            max_in_flight=self.max_in_flight,
            poll_interval=self.poll_interval,
            timeout=self.timeout,
            deadline=self._deadline(ti, len(items), begun),
            contents=begun.contents,
            uploads=begun.uploads,
            refused=refused,
        )
        self.log.info("%d items, of which %d can be submitted; try %d", len(items), len(requests), begun.tries)
        if nested or not self.deferrable or not requests:
            videos = generate_all(
                items,
                plan,
                self.log.log,
                hook.hailuo_conn_id,
                known(settings),
                connect=partial(hook.connect, in_triggerer=False),
            )
            return self._finish(context, state, asyncio.run(videos), items)
        self.defer(
            trigger=HailuoBatchTrigger(
                items=pack(items), hailuo_conn_id=hook.hailuo_conn_id, try_number=ti.try_number, **asdict(plan)
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=max(0.0, plan.deadline - time.time()) + DEFER_TIMEOUT_MARGIN_SECONDS),
        )

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> list[dict[str, Any]] | str:
        """Resume after the trigger: take the results, and store the files.

        :param context: the context of the running task.
        :param event: the trigger's event.
        :return: what became of each item, or the URI of the manifest, as of the class.
        :raises HailuoFailException: which Airflow does not retry, as of the class.
        :raises HailuoException: for everything else.
        """
        ti = context["ti"]
        # Airflow 3.0.0 to 3.1.0 may resume another try than the one that waited.
        if not isinstance(event, dict) or event.get("try_number") != ti.try_number:
            return self.execute(context)
        known_items = None
        with suppress(errors.InvalidInputError):
            items = self._items()
            if fingerprint(pack(items)) == event["items"]:
                known_items = items  # of what they do not render to any more, nothing is said
        return self._finish(context, self._state(context), outcomes_from_event(event), known_items)

    def _state(self, context: Context) -> TaskState[BatchState]:
        """Return where to write down what the task begins, if a key alone does not do.

        It does not for pictures that are uploaded: each upload has another URL, and the API compares bodies.
        """

        def needed() -> bool:
            with suppress(errors.InvalidInputError):
                return bool(_to_upload(self._items()))
            return False

        store = state_store(context, nested=is_nested(self, context["ti"]), needed=needed)
        return TaskState(store, STATE_KEY, BatchState)

    def _begin(self, ti: Any, begun: BatchState | None, *, kept: bool) -> tuple[BatchState, bool]:
        """Return what this try begins with, and whether an earlier one may have paid for a part of it."""
        now, max_tries = time.time(), ti.max_tries or 0
        if not kept:
            # The number of tries since the task was cleared, as long as nobody edits `retries`.
            retries = getattr(ti, "task", self).retries or 0
            tries = max(1, ti.try_number - max(0, max_tries - retries))
            return BatchState(str(max_tries), max_tries, now, tries=tries), tries > 1
        following = begun.next_try(max_tries, now) if begun is not None else None
        if following is not None and following.keys_expired(now):
            raise HailuoFailException(
                f"The batch was begun {(now - following.since) / 3600:.0f} hours ago. The API forgets idempotency "
                "keys after 24, so that a retry would pay for all videos again. Clearing the task does that."
            )
        if begun is not None:
            what = "it goes on with the videos of the tries before" if following else "all videos are made anew"
            self.log.info("The task %s: %s", "goes on" if begun.max_tries == max_tries else "was cleared", what)
        return following or BatchState(uuid4().hex, max_tries, now), following is not None

    def _deadline(self, ti: Any, items: int, begun: BatchState) -> float:
        """Return the moment to give up at, in seconds since the epoch."""
        deadline = time.time() + seconds_for(items, self.max_in_flight, self.timeout)
        return within_execution_timeout(min(deadline, begun.since + KEY_SECONDS), self, ti)

    def _items(self) -> list[Item]:
        """Return the items: the fields of each request, with the defaults, or what is wrong with it.

        :raises InvalidInputError: `requests` is no list of at most 10,000.
        """
        found = self.requests
        if isinstance(found, str):
            try:
                found = json.loads(found)
            except ValueError:
                problem = (
                    "is no JSON: a template has to end with '| tojson', or set render_template_as_native_obj=True "
                    "in the DAG"
                )
                raise errors.InvalidInputError.of(("requests", found, problem)) from None
        if not isinstance(found, Sequence) or isinstance(found, str | bytes):  # in an order that is always the same
            problem = "must be a list of prompts or of dictionaries of request fields"
            raise errors.InvalidInputError.of(("requests", found, problem))
        found = list(found)
        if len(found) > MOST_ITEMS:
            problem = f"{len(found)} items, {MOST_ITEMS} are allowed: split them, as with .expand(requests=[...])"
            raise errors.InvalidInputError(f"requests: {problem}")
        defaults = {name: getattr(self, name) for name in _DEFAULT_FIELDS}
        return [_item(given, defaults) for given in found]

    def _check(self, items: Sequence[Item]) -> None:
        """Tell all that is bad input, in the log or, as `on_item_failure` wants it, as an error.

        :raises InvalidInputError: some of it is.
        """
        bad = {index: item for index, item in enumerate(items) if isinstance(item, str)}
        if not bad:
            return
        told = "; ".join(f"item {index}: {problem}" for index, problem in list(bad.items())[:20])
        which = f" (items {ranges(bad)})" if len(bad) > 1 else ""
        problem = f"{len(bad)} of {len(items)} items will not do{which}: {told}"
        if self.on_item_failure == "fail":
            raise errors.InvalidInputError(errors.excerpt(problem, 4000))
        self.log.warning(errors.excerpt(problem, 4000))

    def _upload_pictures(
        self, hook: HailuoHook, settings: Settings, items: Sequence[Item], begun: BatchState
    ) -> tuple[BatchState, dict[str, str]]:
        """Upload all pictures that are at no URL that the API could fetch, and say where webhooks are received.

        What a try before this one has uploaded is not given up for a picture that is gone or replaced by now.

        :return: what is begun, with where the pictures are, and why some will not do, by where these lie.
        :raises ApiframeError: a picture cannot be had, or the API takes none just now.
        """
        contents, uploads, refused = dict(begun.contents), dict[str, str](), dict[str, str]()
        announced = any(isinstance(item, Mapping) and item.get("webhook_url") == webhooks.RECEIVER for item in items)
        if announced and not any(webhooks.RECEIVER in before for before in begun.uploads):
            uploads[webhooks.RECEIVER] = webhooks.receiver_url(hook.hailuo_conn_id, settings)
        if not (to_upload := _to_upload(items)):
            return replace(begun, uploads=[*begun.uploads, uploads]) if uploads else begun, {}
        with hook.get_conn() as client:
            for place, ended in _upload_all(client, to_upload, self.image_conn_id).items():
                if isinstance(ended, tuple) and contents.setdefault(place, ended[0]) == ended[0]:
                    uploads[place] = ended[1]
                elif place in contents:
                    why = "it was replaced" if isinstance(ended, tuple) else ended
                    self.log.warning("%s: what was uploaded before is used: %s", errors.excerpt(place), why)
                elif isinstance(ended, errors.InvalidInputError | errors.BadRequestError):
                    refused[place] = ended.message
                elif isinstance(ended, Exception):
                    raise ended
        self.log.info("%d pictures uploaded", len(uploads.keys() & to_upload.keys()))
        self._check([item if isinstance(item, str) else refusal(item, refused) or item for item in items])
        return replace(begun, contents=contents, uploads=[*begun.uploads, uploads]), refused

    def _finish(
        self,
        context: Context,
        state: TaskState[BatchState],
        outcomes: Sequence[Outcome],
        items: Sequence[Item] | None,
    ) -> list[dict[str, Any]] | str:
        """Read the jobs, store the files, push the XComs, return what became of each item, or raise."""
        ti, hook = context["ti"], HailuoHook(self.hailuo_conn_id)
        kept, jobs, manifest = state.is_kept, [outcome.job_id for outcome in outcomes if outcome.job_id], None
        with self._explained(ti, hook, going_on=bool(jobs), kept=kept, jobs=jobs):
            settings = hook.get_settings()
            results = self._fetch_jobs(hook, settings, outcomes, items)
            if (destination := self._destination()) is not None:
                self._store(ti, destination, results, allow_local=settings.is_local)
                manifest = self._write_manifest(ti, destination, results)
        summary = summarize(results)
        told = ", ".join(f"{number} {name}" for name, number in summary.items())
        self.log.info("Batch: %s", told)
        if manifest:
            summary["manifest"] = manifest
        ti.xcom_push(key=xcoms.ITEMS, value=[result.as_xcom for result in results[:MAX_XCOM_ITEMS]])
        ti.xcom_push(key=xcoms.SUMMARY, value=summary)
        skips = self.on_item_failure == "skip"
        missing = [result for result in results if result.error and not (skips and result.is_lost)]
        tries_left = has_retries_left(ti)
        self._count(ti, hook, results, ends=not missing or not tries_left)
        for result in [result for result in results if result.error][:MAX_ERRORS_TOLD]:
            self.log.warning("Item %d: %s", result.index, result.error)
        if missing:
            conn_id = hook.hailuo_conn_id
            raise failure(results, missing, told, manifest, conn_id=conn_id, tries_left=tries_left, kept=kept)
        with self._explained(ti, hook, going_on=bool(jobs), kept=kept, jobs=jobs):
            outlets = () if is_nested(self, ti) else self.outlets
            report_batch(context, outlets, summary, [result.as_dict for result in results if not result.error], hook)
        if kept and not (self.do_xcom_push and xcoms.are_previous_keys_known(ti)):
            # Airflow may still fail to keep the result. If it can, the next try is better told by Airflow.
            self._save_delivery(state)
        return manifest or [result.as_dict for result in results]

    def _save_delivery(self, state: TaskState[BatchState]) -> None:
        try:
            begun = state.load()
        except HailuoUnavailableException as error:
            self.log.warning("%s", error)
        else:
            state.try_save(begun and replace(begun, delivered=True))

    def _fetch_jobs(
        self, hook: HailuoHook, settings: Settings, outcomes: Sequence[Outcome], items: Sequence[Item] | None
    ) -> list[ItemResult]:
        """Ask the API for the jobs that are final, by pages as far as these tell of them."""
        final = {outcome.job_id for outcome in outcomes if outcome.job_id and outcome.error is None}
        deadline = time.time() + RESULT_TIMEOUT_SECONDS

        async def fetch() -> dict[str, Finished | GaveUp]:
            connect = partial(hook.connect, in_triggerer=False)
            async with shared_watcher(hook.hailuo_conn_id, known(settings), connect) as (_, watcher):
                polls = [JobPoll(job_id, deadline, RESULT_POLL_SECONDS) for job_id in final]
                ends = await asyncio.gather(*(watcher.wait(poll, self.log.log) for poll in polls))
                return dict(zip(final, ends, strict=True))

        ends = asyncio.run(fetch()) if final else {}
        return [
            _result(index, items[index] if items else None, outcome, ends.get(outcome.job_id or ""))
            for index, outcome in enumerate(outcomes)
        ]

    def _store(self, ti: Any, destination: Destination, results: Sequence[ItemResult], *, allow_local: bool) -> None:
        """Store the videos that are there; what cannot be stored gets an error."""
        task = task_instance_key(ti)
        failed: list[errors.ApiframeError] = []

        def store(result: ItemResult) -> None:
            assert result.job is not None  # noqa: S101 - those that have a video have a job
            if len(failed) >= MAX_FAILED_FILES:
                result.fail(failed[-1])
                return
            if result.item is None:
                facts = {**dict.fromkeys(xcoms.request_facts({})), "model": result.job.model}
            else:
                facts = xcoms.request_facts(_request(result.item).to_wire())
            try:
                result.stored = destination.store(xcoms.job_facts(result.job, facts), task, allow_local=allow_local)
            except errors.ApiframeError as error:
                failed.append(error)
                result.error = error
            else:
                failed.clear()

        there = [result for result in results if result.error is None]
        try:
            destination.check()  # here, because a connection may not be looked up in a thread
        except errors.FileError as error:
            for result in there:
                result.fail(error)
        else:
            with ThreadPoolExecutor(CONCURRENT_FILES) as pool:
                list(pool.map(store, there))

    def _write_manifest(self, ti: Any, destination: Destination, results: Sequence[ItemResult]) -> str | None:
        """Write the manifest and return its URI; None if that fails, which then is the error of all videos."""
        lines = "".join(f"{json.dumps(result.as_dict, ensure_ascii=False)}\n" for result in results)
        try:
            file = replace(destination, url=f"{destination.url}{_manifest_name(ti)}")
            return file.write(lines, "application/x-ndjson")
        except errors.FileError as error:
            for result in results:
                if result.error is None:
                    result.fail(error)
            return None

    def _count(self, ti: Any, hook: HailuoHook, results: Sequence[ItemResult], *, ends: bool) -> None:
        """Count what became of each item; its video when the task `ends`, so that no retry counts it again."""
        for result in results:
            model = result.job.model if result.job else (result.item or {}).get("model")
            tags = metrics.task_tags(ti, hook.hailuo_conn_id, model)
            if result.job_id:
                metrics.count(metrics.SUBMITTED, tags)
            if result.stored:
                metrics.count(metrics.BYTES_STORED, tags, result.stored.bytes)
            if result.error is not None:
                metrics.failed(result.error, tags)
            elif ends and result.job is not None:
                metrics.completed(xcoms.job_facts(result.job, {}), tags)

    @contextmanager
    def _explained(
        self, ti: Any, hook: HailuoHook, *, going_on: bool, kept: bool, jobs: Sequence[str] = ()
    ) -> Iterator[None]:
        """Turn an `ApiframeError` into the exception that Airflow retries or not, and name the batch's jobs."""
        try:
            yield
        except errors.ApiframeError as error:
            metrics.failed(error, metrics.task_tags(ti, hook.hailuo_conn_id))
            if jobs:
                error.message += f"; the jobs of the batch are {abbreviate(jobs)}"
            situation = Situation(
                hook.hailuo_conn_id,
                in_doubt=going_on,
                tries_left=has_retries_left(ti),
                kept=kept,
                retried=ti.try_number > 1,
            )
            raise explained(error, situation) from None

    def _destination(self) -> Destination | None:
        return None if is_nothing(self.destination) else self._directory(self.destination)

    def _directory(self, url: Any) -> Destination:
        destination = Destination.of(self, url)
        if not url.endswith("/"):
            raise errors.InvalidInputError.of(("destination", url, "must be a directory, so end with '/'"))
        return destination


def _item(given: Any, defaults: Mapping[str, Any]) -> Item:
    own = given if isinstance(given, Mapping) else {"prompt": given}
    if not all(isinstance(name, str) for name in own):
        return f"{errors.excerpt(repr(given), 80)}: the names of its fields must be text"
    if "prompt" not in own:
        return f"{errors.excerpt(repr(given), 80)}: has no prompt"
    own = {name: value for name, value in own.items() if name not in defaults or not is_nothing(value)}
    try:
        fields = webhooks.with_receiver({**defaults, **own})
        checked = _request(fields).model_dump(exclude_none=True)
    except errors.InvalidInputError as error:
        return error.message
    return {**checked, **pictures.to_upload(fields)}


def _request(item: Mapping[str, Any]) -> VideoRequest:
    """Return the request of an item, whose pictures are not looked at."""
    return request(item, dict.fromkeys(_to_upload([item]), _PICTURE))


def _to_upload(items: Iterable[Item]) -> dict[str, str]:
    """Return where the pictures lie that have to be uploaded, and of which field they are."""
    requests = [item for item in items if isinstance(item, Mapping)]
    return {url: name for item in requests for name, url in pictures.to_upload(item).items()}


def _upload_all(
    client: Client, to_upload: Mapping[str, str], conn_id: str | None
) -> dict[str, tuple[str, str] | errors.ApiframeError]:
    """Upload pictures, a few at a time; return, by where they lie, what `pictures.upload` returned or raised."""

    def upload(place: str) -> tuple[str, str] | errors.ApiframeError:
        try:
            return pictures.upload(client, to_upload[place], place, conn_id)
        except errors.ApiframeError as error:
            return error

    # In a thread no connection can be looked up: the first of each storage is uploaded here.
    firsts = {urlsplit(place)[:1] + urlsplit(place).netloc.rpartition("@")[:1]: place for place in to_upload}.values()
    done = {place: upload(place) for place in firsts}
    rest = [place for place in to_upload if place not in done]
    with ThreadPoolExecutor(CONCURRENT_FILES) as pool:
        return {**done, **dict(zip(rest, pool.map(upload, rest), strict=True))}


def _result(index: int, item: Item | None, outcome: Outcome, end: Finished | GaveUp | None) -> ItemResult:
    job = end.job if isinstance(end, Finished) else None
    error = end.error if isinstance(end, GaveUp) else outcome.error
    if job is not None:
        try:
            video_url(job)
        except errors.JobError as dead:
            error = dead
    return ItemResult(index, item if isinstance(item, Mapping) else None, outcome.job_id, job, error)


def _manifest_name(ti: Any) -> str:
    """Return a name that a run of its own gives to no other task instance."""
    identity = json.dumps(list(task_instance_key(ti).values()))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return f"manifest-{re.sub('[^A-Za-z0-9._-]', '_', ti.run_id)[:100]}-{digest}.jsonl"
