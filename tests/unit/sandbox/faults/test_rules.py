from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from airflow_provider_hailuo.sandbox.errors import SettingError
from airflow_provider_hailuo.sandbox.faults.rules import Faults, parse_rules

Api = Any

GENERATE = "POST /v2/videos/generate"
JOB = "GET /v2/jobs/{id}"
ME = "GET /v2/me"


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def strikes(clock: Clock) -> Callable[..., Callable[..., list[str | None]]]:
    """Put rules in force; return what tells which fault strikes each of some requests, by their routes."""

    def put(*rules: dict[str, Any], seed: int = 1) -> Callable[..., list[str | None]]:
        faults = Faults(rng=Random(seed), clock=clock)
        faults.set(parse_rules(rules))

        def strikes(*routes: str) -> list[str | None]:
            chosen = [faults.choose(route, lambda _: True) for route in routes]
            return [rule and rule.fault for rule in chosen]

        return strikes

    return put


class TestWhen:
    def test_always_by_default(self, strikes: Any) -> None:
        assert strikes({"fault": "reset"})(*[ME] * 100) == ["reset"] * 100

    def test_after_skipping_some(self, strikes: Any) -> None:
        assert strikes({"fault": "reset", "skip": 2, "times": 1})(*[ME] * 4) == [None, None, "reset", None]

    def test_only_requests_that_it_is_about_are_skipped(self, strikes: Any) -> None:
        struck = strikes({"fault": "reset", "route": ME, "skip": 1})
        assert struck(GENERATE, ME, GENERATE, JOB, ME, GENERATE) == [None, None, None, None, "reset", None]

    def test_for_some_seconds_from_the_first_strike(self, strikes: Any, clock: Clock) -> None:
        struck = strikes({"fault": "reset", "skip": 1, "seconds": 5})
        clock.seconds += 100
        assert struck(ME, ME) == [None, "reset"]
        clock.seconds += 4.99
        assert struck(ME, ME) == ["reset", "reset"]
        clock.seconds += 0.01
        assert struck(ME) == [None]

    def test_for_some_seconds_and_requests_whichever_end_first(self, strikes: Any) -> None:
        struck = strikes({"fault": "reset", "seconds": 5, "times": 2})
        assert struck(ME, ME, ME) == ["reset", "reset", None]

    def test_with_a_probability(self, strikes: Any) -> None:
        struck = strikes({"fault": "reset", "probability": 0.25})(*[ME] * 2000)
        assert 400 < struck.count("reset") < 600
        assert strikes({"fault": "reset", "probability": 0})(*[ME] * 100) == [None] * 100
        assert strikes({"fault": "reset", "probability": 0.25, "times": 3})(*[ME] * 100).count("reset") == 3

    def test_the_first_that_strikes_hides_the_request_from_those_that_follow(self, strikes: Any) -> None:
        struck = strikes(
            {"fault": "reset", "route": GENERATE, "times": 1},
            {"fault": "empty", "skip": 1, "times": 1},
        )
        assert struck(*[GENERATE] * 4) == ["reset", None, "empty", None]

    def test_files_only_when_they_are_named(self, strikes: Any) -> None:
        files = ("GET /videos/{id}.mp4", "GET /uploads/{id}")
        assert strikes({"fault": "reset"})(*files) == [None, None]
        assert strikes({"fault": "reset", "route": files[0]})(*files) == ["reset", None]

    def test_what_does_not_fit_is_as_if_it_were_not_there(self, clock: Clock) -> None:
        faults = Faults(rng=Random(1), clock=clock)
        faults.set(parse_rules([{"fault": "no-url", "skip": 1, "times": 1}]))
        routes = [faults.choose("GET /v2/jobs", lambda _, fits=fits: fits) for fits in (False, True, False, True)]
        assert [rule and rule.fault for rule in routes] == [None, None, None, "no-url"]

    def test_only_requests_that_the_fault_is_about_without_a_route(self, strikes: Any) -> None:
        routes = (ME, JOB, "GET /v2/jobs", GENERATE)
        assert strikes({"fault": "summary-list"})(*routes) == [None, None, "summary-list", None]
        assert strikes({"fault": "in-progress"})(*routes) == [None, None, None, "in-progress"]


EXAMPLES: list[dict[str, Any]] = [
    {"fault": "error", "status": 300},
    {"fault": "error", "status": 599, "html": True, "after": True},
    {"fault": "error", "status": 429, "retryAfter": 10**9, "httpDate": True},
    {"fault": "reset", "after": True, "route": "POST /v2/uploads"},
    {"fault": "stalled"},
    {"fault": "slow", "delay": 0.5},
    {"fault": "drip", "delay": 1},
    {"fault": "truncated", "route": "GET /uploads/{id}"},
    {"fault": "empty", "skip": 0, "times": 1, "seconds": 0.1, "probability": 0},
    {"fault": "not-json", "probability": 1},
    {"fault": "wrong-types", "route": "GET /v2/me"},
    {"fault": "vanished", "route": "GET /v2/jobs"},
    {"fault": "unknown-status", "times": None},
    {"fault": "no-url", "route": "GET /v2/jobs/{id}"},
    {"fault": "expired"},
    {"fault": "late-url", "delay": 0.5, "route": "GET /v2/jobs"},
    {"fault": "summary-list"},
    *({"fault": "other-case", "shape": shape} for shape in ("video_url", "url", "output")),
    {"fault": "in-progress", "route": "POST /v2/videos/generate", "times": 2},
]

MISTAKES: list[tuple[Any, str, str]] = [
    ({}, "faults must be a valid list", "{}"),
    ([[]], "faults [0]: ", "[]"),
    ([{}], "faults [0]: ", "'fault'"),
    ([{"fault": "gremlins"}], "faults [0]: ", "'gremlins'"),
    ([{"fault": "reset"}, {"fault": "error"}], "faults [1].status: ", "required"),
    ([{"fault": "error", "status": 299}], "faults [0].status: ", "299"),
    ([{"fault": "error", "status": 600}], "faults [0].status: ", "600"),
    ([{"fault": "error", "status": "503"}], "faults [0].status: ", "'503'"),
    ([{"fault": "error", "status": 429, "retryAfter": -1}], "faults [0].retryAfter: ", "-1"),
    ([{"fault": "error", "status": 429, "retryAfter": 10**9 + 1}], "faults [0].retryAfter: ", "1000000001"),
    ([{"fault": "error", "status": 429, "retry_after": 1}], "faults [0].retry_after: ", "(given: 1)"),
    ([{"fault": "error", "status": 429, "httpDate": True}], "faults [0]: ", "httpDate needs retryAfter"),
    ([{"fault": "reset", "after": "yes"}], "faults [0].after: ", "'yes'"),
    ([{"fault": "reset", "status": 503}], "faults [0].status: ", "503"),
    ([{"fault": "slow"}], "faults [0].delay: ", "required"),
    ([{"fault": "slow", "delay": 0}], "faults [0].delay: ", "(given: 0)"),
    ([{"fault": "drip", "delay": float("inf")}], "faults [0].delay: ", "inf"),
    ([{"fault": "reset", "route": "GET /nowhere"}], "faults [0].route: ", "'GET /nowhere'"),
    ([{"fault": "reset", "route": "GET /sandbox/stats"}], "faults [0].route: ", "GET /v2/me"),
    ([{"fault": "wrong-types", "route": "GET /uploads/{id}"}], "faults [0].route: ", "'GET /uploads/{id}'"),
    ([{"fault": "no-url", "route": "GET /v2/me"}], "faults [0].route: ", "'GET /v2/me'"),
    ([{"fault": "late-url", "route": "GET /v2/me"}], "faults [0].route: ", "'GET /v2/me'"),
    ([{"fault": "summary-list", "route": "GET /v2/jobs/{id}"}], "faults [0].route: ", "'GET /v2/jobs/{id}'"),
    ([{"fault": "other-case", "shape": "uri"}], "faults [0].shape: ", "'uri'"),
    ([{"fault": "in-progress", "route": "GET /v2/jobs"}], "faults [0].route: ", "'GET /v2/jobs'"),
    ([{"fault": "reset", "skip": -1}], "faults [0].skip: ", "-1"),
    ([{"fault": "reset", "times": 0}], "faults [0].times: ", "(given: 0)"),
    ([{"fault": "reset", "seconds": 0}], "faults [0].seconds: ", "(given: 0)"),
    ([{"fault": "reset", "probability": 1.1}], "faults [0].probability: ", "1.1"),
    ([{"fault": "reset", "probability": -0.1}], "faults [0].probability: ", "-0.1"),
    ([{"fault": "reset", "probability": float("nan")}], "faults [0].probability: ", "nan"),
    ([{"fault": "reset", "probability": "often" * 1000}], "faults [0].probability: ", "'often"),
]


class TestParsing:
    def test_takes_each_kind_and_gives_it_back(self) -> None:
        faults = Faults(rng=Random(1))
        faults.set(parse_rules(EXAMPLES))
        assert faults.report() == [{**rule, "struck": 0} for rule in EXAMPLES]

    @pytest.mark.parametrize(("value", "place", "given"), MISTAKES)
    def test_names_the_field_and_the_value_of_a_mistake(self, value: Any, place: str, given: str) -> None:
        with pytest.raises(SettingError) as caught:
            parse_rules(value)
        text = str(caught.value)
        assert text.startswith(place)
        assert given in text.removeprefix(place)
        assert len(text) < 400
        assert caught.value.name == "faults"

    def test_knows_the_routes_of_the_sandbox(self, start: Callable[..., Api]) -> None:
        for route in start().sandbox.stats()["requests"]:
            parse_rules([{"fault": "reset", "route": route}])


class TestControl:
    def test_get_tells_the_rules_and_how_often_each_struck(self, start: Callable[..., Api]) -> None:
        rules = [{"fault": "error", "status": 503, "times": 2}, {"fault": "empty", "route": ME}]
        api = start(faults=rules)
        assert [api.get("/v2/me").status_code for _ in range(3)] == [503, 503, 200]
        answer = api.get("/sandbox/faults", headers={"X-API-Key": "none"})
        assert (answer.status_code, answer.json()) == (200, [{**rules[0], "struck": 2}, {**rules[1], "struck": 1}])
        assert api.get("/").json()["faults"] == f"{api.sandbox.base_url}/sandbox/faults"

    def test_put_replaces_the_rules_but_statistics_go_on(self, start: Callable[..., Api]) -> None:
        api = start(faults=[{"fault": "error", "status": 503}])
        assert api.get("/v2/me").status_code == 503
        answer = api.put("/sandbox/faults", json=[{"fault": "error", "status": 429}, {"fault": "empty"}])
        assert answer.json() == [
            {"fault": "error", "status": 429, "struck": 0},
            {"fault": "empty", "struck": 0},
        ]
        assert api.get("/v2/me").status_code == 429
        assert api.put("/sandbox/faults", json=[]).json() == []
        assert api.get("/v2/me").status_code == 200
        assert api.sandbox.stats()["faults"] == {"error": 2}
        assert api.sandbox.stats()["requests"][ME] == 3

    @pytest.mark.parametrize(
        ("body", "complaint"),
        [
            (b"[", "not valid JSON"),
            (b"[" * 100_000, "not valid JSON"),
            (b"\xff", "not valid JSON"),
            (b"{}", "must be a valid list"),
            (b'[{"fault": "reset", "probability": NaN}]', "[0].probability: "),
            (b'[{"fault": "\\ud800"}]', "[0]: "),
            (b'[{"fault": "reset", "\\ud800": 1}]', "[0]: "),
        ],
    )
    def test_a_wrong_put_changes_nothing(self, api: Api, set_faults: Any, body: bytes, complaint: str) -> None:
        set_faults({"fault": "error", "status": 503})
        answer = api.put("/sandbox/faults", content=body)
        assert answer.status_code == 400
        assert complaint in answer.json()["error"]
        assert api.get("/v2/me").status_code == 503

    def test_any_thread_may_set_rules_while_requests_run(self, api: Api, set_faults: Any) -> None:
        set_faults({"fault": "error", "status": 503})
        stop = threading.Event()

        def flicker() -> None:
            while not stop.wait(0.0005):
                set_faults({"fault": "error", "status": 503})
                set_faults({"fault": "error", "status": 429, "probability": 0.5}, {"fault": "error", "status": 503})

        thread = threading.Thread(target=flicker)
        thread.start()
        statuses = {api.get("/v2/me").status_code for _ in range(100)}
        stop.set()
        thread.join()
        assert statuses == {429, 503}
