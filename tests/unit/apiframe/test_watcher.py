from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from itertools import groupby

import httpx
import pytest

from airflow_provider_hailuo.apiframe import calls, errors, watcher
from airflow_provider_hailuo.apiframe.polling import Finished, GaveUp, JobPoll
from airflow_provider_hailuo.apiframe.watcher import CONCURRENT_LOOKS, DECISIONS_AT_ONCE, FEW, shared_watcher
from tests.fake_api import Api, job_id
from tests.virtual_time import now, patch_clock, run

INTERVAL = 5.0


@pytest.fixture(autouse=True)
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_clock(monkeypatch, watcher)


def poll(n: int, seconds: float = 1800, interval: float = INTERVAL) -> JobPoll:
    return JobPoll(job_id(n), now() + seconds, interval)


def silent(level: int, line: str) -> None:
    pass


async def wait_for(api: Api, *numbers: int, **options: float) -> list[Finished | GaveUp]:
    async def one(n: int) -> Finished | GaveUp:
        async with shared_watcher("a", api.open) as shared:
            return await shared.wait(poll(n, **options), silent)

    return await asyncio.gather(*map(one, numbers))


def ends(*seconds: float) -> dict[int, float]:
    return dict(enumerate(seconds, 1))


# How many requests


def test_one_job_is_asked_for_by_itself_once_per_interval():
    api = Api(jobs=500)
    api.ends = {7: 180}

    (end,) = run(wait_for(api, 7))

    assert isinstance(end, Finished)
    assert end.job.id == job_id(7)
    assert api.pages == 0
    assert 34 <= len(api.singles) <= 42


@pytest.mark.parametrize(("jobs", "pages_of_a_tick"), [(FEW + 1, 1), (100, 1), (1000, 10), (2000, 20)])
def test_many_jobs_are_seen_with_a_request_per_page(jobs: int, pages_of_a_tick: int):
    api = Api(jobs)
    # All within an interval at the end, the newest last: some end while others do not.
    api.ends = ends(*(180 + n * INTERVAL / jobs for n in range(jobs)))

    all_of_them = run(wait_for(api, *range(1, jobs + 1)))

    assert {end.job.id for end in all_of_them} == {job_id(n) for n in range(1, jobs + 1)}
    assert len(api.singles) <= 2 * FEW
    # 36 to 41 ticks of 180 seconds
    assert 36 * pages_of_a_tick <= api.pages <= 42 * pages_of_a_tick
    assert (len(api.clients), api.open_clients) == (1, 0)


def test_no_job_is_asked_for_twice_in_a_tick_and_none_is_forgotten():
    api = Api(jobs=5000)
    api.unlisted = set(range(1, 400, 2))
    api.ends = ends(*(20 + 5 * (n % 7) for n in range(5000)))

    assert len(run(wait_for(api, *range(1, 5001)))) == 5000
    of_a_tick = Counter((moment // (INTERVAL * 0.9), path) for moment, path in api.asked if path[-5:] != "/jobs")
    assert max(of_a_tick.values()) == 1


def test_jobs_of_others_before_and_after_ours_cost_their_pages_once():
    api = Api(jobs=20_000)
    ours = range(9_001, 10_001)
    api.ends = dict.fromkeys(ours, 60.0)

    run(wait_for(api, *ours))

    # 100 pages that are newer once, then 10 or 11 at each of 12 to 14 ticks, and none that is older
    assert 100 + 12 * 10 <= api.pages <= 100 + 14 * 11
    assert api.singles == []


def test_on_an_account_where_others_are_busy_it_never_asks_much_more_than_one_by_one():
    api = Api(jobs=100_000)
    ours = range(1, 1001)
    api.ends = dict.fromkeys(ours, 19.0)

    run(wait_for(api, *ours))

    ticks = 6
    assert len(api.asked) <= ticks * len(ours) * 4 / 3


def test_an_old_straggler_does_not_make_it_walk_far():
    api = Api(jobs=10_000)
    ours = [1, *range(9_901, 10_001)]
    api.ends = dict.fromkeys(ours, 60.0)

    run(wait_for(api, *ours))

    assert api.pages <= 14
    assert set(api.singles) == {job_id(1)}


def test_a_job_that_no_page_tells_of_is_asked_for_by_itself():
    api = Api(jobs=100)
    api.unlisted = {50}
    api.ends = dict.fromkeys(range(1, 101), 20.0)

    assert all(isinstance(end, Finished) for end in run(wait_for(api, *range(1, 101))))
    assert set(api.singles) == {job_id(50)}


def test_a_list_that_is_refused_or_spoilt_by_one_job_hides_none():
    for answer in (httpx.Response(403, json={"error": "no"}), httpx.Response(400, json={"error": "cursor"})):
        api = Api(jobs=50)
        api.ends = dict.fromkeys(range(1, 51), 12.0)
        api.breaks = lambda request, answer=answer: answer if request.url.path.endswith("/jobs") else None

        assert all(isinstance(end, Finished) for end in run(wait_for(api, *range(1, 51))))

    api = Api(jobs=50)
    api.ends = dict.fromkeys(range(1, 51), 12.0)
    api.job = lambda n: {"id": "?", "status": 7} if n == 9 else Api.job(api, n)  # type: ignore[method-assign]
    assert len(run(wait_for(api, *(n for n in range(1, 51) if n != 9)))) == 49
    assert api.singles == []


# When


def test_the_smallest_interval_holds_for_all_and_only_while_it_is_asked_for():
    async def scenario(api: Api) -> None:
        slow = asyncio.create_task(wait_for(api, 1, interval=60))
        await asyncio.sleep(10)
        await wait_for(api, 2, interval=1)
        await slow

    api = Api(jobs=2)
    api.ends = ends(300, 20)
    run(scenario(api))

    moments = [moment for moment, path in api.asked if path.endswith(job_id(1))]
    assert moments[0] < 1
    assert 10 < moments[1] <= 11.1
    assert sum(10 < moment < 21.1 for moment in moments) in range(9, 13)
    assert sum(moment > 21.1 for moment in moments) in range(4, 7)


def test_triggerers_do_not_march_in_step():
    def pauses() -> list[float]:
        api = Api(jobs=100)
        api.ends = dict.fromkeys(range(1, 101), 100.0)
        run(wait_for(api, *range(1, 101)))
        return [moment for moment, _ in api.asked]

    assert pauses() != pauses()


def test_deadlines_are_those_of_each_job_and_many_of_them_do_not_make_it_look_all_the_time():
    async def scenario(api: Api) -> list[float]:
        async def late(n: int) -> float:
            (end,) = await wait_for(api, n, seconds=20 + n / 100)
            assert isinstance(end, GaveUp)
            assert isinstance(end.error, errors.JobTimeoutError)
            assert end.error.job_id == job_id(n)
            return asyncio.get_running_loop().time() - (20 + n / 100)

        return await asyncio.gather(*map(late, range(1, 1001)))

    api = Api(jobs=1000)
    lateness = run(scenario(api))

    assert min(lateness) >= 0
    assert max(lateness) <= INTERVAL
    # 10 pages at each of 6 to 15 ticks of half an interval and more
    assert api.pages <= 150


def test_a_single_deadline_is_kept_to_half_an_interval():
    async def scenario() -> float:
        await wait_for(Api(jobs=1), 1, seconds=13, interval=4)
        return asyncio.get_running_loop().time()

    assert 13 <= run(scenario()) <= 15.2


# When it goes wrong


def test_an_outage_is_waited_out_with_fewer_requests():
    api = Api(jobs=1000)
    api.ends = dict.fromkeys(range(1, 1001), 100.0)
    api.breaks = lambda _: httpx.Response(503) if asyncio.get_running_loop().time() < 400 else None

    assert all(isinstance(end, Finished) for end in run(wait_for(api, *range(1, 1001))))
    # One for each look at the API while it is out, not one for each job.
    assert sum(moment < 400 for moment, _ in api.asked) < 60


def test_the_api_may_ask_for_a_longer_pause_and_nobody_new_breaks_it():
    async def scenario(api: Api) -> None:
        first = asyncio.create_task(wait_for(api, 1))
        await asyncio.sleep(1)
        await asyncio.gather(first, wait_for(api, 2, 3, interval=1))

    api = Api(jobs=3)
    api.ends = ends(50, 50, 50)
    api.breaks = lambda _: None if len(api.asked) > 1 else httpx.Response(429, headers={"retry-after": "60"})

    run(scenario(api))

    assert api.asked[1][0] - api.asked[0][0] >= 57


def test_errors_of_the_account_end_all_waits_and_errors_of_a_job_only_its_own():
    api = Api(jobs=20)
    api.connection_key = "afk_wrong"
    gave_up = run(wait_for(api, *range(1, 21)))
    assert {type(end.error) for end in gave_up} == {errors.AuthenticationError}
    assert len(api.asked) == 1

    api = Api(jobs=3)
    api.ends = ends(7, 7, 7)
    api.breaks = lambda request: httpx.Response(404) if request.url.path.endswith(job_id(2)) else None
    first, second, third = run(wait_for(api, 1, 2, 3))
    assert isinstance(second.error, errors.NotFoundError)
    assert first.job.id == job_id(1)
    assert third.job.id == job_id(3)


def test_when_every_single_look_fails_it_does_not_try_them_all():
    api = Api(jobs=1000)
    api.unlisted = set(range(1, 1001))
    api.breaks = lambda request: httpx.Response(502) if not request.url.path.endswith("/jobs") else None

    run(wait_for(api, *range(1, 1001), seconds=0))

    assert len(api.singles) <= 2 * CONCURRENT_LOOKS


@pytest.mark.parametrize("failure", [RuntimeError("no Airflow"), errors.NetworkError("refused")])
def test_a_client_that_cannot_be_opened_now_is_opened_later(failure: Exception):
    async def fail() -> None:
        if asyncio.get_running_loop().time() < 20:
            raise failure

    api = Api(jobs=10)
    api.ends = dict.fromkeys(range(1, 11), 10.0)
    api.opening = fail

    assert all(isinstance(end, Finished) for end in run(wait_for(api, *range(1, 11))))
    assert len(api.clients) == 1


def test_a_connection_that_will_not_do_ends_the_waits():
    async def fail() -> None:
        raise errors.InvalidInputError("there is no API key")

    api = Api(jobs=2)
    api.opening = fail

    assert [str(end.error) for end in run(wait_for(api, 1, 2))] == ["there is no API key"] * 2


def test_a_key_that_was_replaced_is_looked_up_anew_and_a_wrong_one_ends_the_wait():
    async def scenario(api: Api, later: str, jobs: int = 3) -> list[Finished | GaveUp]:
        waits = asyncio.create_task(wait_for(api, *range(1, jobs + 1)))
        await asyncio.sleep(12)
        api.key, api.connection_key = "afk_2", later
        return await waits

    api = Api(jobs=3)
    api.ends = ends(60, 60, 60)
    assert all(isinstance(end, Finished) for end in run(scenario(api, "afk_2")))
    assert (len(api.clients), api.open_clients) == (2, 0)

    # Also when Airflow cannot tell at once, and when many ask at the same time.
    async def fail_for_a_while() -> None:
        if 12 < asyncio.get_running_loop().time() < 40:
            raise RuntimeError("no Airflow")

    api = Api(jobs=10)
    api.unlisted = set(range(1, 11))
    api.ends = dict.fromkeys(range(1, 11), 60.0)
    api.opening = fail_for_a_while
    assert all(isinstance(end, Finished) for end in run(scenario(api, "afk_2", 10)))
    assert (len(api.clients), api.open_clients) == (2, 0)

    api = Api(jobs=3)
    gave_up = run(scenario(api, "afk_1"))
    assert {type(end.error) for end in gave_up} == {errors.AuthenticationError}
    assert api.open_clients == 0


# Who comes and goes


def test_cancelling_one_disturbs_no_other_and_nothing_is_left_behind():
    async def scenario(api: Api) -> None:
        waits = [asyncio.create_task(wait_for(api, n)) for n in range(1, 101)]
        await asyncio.sleep(0)
        # At every moment: before the first look, in the middle of a request, in a pause.
        for n, pause in enumerate((0, 0, 0.0005, 0.0005, 3, 3)):
            waits[n].cancel()
            await asyncio.sleep(pause)
        ended = await asyncio.gather(*waits, return_exceptions=True)
        assert sum(isinstance(end, asyncio.CancelledError) for end in ended) == 6
        assert sum(isinstance(end, list) for end in ended) == 94

    api = Api(jobs=100)
    api.ends = dict.fromkeys(range(1, 101), 30.0)
    run(scenario(api))
    assert (len(api.clients), api.open_clients) == (1, 0)


@pytest.mark.parametrize("moment", [0, 0.0005, 2, 5.0005, 7])
def test_the_last_one_out_closes_everything_at_any_moment(moment: float):
    async def scenario(api: Api) -> None:
        only = asyncio.create_task(wait_for(api, 1, 2))
        await asyncio.sleep(moment)
        only.cancel()
        await asyncio.wait([only])

    api = Api(jobs=2)
    run(scenario(api))
    assert api.open_clients == 0
    assert not any(watcher._watchers.values())


def test_leaving_while_it_opens_leaves_nothing_behind():
    async def never() -> None:
        await asyncio.Event().wait()

    async def scenario(api: Api) -> None:
        only = asyncio.create_task(wait_for(api, 1))
        await asyncio.sleep(1)
        only.cancel()
        await asyncio.wait([only])

    api = Api(jobs=1)
    api.opening = never
    run(scenario(api))
    assert api.clients == []


def test_two_may_wait_for_the_same_job():
    api = Api(jobs=1)
    api.ends = ends(12)

    first, second = run(wait_for(api, 1, 1))

    assert first.job.id == second.job.id == job_id(1)
    assert len(api.asked) in {3, 4}


def test_connections_and_event_loops_have_watchers_of_their_own():
    async def scenario(name: str) -> tuple:
        async with shared_watcher("a", Api().open) as first, shared_watcher(name, Api().open) as second:
            assert (first is second) is (name == "a")
            return first, second

    assert not set(run(scenario("a"))) & set(run(scenario("b")))


def test_who_comes_after_the_last_one_left_gets_a_new_client():
    api = Api(jobs=1)
    api.ends = ends(0)

    async def scenario() -> None:
        await wait_for(api, 1)
        await wait_for(api, 1)

    run(scenario())
    assert (len(api.clients), api.open_clients) == (2, 0)


def test_a_watching_task_that_dies_is_replaced(monkeypatch: pytest.MonkeyPatch):
    async def scenario(api: Api, kill: Callable[[watcher.JobWatcher], None]) -> tuple[list, list[str]]:
        told: list[str] = []

        async def one(n: int) -> Finished | GaveUp:
            async with shared_watcher("a", api.open) as shared:
                return await shared.wait(poll(n), lambda _, line: told.append(line))

        waits = [asyncio.create_task(one(n)) for n in range(1, 11)]
        await asyncio.sleep(12)
        kill(watcher._watchers[asyncio.get_running_loop()]["a"])
        return await asyncio.gather(*waits), told

    def break_it(shared: watcher.JobWatcher) -> None:
        walk = shared._walk

        async def once(left: set[str]) -> None:
            shared._walk = walk  # type: ignore[method-assign]
            raise ZeroDivisionError

        shared._walk = once  # type: ignore[method-assign]

    for kill, reason in ((lambda shared: shared._watching.cancel(), "cancelled"), (break_it, "ZeroDivisionError")):
        api = Api(jobs=10)
        api.ends = dict.fromkeys(range(1, 11), 60.0)
        ended, told = run(scenario(api, kill))
        assert all(isinstance(end, Finished) for end in ended)
        assert sum(f"{reason}" in line for line in told) == 10
        assert (len(api.clients), api.open_clients) == (1, 0)


# What it tells


def test_what_is_worth_telling_is_told_once_to_each_in_its_own_context():
    task: ContextVar[str] = ContextVar("task", default="nobody's")
    told: list[tuple[str, int, str]] = []

    async def one(api: Api, n: int) -> None:
        task.set(f"task {n}")
        async with shared_watcher("a", api.open) as shared:
            await shared.wait(poll(n), lambda level, line: told.append((task.get(), level, line)))

    async def scenario(api: Api) -> None:
        await asyncio.gather(*(one(api, n) for n in range(1, 6)))

    api = Api(jobs=5)
    api.ends = dict.fromkeys(range(1, 6), 60.0)
    run(scenario(api))
    assert sorted(told) == [(f"task {n}", logging.DEBUG, f"Job {job_id(n)}: PROCESSING") for n in range(1, 6)]


def test_however_many_have_something_to_log_others_get_a_turn_in_between():
    turns: list[str] = []

    async def others() -> None:
        for _ in range(1000):
            turns.append("others")
            await asyncio.sleep(0)

    async def scenario(api: Api) -> None:
        busy: list[asyncio.Task] = []

        def log(*_: object) -> None:
            turns.append("log")
            if not busy:
                busy.append(asyncio.create_task(others()))

        async def one(n: int) -> None:
            async with shared_watcher("a", api.open) as shared:
                await shared.wait(poll(n), log)

        await asyncio.gather(*(one(n) for n in range(1, 1001)))

    api = Api(jobs=1000)
    api.ends = dict.fromkeys(range(1, 1001), 12.0)
    # The first look fails, and each of the thousand has to say so.
    api.breaks = lambda _: httpx.Response(503) if asyncio.get_running_loop().time() < 1 else None
    run(scenario(api))

    logged = [len(list(same)) for turn, same in groupby(turns[:1000]) if turn == "log"]
    assert max(logged) <= DECISIONS_AT_ONCE
    assert sum(logged) > 500


def test_other_calls_go_through_the_same_client():
    async def scenario(api: Api) -> None:
        async with shared_watcher("a", api.open) as shared:
            await asyncio.gather(*(shared.send(calls.get_job(job_id(n))) for n in range(1, 51)))

    api = Api(jobs=50)
    run(scenario(api))
    assert (len(api.clients), api.open_clients) == (1, 0)
