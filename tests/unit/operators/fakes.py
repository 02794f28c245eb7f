"""What surrounds a task, in memory: the API, the store, the tries that Airflow makes. Time is a number."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import httpx
import pendulum
import pytest

from airflow_provider_hailuo import xcoms
from airflow_provider_hailuo.apiframe.client import Client, Settings
from airflow_provider_hailuo.apiframe.errors import CredentialsUnavailableError
from airflow_provider_hailuo.compat import AIRFLOW, AssetAlias, TaskDeferred
from airflow_provider_hailuo.hooks import hailuo as hooks
from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.operators import hailuo as operators
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.operators.submission import STATE_KEY
from airflow_provider_hailuo.sandbox import Sandbox

if AIRFLOW >= (3, 0):
    from airflow.sdk import DAG
    from airflow.sdk.execution_time.context import OutletEventAccessors
else:
    from airflow.models.dag import DAG
    from airflow.utils.context import OutletEventAccessors

__all__ = ["DAG", "Airflow", "KilledError", "OutletEventAccessors", "Store", "Variables", "World"]

EPOCH = 1_000_000.0


class KilledError(BaseException):
    """The process of the task was killed."""


def nothing() -> None:
    pass


class Store:
    """Airflow's task state store: what goes in comes back as JSON would tell it."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.on_get: Callable[[], None] = nothing
        self.on_set: Callable[[], None] = nothing
        self.after_set: Callable[[], None] = nothing

    def get(self, key: str, default: object = None) -> Any:
        self.on_get()
        return json.loads(self.kept[key]) if key in self.kept else default

    def set(self, key: str, value: object) -> None:
        assert value is not None
        self.on_set()
        self.kept[key] = json.dumps(value)
        self.after_set()

    def delete(self, key: str) -> None:
        self.on_set()
        self.kept.pop(key, None)

    def go_away(self) -> None:
        self.on_set = away

    @property
    def submission(self) -> dict[str, Any] | None:
        return json.loads(self.kept[STATE_KEY]) if STATE_KEY in self.kept else None


class Variables(dict[str, str]):
    """Airflow's Variables."""

    set = dict.__setitem__
    delete = dict.__delitem__


def away() -> None:
    raise RuntimeError("API_SERVER_ERROR: ConnectError")


class World:
    """An API whose jobs take `takes` seconds, and connections to accounts of it, which are found `found_from` on.

    `before_post` and `after_post` happen when a submission arrives and when it was carried out; what they return is
    the answer. `outcomes` are those of the next jobs, COMPLETED each when there are none.
    """

    def __init__(self) -> None:
        self.now, self.takes = EPOCH, 20
        self.connections = {"hailuo_default": "afk_1", "other": "afk_2"}
        self.found_from = EPOCH
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.looks: list[tuple[str, str]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.outcomes: list[dict[str, Any]] = []
        self.before_post: Callable[[], httpx.Response | None] = lambda: None
        self.after_post: Callable[[], httpx.Response | None] = lambda: None
        self.on_look: Callable[[], httpx.Response | None] = lambda: None
        self._by_key: dict[tuple[str, str], tuple[dict[str, Any], str]] = {}

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def conn(self, hook: HailuoHook) -> Client:
        key = self.connections.get(hook.hailuo_conn_id)
        if key is None or self.now < self.found_from:
            raise CredentialsUnavailableError(f"Airflow finds no connection {hook.hailuo_conn_id!r}")
        settings = Settings(api_key=key, retries=0)
        return Client(settings, transport=httpx.MockTransport(self.answer), sleep=self.sleep)

    def answer(self, request: httpx.Request) -> httpx.Response:
        account = request.headers["x-api-key"]
        if request.method == "GET":
            job_id = request.url.path.rpartition("/")[2]
            self.looks.append((account, job_id))
            return self.on_look() or self._look(account, job_id)
        key, body = request.headers["idempotency-key"], json.loads(request.content)
        self.posts.append((key, body))
        if refused := self.before_post():
            return refused
        known, job_id = self._by_key.setdefault((account, key), (body, f"job_{len(self.jobs) + 1}"))
        if known != body:
            return httpx.Response(409, json={"error": "Idempotency key was used for another request"})
        if job_id not in self.jobs:
            outcome = self.outcomes.pop(0) if self.outcomes else {"status": "COMPLETED"}
            self.jobs[job_id] = {
                "account": account,
                "ends": self.now + self.takes,
                "outcome": outcome,
                "body": body,
            }
        status = self._seen(job_id)["status"]
        return self.after_post() or httpx.Response(202, json={"jobId": job_id, "status": status})

    def _look(self, account: str, job_id: str) -> httpx.Response:
        if job_id not in self.jobs or self.jobs[job_id]["account"] != account:
            return httpx.Response(404, json={"error": "Job not found"})
        return httpx.Response(200, json=self._seen(job_id))

    def _seen(self, job_id: str) -> dict[str, Any]:
        job = self.jobs[job_id]
        seen = {"id": job_id, "creditCost": 5, "input": {"prompt": job["body"]["prompt"]}}
        if self.now < job["ends"]:
            return {**seen, "status": "PROCESSING"}
        if job["outcome"]["status"] == "COMPLETED":
            seen["result"] = {"videoUrl": url(job_id)}
        else:
            seen["creditCost"] = 0
        return {**seen, **job["outcome"]}

    @property
    def paid(self) -> int:
        return sum(job["outcome"]["status"] == "COMPLETED" for job in self.jobs.values())


def url(job_id: str) -> str:
    return f"https://cdn.example/{job_id}.mp4"


def refuse(status: int, said: str = "so it is") -> Callable[[], httpx.Response]:
    return lambda: httpx.Response(status, json={"error": said})


class TaskInstance:
    """What a worker hands to a task, as far as the operators look at it; `facts` that differ from these."""

    def __init__(self, **facts: object) -> None:
        self.dag_id, self.run_id, self.task_id, self.map_index = "dag", "run", "video", -1
        self.try_number, self.max_tries = 1, 0
        self.start_date = datetime.now(timezone.utc)
        self.xcoms: dict[str, Any] = {}
        self.__dict__.update(facts)

    def xcom_push(self, key: str, value: object) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: str, key: str, map_indexes: int) -> object:
        assert (task_ids, map_indexes) == ("video", self.map_index)
        return self.xcoms.get(key)


class Airflow:
    """Runs one task instance, try by try, on a worker that has a task state store, if any; in no world it is now."""

    def __init__(self, world: World | None, store: Store | None, *, retries: int = 3, map_index: int = -1) -> None:
        self.world, self.store = world, store
        self.retries = self.max_tries = retries
        self.try_number, self.map_index = 0, map_index
        self.xcoms: dict[str, Any] = {}
        self.outlet_events: OutletEventAccessors | None = None

    def run(self, task: Any, *, inside: object = None) -> Any:
        """Make the next try; return what the task returns, or the deferral."""
        self.try_number += 1
        to_clear = sorted(self.xcoms)
        self.xcoms.clear()
        return self._visit(inside or task, to_clear, task.execute)

    def resume(self, task: Any, event: object, *, next_try: bool = False) -> Any:
        """Resume the try that waits, or that follows without a visit before, as after a trigger that began it."""
        self.try_number += next_try
        return self._visit(task, [], lambda context: task.execute_complete(context, event=event))

    def clear(self) -> None:
        self.max_tries = self.try_number + self.retries

    def _visit(self, of: object, to_clear: list[str], call: Callable[[Any], Any]) -> Any:
        facts = {name: getattr(self, name) for name in ("try_number", "max_tries", "map_index", "xcoms")}
        ti = TaskInstance(task=of, id=f"id of try {self.try_number}", **facts)
        ti._ti_context_from_server = SimpleNamespace(xcom_keys_to_clear=to_clear)
        if self.world is not None:
            ti.start_date = datetime.fromtimestamp(self.world.now, timezone.utc)
        more = {"task_state_store": self.store, "outlet_events": self.outlet_events}
        context = {"ti": ti, **{name: value for name, value in more.items() if value is not None}}
        try:
            self.xcoms["return_value"] = json.loads(json.dumps(call(context)))
        except TaskDeferred as deferral:
            return deferral
        return self.xcoms["return_value"]

    def event(self, **facts: object) -> dict[str, Any]:
        """Return what a trigger tells of the newest job."""
        return {"job_id": list(self.world.jobs)[-1], "error": None, "try_number": self.try_number, **facts}


def install(monkeypatch: pytest.MonkeyPatch) -> World:
    """Put a `World` around the operator."""
    world = World()

    def get_conn(hook: HailuoHook) -> Client:
        return world.conn(hook)

    monkeypatch.setattr(HailuoHook, "get_conn", get_conn)
    for module in operators, hooks:
        monkeypatch.setattr(module, "time", world)
    return world


def connect(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, **differences: object) -> None:
    connection = {"conn_type": "hailuo", "host": sandbox.base_url, "password": sandbox.api_key, **differences}
    monkeypatch.setenv("AIRFLOW_CONN_HAILUO_DEFAULT", json.dumps(connection))


def added(events: OutletEventAccessors, alias: AssetAlias) -> list[tuple[str, dict[str, Any]]]:
    """Return URI and extra of the assets that an alias was given."""
    if AIRFLOW >= (3, 0):
        return [(event.dest_asset_key.uri, event.extra) for event in events[alias].asset_alias_events]
    return [(event["dest_dataset_uri"], event["extra"]) for event in events[alias].dataset_alias_events]


def let_delete(monkeypatch: pytest.MonkeyPatch, airflow: Airflow) -> Airflow:
    """Let the XComs of `airflow` be deleted as a worker may; return it."""

    def delete(key: str, **_: object) -> None:
        del airflow.xcoms[key]

    monkeypatch.setattr(xcoms.XCom, "delete", delete, raising=False)
    return airflow


def make_dag(**arguments: Any) -> DAG:
    return DAG("dag", schedule=None, start_date=pendulum.datetime(2026, 1, 1), **arguments)


def operator(**arguments: Any) -> HailuoGenerateOperator:
    return HailuoGenerateOperator(**{"task_id": "video", "prompt": "a sunrise", **arguments})


def waiting(**arguments: Any) -> HailuoGenerateOperator:
    """Return a task that waits on the worker, so that one visit is a whole try."""
    return operator(deferrable=False, **arguments)
