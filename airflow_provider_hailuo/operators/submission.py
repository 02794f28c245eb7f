"""The submission of a task with one video, and whether a later try goes on with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_hailuo.compat import Context
from airflow_provider_hailuo.operators.task_state import TaskState, state_store
from airflow_provider_hailuo.xcoms import request_facts

STATE_KEY = "hailuo_submission"
"""The key of the submission in Airflow's task state store."""


@dataclass(frozen=True)
class Submission:
    """A request for a video, as it was or is going to be sent.

    The names of the fields are those in the task state store.

    :param key: the idempotency key.
    :param body: the JSON body, which is the same however often a picture of it is uploaded.
    :param conn_id: the Airflow connection.
    :param max_tries: Airflow's `max_tries` of the task instance when it was begun: clearing the task changes that, a
        retry does not, nor does editing `retries` of the DAG.
    :param own_key: the `idempotency_key` of the task, None when the key is derived.
    :param job_id: the job, None while the API has told of none.
    :param delivered: whether the task has handed on the URL of its video.
    :param ends_in_trigger: whether the try that goes on with it is one that a trigger ends.
    :param nth: which of the keys that begin with the task's own or the derived one it is (see `nth_key`).
    :param uploads: where the pictures that the body names by their content were uploaded (see `pictures`), and what
        the receiver of webhooks was (see `webhooks`).
    """

    key: str
    body: Mapping[str, Any]
    conn_id: str
    max_tries: int
    own_key: str | None = None
    job_id: str | None = None
    delivered: bool = False
    ends_in_trigger: bool = False
    nth: int = 1
    uploads: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _video(self.body)  # raises if it is none, as of a store that holds something else

    @property
    def wire_body(self) -> dict[str, Any]:
        """The JSON body as it goes to the API, with the pictures where they were uploaded, and the receiver."""
        return {
            name: self._in_place(value) if name in {"hailuoParams", "webhookUrl"} else value
            for name, value in self.body.items()
        }

    def _in_place(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._in_place(each) for name, each in value.items()}
        return self.uploads.get(value, value) if isinstance(value, str) else value


def _video(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request asks for, wherever it is announced."""
    params = {"prompt_optimizer": True, **(body.get("hailuoParams") or {})}
    facts = request_facts(body)
    return {**params, **facts, "prompt": str(facts["prompt"]).strip()}


def decide_resume(
    begun: Submission, *, max_tries: int, body: Mapping[str, Any], own_key: str | None, conn_id: str
) -> tuple[bool, str]:
    """Decide whether a task goes on with what it has begun, or begins anew.

    A retry always goes on: what its templates render to by now does not matter. A task that was cleared goes on if
    its video was paid for and not delivered, as long as the request is the same.

    :param begun: what the task has begun.
    :param max_tries: Airflow's `max_tries` of the task instance now.
    :param body: what the task would send now; an empty one, which any video fits, if that cannot be said.
    :param own_key: the `idempotency_key` of the task now.
    :param conn_id: its connection now; it goes on with the one that it has begun with.
    :return: whether it goes on, and what the log says of it.
    """
    named = f"job {begun.job_id}" if begun.job_id else "the submission that was begun before"
    where = f" and the connection {begun.conn_id!r}" if conn_id != begun.conn_id else ""
    if begun.max_tries == max_tries:
        note = ""
        if not body:
            note = ", whatever its parameters would be by now"
        elif body != begun.body or own_key != begun.own_key:
            note = "; its parameters render to something else by now, which changes nothing"
        return True, f"This try goes on with {named}{where}{note}"
    if begun.delivered:
        return False, f"The task was cleared after it had delivered {named}: a new video is submitted"
    is_another = begun.body and body and _video(body) != _video(begun.body)
    if is_another or own_key != begun.own_key:
        return False, f"The task was cleared with another request than that of {named}: a new video is submitted"
    paid = ", and pays no second time" if begun.job_id else ", under the same key"
    return True, f"The task was cleared before it had delivered {named}: it goes on with that{where}{paid}"


class SubmissionStore:
    """The submission of one task instance, in Airflow's task state store as far as there is one (Airflow 3.3).

    `current` is what this try goes on with, None while that is nothing; `is_earlier` tells whether an earlier try has
    begun it, `cleared` whether the task was cleared since, and `has_store` whether there is a store.

    :param context: the context of the running task.
    :param nested: whether the task runs inside another one: it has no store then.
    :param needed: whether a key alone does not do, because the same request has another body at each try: where there
        is no store it is kept in a Variable then.
    """

    def __init__(self, context: Context, *, nested: bool, needed: bool) -> None:
        store = state_store(context, nested=nested, needed=lambda: needed)
        self._state = TaskState(store, STATE_KEY, Submission)
        self.has_store = self._state.is_kept
        self.current: Submission | None = None
        self.is_earlier = False
        self.cleared = False
        self._previous: Submission | None = None
        self._is_new = False
        self._is_lost = False

    @property
    def is_saved(self) -> bool:
        """Whether a later try will find what this one knows."""
        return self.has_store and not self._is_lost

    @property
    def in_doubt(self) -> bool:
        """Whether an earlier try has sent what the task goes on with, and was told of no job."""
        return self.is_earlier and self.current is not None and self.current.job_id is None

    def load(self) -> Submission | None:
        """Make current what an earlier try has begun.

        :return: what it has begun; None if nothing is known of that.
        :raises HailuoUnavailableException: the store cannot be read.
        """
        submission = self._state.load()
        if submission is not None:
            self.current = self._previous = submission
            self.is_earlier = True
        return submission

    def save(self, submission: Submission) -> None:
        """Make current, and write down, what is going to be sent.

        :param submission: the submission.
        :raises HailuoUnavailableException: the store cannot be written; then nothing may be sent.
        """
        self._state.save(submission)
        self.current, self.is_earlier, self._is_new = submission, False, True

    def update(self, submission: Submission) -> None:
        """Make current, and write down if that is possible, what has become of a submission.

        :param submission: the submission; as a rule the store has its key already.
        """
        was_there = self.current is not None and self.current.key == submission.key
        self.current = submission
        if not self._is_new:  # what this try has begun itself does not replace what is owed from before
            self._previous = submission
        if not self._state.try_save(submission):
            self._is_lost = not was_there

    def discard(self) -> None:
        """Remove what was certainly refused, and put back what was there before."""
        self.current = None
        self._state.try_save(self._previous)
