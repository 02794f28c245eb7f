"""What a task has submitted, written down before it is sent, so that a later try goes on from there."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from airflow_provider_hailuo.apiframe.errors import excerpt
from airflow_provider_hailuo.compat import Context, Variable
from airflow_provider_hailuo.exceptions import HailuoUnavailableException
from airflow_provider_hailuo.task_instance import map_index
from airflow_provider_hailuo.xcoms import request_facts

STATE_KEY = "hailuo_submission"
"""The key of the submission in Airflow's task state store."""


@dataclass(frozen=True)
class Submission:
    """A request for a video, as it was or is going to be sent.

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


def same_video(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two bodies ask for the same video, wherever it is announced; an empty one asks for any."""
    return not (one and other) or _video(one) == _video(other)


def _video(body: Mapping[str, Any]) -> dict[str, Any]:
    params = {"prompt_optimizer": True, **(body.get("hailuoParams") or {})}
    facts = request_facts(body)
    return {**params, **facts, "prompt": str(facts["prompt"]).strip()}


def decide_resume(
    begun: Submission,
    *,
    max_tries: int,
    delivered: bool,
    body: Mapping[str, Any] | None,
    own_key: str | None,
    conn_id: str,
) -> tuple[bool, str]:
    """Decide whether a task goes on with what it has begun, or begins anew.

    A retry always goes on: what its templates render to by now does not matter. A task that was cleared goes on if
    its video was paid for and not delivered, as long as the request is the same.

    :param begun: what the task has begun.
    :param max_tries: Airflow's `max_tries` of the task instance now.
    :param delivered: whether the video was delivered.
    :param body: what the task would send now; None if that cannot be said.
    :param own_key: the `idempotency_key` of the task now.
    :param conn_id: its connection now; it goes on with the one that it has begun with.
    :return: whether it goes on, and what the log says of it.
    """
    named = f"job {begun.job_id}" if begun.job_id else "the submission that was begun before"
    where = f" and the connection {begun.conn_id!r}" if conn_id != begun.conn_id else ""
    if begun.max_tries == max_tries:
        note = ""
        if body is None:
            note = ", whatever its parameters would be by now"
        elif body != begun.body or own_key != begun.own_key:
            note = "; its parameters render to something else by now, which changes nothing"
        return True, f"This try goes on with {named}{where}{note}"
    if delivered:
        return False, f"The task was cleared after it had delivered {named}: a new video is submitted"
    if (body is not None and not same_video(begun.body, body)) or own_key != begun.own_key:
        return False, f"The task was cleared with another request than that of {named}: a new video is submitted"
    paid = ", and pays no second time" if begun.job_id else ", under the same key"
    return True, f"The task was cleared before it had delivered {named}: it goes on with that{where}{paid}"


class VariableStore:
    """What a task state store does, in Airflow Variables, for Airflow before 3.3.

    A Variable stays until somebody deletes it: after a day it is of no use any more.

    :param ti: the task instance.
    """

    def __init__(self, ti: Any) -> None:
        identity = json.dumps([ti.dag_id, ti.run_id, ti.task_id, map_index(ti)])
        # A name that tells of a secret would have Airflow mask what it holds.
        self._suffix = hashlib.sha256(identity.encode()).hexdigest()

    def get(self, key: str) -> Any:
        """Return the value, None if there is none."""
        stored = Variable.get(f"{key}_{self._suffix}", None)
        return None if stored is None else json.loads(stored)

    def set(self, key: str, value: Any) -> None:
        """Keep the value."""
        Variable.set(f"{key}_{self._suffix}", json.dumps(value))

    def delete(self, key: str) -> None:
        """Forget the value."""
        Variable.delete(f"{key}_{self._suffix}")


class SubmissionStore:
    """The submission of one task instance, in Airflow's task state store as far as there is one (Airflow 3.3).

    :param context: the context of the running task.
    :param kept: whether to keep it in the store (default True); a task that runs inside another one has none.
    :param needed: whether a key alone does not do, because the same request has another body at each try: where there
        is no store it is kept in a Variable then (default False).
    """

    def __init__(self, context: Context, *, kept: bool = True, needed: bool = False) -> None:
        self._store: Any = context.get("task_state_store") if kept else None
        if self._store is None and kept and needed:
            self._store = VariableStore(context["ti"])
        self._log = logging.getLogger(__name__)
        self.current: Submission | None = None
        self.is_earlier = False
        self.cleared = False
        self._former: Submission | None = None
        self._began = False
        self._lost = False

    @property
    def is_saved(self) -> bool:
        """Whether a later try will find what this one knows."""
        return self.has_store and not self._lost

    @property
    def has_store(self) -> bool:
        """Whether there is a store."""
        return self._store is not None

    @property
    def in_doubt(self) -> bool:
        """Whether an earlier try has sent what the task goes on with, and was told of no job."""
        return self.is_earlier and self.current is not None and self.current.job_id is None

    def load(self) -> Submission | None:
        """Return what the task has begun, None if nothing.

        :raises HailuoUnavailableException: the store cannot be read.
        """
        if self._store is None:
            return None
        try:
            stored = self._store.get(STATE_KEY)
        except Exception as error:
            raise _refusal(f"read: {_said(error)}") from error
        if not isinstance(stored, dict):
            return None
        known = {known.name: stored[known.name] for known in fields(Submission) if known.name in stored}
        try:
            submission = Submission(**known)
            _video(submission.body)
        except (TypeError, AttributeError):
            raise HailuoUnavailableException(
                f"{STATE_KEY!r} in the task state store holds something else than a submission: delete it on the "
                "page 'Task State Store' of the task instance. A job that it named is not known any more"
            ) from None
        self.current = self._former = submission
        self.is_earlier = True
        return submission

    def save(self, submission: Submission) -> None:
        """Write down what is going to be sent.

        :raises HailuoUnavailableException: the store cannot be written; then nothing may be sent.
        """
        try:
            self._write(submission)
        except Exception as error:
            raise _refusal(f"written: {_said(error)}") from error
        self.current, self.is_earlier, self._began = submission, False, True

    def update(self, submission: Submission) -> None:
        """Write down what has become of it, if that is possible: as a rule the key is there already."""
        was_there = self.current is not None and self.current.key == submission.key
        self.current = submission
        if not self._began:
            self._former = submission
        try:
            self._write(submission)
        except Exception as error:  # noqa: BLE001 - whatever Airflow's API server or a custom backend raises
            self._lost = not was_there
            self._log.warning("The task state store could not be written: %s", _said(error))

    def discard(self) -> None:
        """Remove what was certainly refused, and put back what was there before."""
        self.current = None
        if self._store is None:
            return
        try:
            if self._former is None:
                self._store.delete(STATE_KEY)
            else:
                self._write(self._former)
        except Exception as error:  # noqa: BLE001 - whatever Airflow's API server or a custom backend raises
            self._log.warning("The task state store could not be written: %s", _said(error))

    def _write(self, submission: Submission) -> None:
        if self._store is not None:
            self._store.set(
                STATE_KEY, {name: value for name, value in asdict(submission).items() if value is not None}
            )


def _refusal(problem: str) -> HailuoUnavailableException:
    return HailuoUnavailableException(
        f"The task state store could not be {problem}. Without it nothing is submitted, lest it be paid twice. Once "
        "it answers, a retry goes on from there, and so does clearing the task"
    )


def _said(error: Exception) -> str:
    return excerpt(f"{type(error).__name__}: {error}").rstrip(" .")
