"""Many videos in the triggerer, in virtual time: how many requests, how many at a time, what is paid."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from airflow_provider_hailuo.apiframe import batch, errors, watcher
from airflow_provider_hailuo.apiframe.batch import Outcome, Plan, pack, ranges, seconds_for, unpack
from airflow_provider_hailuo.apiframe.polling import REFUSED_SECONDS
from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.triggers.batch import HailuoBatchTrigger, outcomes_from_event
from airflow_provider_hailuo.triggers.hailuo import MIN_DEFERRED_SECONDS
from tests.fake_api import Api, job_id, page_of_a_proxy, refusal
from tests.virtual_time import EPOCH, now, patch_clock
from tests.virtual_time import run as in_virtual_time


class Studio(Api):
    """An account that takes submissions; a video takes `seconds`. What its prompt begins with says how it ends.

    `credits` are what is left. `most` is how many rendered at a time. `submitting` answers in place of the API, or
    fails, before a submission is carried out, `answering` after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 180.0
        self.credits = float("inf")
        self.keys_seen: dict[str, int] = {}
        self.prompts: dict[int, str] = {}
        self.purged: set[int] = set()
        self.posts: list[tuple[float, str]] = []
        self.most = 0
        self.submitting: Callable[[httpx.Request], httpx.Response | None] = lambda _: None
        self.answering: Callable[[httpx.Request], httpx.Response | None] = lambda _: None

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET" or request.headers["x-api-key"] not in self.keys:
            return await super().answer(request)
        moment = asyncio.get_running_loop().time()
        prompt = json.loads(request.content)["prompt"]
        self.posts.append((moment, prompt))
        await asyncio.sleep(0.001)
        if told := self.submitting(request):
            return told
        key = request.headers["idempotency-key"]
        if prompt.startswith("refused"):
            return refusal(400)
        if key not in self.keys_seen:
            if self.credits < 5:
                return refusal(402)
            self.credits -= 5
            self.jobs += 1
            self.keys_seen[key] = self.jobs
            self.prompts[self.jobs] = prompt
            self.ends[self.jobs] = moment + self.seconds
            self.most = max(self.most, sum(end > moment for end in self.ends.values()))
        n = self.keys_seen[key]
        return self.answering(request) or httpx.Response(
            202, json={"jobId": job_id(n), "status": self.job(n)["status"]}
        )

    def job(self, n: int) -> dict:
        job = super().job(n)
        if job["status"] == "COMPLETED" and self.prompts[n].startswith("fails"):
            return {**job, "status": "FAILED", "result": None, "creditCost": 0}
        return {**job, "expired": n in self.purged}

    def finish(self) -> None:
        """Let all videos be rendered when the next scenario begins, which has a clock of its own."""
        self.ends = dict.fromkeys(self.ends, -1)

    def fail_look_ups(self, until: float = float("inf")) -> None:
        async def fail() -> None:
            if asyncio.get_running_loop().time() < until:
                raise errors.CredentialsUnavailableError("throttled")

        self.looking_up = fail

    @property
    def made(self) -> Counter[str]:
        """How often each prompt was rendered."""
        return Counter(self.prompts.values())


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> Studio:
    studio = Studio()
    monkeypatch.setattr(HailuoHook, "get_async_settings", lambda _: studio.look_up())
    monkeypatch.setattr(HailuoHook, "connect", lambda _, settings: studio.connect(settings))
    patch_clock(monkeypatch, watcher, batch)
    return studio


def trigger(items: Any, *, seconds: float = 23 * 3600, **differences: Any) -> HailuoBatchTrigger:
    plan: dict[str, Any] = {
        "readable": "airflow/dag/video",
        "identity": ["hailuo_default", "", "dag", "run", "video", -1, "salt"],
        "tries": 1,
        "renew": False,
        "max_in_flight": 20,
        "poll_interval": 5.0,
        "timeout": 1800.0,
        "deadline": EPOCH + seconds,
        "contents": {},
        "uploads": [],
        "refused": {},
        **differences,
    }
    given = [item if isinstance(item, dict) else {"prompt": item} for item in items]
    made = HailuoBatchTrigger(items=pack(given), try_number=1, **plan)
    return HailuoBatchTrigger(**json.loads(json.dumps(made.serialize()[1])))


async def event_of(made: HailuoBatchTrigger) -> list[Outcome]:
    (event,) = [event async for event in made.run()]
    return outcomes_from_event(json.loads(json.dumps(event.payload)))


def run(made: HailuoBatchTrigger) -> list[Outcome]:
    return in_virtual_time(event_of(made))


def timed(made: HailuoBatchTrigger) -> tuple[list[Outcome], float]:
    async def scenario() -> tuple[list[Outcome], float]:
        return await event_of(made), asyncio.get_running_loop().time()

    return in_virtual_time(scenario())


async def dies(made: HailuoBatchTrigger, seconds: float) -> None:
    """Run a trigger for so long, as a triggerer does that dies then."""
    waiting = asyncio.ensure_future(event_of(made))
    await asyncio.sleep(seconds)
    waiting.cancel()
    await asyncio.wait([waiting])


def numbered(many: int, word: str = "video") -> list[str]:
    return [f"{word} {n}" for n in range(many)]


def errors_of(outcomes: list[Outcome]) -> list[type | None]:
    return [outcome.error and type(outcome.error) for outcome in outcomes]


# How many requests, and how many at a time


def test_a_thousand_videos_take_few_requests_and_never_too_many_at_a_time(studio: Studio):
    outcomes, seconds = timed(trigger(numbered(1000), max_in_flight=100))

    assert [studio.prompts[int(outcome.job_id.replace("-", ""), 16)] for outcome in outcomes] == numbered(1000)
    assert len(studio.posts) == 1000
    assert studio.most <= 100
    assert len(studio.asked) < 1000  # a poller for each: 37,000
    assert seconds < 10 * (180 + 10)
    assert (len(studio.look_ups), len(studio.clients), studio.open_clients) == (1, 1, 0)


@pytest.mark.parametrize("most", [1, 3, 20])
def test_refilling_never_exceeds_what_may_be_in_flight_and_makes_use_of_it(studio: Studio, most: int):
    _, seconds = timed(trigger(numbered(60), max_in_flight=most))

    assert studio.most == most
    assert seconds < 60 / most * (180 + 6) + 10


def test_a_task_stays_deferred_long_enough(studio: Studio):
    studio.submitting = lambda _: refusal(400)

    _, seconds = timed(trigger(["a"]))

    assert seconds >= MIN_DEFERRED_SECONDS


# A triggerer that dies


@pytest.mark.parametrize("dies_after", [0, 0.0005, 0.0015, 1, 100, 181, 190, 400, 700])
def test_a_triggerer_that_dies_pays_nothing_twice(studio: Studio, dies_after: float):
    items = [*numbered(50), "fails 1", "refused 1"]

    async def scenario() -> list[Outcome]:
        for _ in range(2):
            await dies(trigger(items), dies_after)
            assert studio.open_clients == 0
        return await event_of(trigger(items))

    outcomes = in_virtual_time(scenario())

    assert studio.made == Counter([*numbered(50), "fails 1"])
    assert errors_of(outcomes) == [None] * 51 + [errors.BadRequestError]
    assert studio.most <= 20


def test_answers_that_get_lost_are_asked_for_again_under_the_same_key(studio: Studio):
    lost: Counter[str] = Counter()

    def lose(request: httpx.Request) -> httpx.Response | None:
        key = request.headers["idempotency-key"]
        lost[key] += 1
        if lost[key] == 1:
            raise httpx.ReadError("reset")
        return page_of_a_proxy(502) if lost[key] == 2 else None

    studio.answering = lose

    outcomes = run(trigger(numbered(50)))

    assert errors_of(outcomes) == [None] * 50
    assert studio.made == Counter(numbered(50))
    assert set(lost.values()) == {3}


# Retries


def test_a_retry_submits_only_what_is_missing_and_renders_what_has_failed_once_more(studio: Studio):
    items = [*numbered(30), "fails 1", "fails 2"]

    for tries in (1, 2, 3):
        outcomes = run(trigger(items, tries=tries))

        assert errors_of(outcomes) == [None] * 32
        assert len(studio.keys_seen) == 30 + 2 * tries
        newest = {prompt: job_id(n) for n, prompt in studio.prompts.items()}
        assert [outcome.job_id for outcome in outcomes] == [newest[prompt] for prompt in items]
        studio.finish()


@pytest.mark.parametrize("dies_after", [1, 100, 181, 190, 300])
def test_a_triggerer_that_dies_during_a_retry_renders_nothing_twice(studio: Studio, dies_after: float):
    items = ["a", "fails"]

    async def scenario() -> None:
        await event_of(trigger(items))
        await dies(trigger(items, tries=2), dies_after)
        await event_of(trigger(items, tries=2))

    in_virtual_time(scenario())

    assert studio.made == {"a": 1, "fails": 2}


def test_a_retry_asks_once_for_what_is_completed(studio: Studio):
    run(trigger(numbered(100)))
    studio.finish()
    studio.posts, studio.asked = [], []

    _, seconds = timed(trigger(numbered(100), tries=2))

    assert (len(studio.posts), studio.asked) == (100, [])
    assert seconds < MIN_DEFERRED_SECONDS + 1


@pytest.mark.parametrize(("renew", "tries", "made"), [(False, 2, 1), (True, 1, 1), (True, 2, 2), (True, 3, 2)])
def test_a_video_that_was_purged_is_made_anew_for_a_cleared_task_only(
    studio: Studio, renew: bool, tries: int, made: int
):
    run(trigger(["a"]))
    studio.finish()
    studio.purged = {1}

    (outcome,) = run(trigger(["a"], renew=renew, tries=tries))

    assert studio.made["a"] == made
    assert outcome == Outcome(job_id(made))


def test_another_request_or_place_is_another_video(studio: Studio):
    run(trigger(["a", "b"]))
    run(trigger(["b", "a"]))
    run(trigger([{"prompt": "a", "duration": 10}, "b"]))
    run(trigger(["a", "b"], identity=["another salt"]))

    assert studio.made == {"a": 4, "b": 3}


# What goes wrong


def no_network() -> httpx.Response:
    raise httpx.ConnectError("refused")


@pytest.mark.parametrize(
    "trouble",
    [lambda: refusal(429), lambda: refusal(503), lambda: page_of_a_proxy(403), no_network],
    ids=["429", "503", "proxy", "network"],
)
def test_what_may_pass_is_waited_through(studio: Studio, trouble: Callable[[], httpx.Response]):
    studio.submitting = lambda _: trouble() if 100 < asyncio.get_running_loop().time() < 1500 else None

    outcomes = run(trigger(numbered(60)))

    assert errors_of(outcomes) == [None] * 60
    assert len(studio.posts) < 60 + 20 * 1400 / 15


def test_a_connection_that_cannot_be_looked_up_is_waited_for(studio: Studio):
    studio.fail_look_ups(until=3600)

    outcomes, seconds = timed(trigger(["a"]))

    assert errors_of(outcomes) == [None]
    assert 3600 < seconds < 3900
    assert len(studio.look_ups) < 300


def test_a_connection_that_is_never_found_is_told_at_the_deadline(studio: Studio):
    studio.fail_look_ups()

    outcomes, seconds = timed(trigger(["a", "b"], seconds=600))

    assert errors_of(outcomes) == [errors.JobTimeoutError] * 2
    assert "throttled" in str(outcomes[0].error)
    assert seconds == pytest.approx(600, abs=5)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_lasts_ends_the_submissions_but_not_the_wait_for_what_runs(studio: Studio, status: int):
    studio.submitting = lambda _: refusal(status) if asyncio.get_running_loop().time() > 100 else None

    outcomes, seconds = timed(trigger(numbered(200)))

    assert [outcome.error is None for outcome in outcomes] == [True] * 20 + [False] * 180
    assert {outcome.error.status for outcome in outcomes[20:]} == {status}
    assert 180 + REFUSED_SECONDS < seconds < 180 + 3 * REFUSED_SECONDS
    assert studio.made == Counter(numbered(20))
    assert len(studio.posts) < 20 + 20 * 10


def test_a_refusal_that_passes_ends_nothing(studio: Studio):
    spells = [(170, 220), (390, 440)]
    studio.submitting = lambda _: (
        refusal(401) if any(begin < asyncio.get_running_loop().time() < end for begin, end in spells) else None
    )

    assert errors_of(run(trigger(numbered(100)))) == [None] * 100


def test_a_key_that_is_replaced_is_looked_up_anew(studio: Studio):
    async def scenario() -> list[Outcome]:
        waiting = asyncio.ensure_future(event_of(trigger(numbered(60))))
        await asyncio.sleep(100)
        studio.keys, studio.connection_key = {"afk_2"}, "afk_2"
        return await waiting

    assert errors_of(in_virtual_time(scenario())) == [None] * 60


def test_too_few_credits_end_the_submissions_but_not_the_wait_for_what_runs(studio: Studio):
    studio.credits = 5 * 30

    outcomes, seconds = timed(trigger(numbered(500)))

    assert Counter(errors_of(outcomes)) == {None: 30, errors.InsufficientCreditsError: 470}
    assert len(studio.posts) <= 30 + 20 + 20
    assert not any(outcome.error.in_doubt or outcome.job_id for outcome in outcomes if outcome.error)
    assert seconds >= 360


def test_after_a_crash_too_few_credits_hide_no_job_that_is_paid(studio: Studio):
    studio.credits = 5 * 30

    def dear(request: httpx.Request) -> httpx.Response | None:
        # Every third is one that the credits do not suffice for.
        n = int(json.loads(request.content)["prompt"].split()[1])
        return refusal(402) if n % 3 == 0 else None

    studio.submitting = dear

    for _ in range(2):
        outcomes = run(trigger(numbered(45)))
        assert [outcome.job_id is None for outcome in outcomes] == [n % 3 == 0 for n in range(45)]
        studio.finish()
    assert len(studio.keys_seen) == 30


def test_refused_items_stop_nothing_else(studio: Studio):
    outcomes = run(trigger(["a", "refused b", "c"]))

    assert errors_of(outcomes) == [None, errors.BadRequestError, None]
    assert len(studio.posts) == 3


def test_a_refusal_of_one_item_by_a_proxy_ends_after_the_time_of_one_video(studio: Studio):
    studio.submitting = lambda request: page_of_a_proxy(403) if b"odd" in request.content else None

    outcomes, seconds = timed(trigger(["a", "odd", "c"], timeout=600))

    assert errors_of(outcomes) == [None, errors.PermissionDeniedError, None]
    assert 600 <= seconds < 700


def test_each_video_has_its_own_time_from_its_submission(studio: Studio):
    studio.seconds = 1e9

    outcomes, seconds = timed(trigger(numbered(4), max_in_flight=2, timeout=300))

    assert errors_of(outcomes) == [errors.JobTimeoutError] * 4
    assert all(outcome.job_id == outcome.error.job_id for outcome in outcomes)
    assert 600 <= seconds <= 620


def test_the_deadline_is_a_moment_and_a_restart_does_not_extend_it(studio: Studio):
    studio.seconds = 1e9

    async def scenario() -> tuple[list[Outcome], float]:
        await dies(trigger(numbered(40), seconds=1000), 700)
        return await event_of(trigger(numbered(40), seconds=1000)), now() - EPOCH

    outcomes, seconds = in_virtual_time(scenario())

    assert errors_of(outcomes) == [errors.JobTimeoutError] * 40
    assert [outcome.job_id is None for outcome in outcomes] == [False] * 20 + [True] * 20
    assert seconds == pytest.approx(1000, abs=10)
    assert studio.made == Counter(numbered(20))


def test_after_the_deadline_nothing_is_submitted(studio: Studio):
    outcomes = run(trigger(numbered(3), seconds=-1))

    assert errors_of(outcomes) == [errors.JobTimeoutError] * 3
    assert studio.posts == []


def test_a_submission_in_doubt_at_the_deadline_is_told_as_such(studio: Studio):
    def lose(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset")

    studio.answering = lose

    (outcome,) = run(trigger(["a"], seconds=100))

    assert isinstance(outcome.error, errors.JobTimeoutError)
    assert outcome.error.in_doubt
    assert outcome.job_id is None


def test_what_concerns_many_is_told_once_in_the_event(studio: Studio):
    studio.submitting = lambda _: refusal(402)

    async def scenario() -> dict[str, Any]:
        return (await anext(trigger(numbered(5000)).run())).payload

    event = in_virtual_time(scenario())

    assert len(event["errors"]) == 1
    assert len(json.dumps(event)) < 5000 * 20


def test_a_failure_that_nobody_thought_of_leaves_nothing_running(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def odd(*_: object) -> str:
        calls.append(1)
        if len(calls) == 25:
            raise RuntimeError("odd")
        return f"key {len(calls)}"

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(batch, "derive_key", odd)
            with pytest.raises(RuntimeError, match="odd"):
                await event_of(trigger(numbered(50)))
        assert now() - EPOCH < 200
        assert studio.open_clients == 0

    in_virtual_time(scenario())


# The pure parts


def test_items_are_packed_small_and_whole():
    items = [{"prompt": f"Видео {n}", "model": "hailuo-02", "resolution": "1080p"} for n in range(1000)] + ["refused"]

    packed = pack(items)

    assert unpack(packed) == items
    assert packed.isascii()
    assert len(packed) < 10_000


@pytest.mark.parametrize(
    ("numbers", "told"), [([], ""), ([3], "3"), ([0, 1, 2, 5], "0-2, 5"), ([1, 3, 4, 9, 10, 11], "1, 3-4, 9-11")]
)
def test_numbers_are_told_as_ranges(numbers: list[int], told: str):
    assert ranges(numbers) == told


@pytest.mark.parametrize(
    ("items", "most", "seconds"), [(1, 20, 600), (20, 20, 600), (21, 20, 1200), (10_000, 1, 23 * 3600), (0, 20, 0)]
)
def test_the_time_that_a_batch_may_take(items: int, most: int, seconds: float):
    assert seconds_for(items, most, 600) == seconds


def test_a_plan_of_all_fields_makes_the_trigger_and_unknown_ones_are_ignored():
    made = trigger(["a"])

    assert set(Plan.__dataclass_fields__) < made.serialize()[1].keys()
    assert HailuoBatchTrigger(**made.serialize()[1], from_the_future=1).serialize() == made.serialize()
