from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from itertools import groupby

import httpx
import pytest

from airflow_provider_hailuo.apiframe import calls, errors, watcher
from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.apiframe.polling import REFUSALS, REFUSED_SECONDS, URL_SECONDS, Finished, GaveUp, JobPoll
from airflow_provider_hailuo.apiframe.watcher import (
    CONCURRENT_LOOKS,
    DECISIONS_AT_ONCE,
    FAILED_LOOK_UP_SECONDS,
    FEW,
    LOOK_UP_SECONDS,
    shared_watcher,
    wait_for_job,
)
from tests.fake_api import Accounts, Api, account, job_id, page_of_a_proxy, refusal
from tests.virtual_time import moment, now, patch_clock, run

INTERVAL = 5.0


@pytest.fixture(autouse=True)
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_clock(monkeypatch, watcher)


def poll(n: int, seconds: float = 1800, interval: float = INTERVAL) -> JobPoll:
    return JobPoll(job_id(n), now() + seconds, interval)


async def wait_for(
    api: Api | Accounts, *numbers: int, log: watcher.Log = lambda *_: None, name: str = "a", **options: float
) -> list[Finished | GaveUp]:
    waits = (wait_for_job(poll(n, **options), log, name, api.look_up, api.connect) for n in numbers)
    return await asyncio.gather(*waits)


async def timed(waiting: Awaitable[list[Finished | GaveUp]]) -> tuple[list[Finished | GaveUp], float]:
    return await waiting, moment()


async def changing(
    waiting: Awaitable[list[Finished | GaveUp]], change: Callable[[], object], after: float
) -> list[Finished | GaveUp]:
    """Wait, while something changes after so many seconds."""
    waits = asyncio.ensure_future(waiting)
    await asyncio.sleep(after)
    change()
    return await waits


async def leave(api: Api, *numbers: int, after: float) -> None:
    """Wait for jobs, but be cancelled after so many seconds; nothing may be left behind."""
    waits = asyncio.create_task(wait_for(api, *numbers))
    await asyncio.sleep(after)
    waits.cancel()
    await asyncio.wait([waits])
    assert (waits.cancelled(), loop().watchers) == (True, {})
    await asyncio.sleep(FAILED_LOOK_UP_SECONDS)
    assert (loop().look_ups, api.open_clients) == ({}, 0)


def failing(error: Exception, begin: float = 0, end: float = float("inf")) -> Callable[[], Awaitable[None]]:
    """Return a look-up that fails from `begin` to `end`."""

    async def fail() -> None:
        if begin <= moment() < end:
            raise error

    return fail


def loop() -> watcher._Loop:
    return watcher._loops.get(asyncio.get_running_loop(), watcher._Loop())


def all_finished(ended: list[Finished | GaveUp]) -> bool:
    return all(isinstance(end, Finished) and end.job.video_url for end in ended)


def kinds(ended: list[Finished | GaveUp]) -> set[type]:
    return {type(end.error) if isinstance(end, GaveUp) else Finished for end in ended}


def is_list(request: httpx.Request) -> bool:
    return request.url.path.endswith("/jobs")


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
    api.ends = {n: 180 + n * INTERVAL / jobs for n in range(1, jobs + 1)}

    all_of_them = run(wait_for(api, *range(1, jobs + 1)))

    assert {end.job.id for end in all_of_them} == {job_id(n) for n in range(1, jobs + 1)}
    assert len(api.singles) <= 2 * FEW
    # 36 to 41 ticks of 180 seconds
    assert 36 * pages_of_a_tick <= api.pages <= 42 * pages_of_a_tick
    assert (len(api.clients), api.open_clients) == (1, 0)


def test_no_job_is_asked_for_twice_in_a_tick_and_none_is_forgotten():
    api = Api(jobs=5000)
    api.unlisted = set(range(1, 400, 2))
    api.ends = {n: 20 + 5 * (n % 7) for n in range(1, 5001)}

    assert len(run(wait_for(api, *range(1, 5001)))) == 5000
    of_a_tick = Counter((moment // (INTERVAL * 0.9), path) for moment, path in api.asked if path[-5:] != "/jobs")
    assert max(of_a_tick.values()) == 1


def test_jobs_of_others_before_and_after_ours_cost_their_pages_once():
    api = Api(jobs=20_000, end=60)

    run(wait_for(api, *range(9_001, 10_001)))

    # 100 pages that are newer once, then 10 or 11 at each of 12 to 14 ticks, and none that is older
    assert 100 + 12 * 10 <= api.pages <= 100 + 14 * 11
    assert api.singles == []


def test_on_an_account_where_others_are_busy_it_never_asks_much_more_than_one_by_one():
    api = Api(jobs=100_000, end=19)

    run(wait_for(api, *range(1, 1001)))

    ticks = 6
    assert len(api.asked) <= ticks * 1000 * 4 / 3


def test_an_old_straggler_does_not_make_it_walk_far():
    api = Api(jobs=10_000, end=60)

    run(wait_for(api, 1, *range(9_901, 10_001)))

    assert api.pages <= 14
    assert set(api.singles) == {job_id(1)}


def test_a_list_that_is_refused_or_spoilt_by_one_job_hides_none():
    for answer, status in ((refusal, 403), (refusal, 400), (refusal, 404), (page_of_a_proxy, 404)):
        api = Api(jobs=50, end=12)
        api.breaks = lambda request, made=(answer, status): made[0](made[1]) if is_list(request) else None

        assert all_finished(run(wait_for(api, *range(1, 51))))

    api = Api(jobs=50, end=12)
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
    api.ends = {1: 300, 2: 20}
    run(scenario(api))

    moments = [moment for moment, path in api.asked if path.endswith(job_id(1))]
    assert moments[0] < 1
    assert 10 < moments[1] <= 11.1
    assert sum(10 < moment < 21.1 for moment in moments) in range(9, 13)
    assert sum(moment > 21.1 for moment in moments) in range(4, 7)


def test_triggerers_do_not_march_in_step():
    def pauses() -> list[float]:
        api = Api(jobs=100, end=100)
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
            return moment() - (20 + n / 100)

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
        return moment()

    assert 13 <= run(scenario()) <= 15.2


# When it goes wrong


def test_an_outage_is_waited_out_with_fewer_requests():
    api = Api(jobs=1000, end=100)
    api.breaks = lambda _: httpx.Response(503) if moment() < 400 else None

    assert all(isinstance(end, Finished) for end in run(wait_for(api, *range(1, 1001))))
    # One for each look at the API while it is out, not one for each job.
    assert sum(moment < 400 for moment, _ in api.asked) < 60


def test_the_api_may_ask_for_a_longer_pause_and_nobody_new_breaks_it():
    async def scenario(api: Api) -> None:
        first = asyncio.create_task(wait_for(api, 1))
        await asyncio.sleep(1)
        await asyncio.gather(first, wait_for(api, 2, 3, interval=1))

    api = Api(jobs=3, end=50)
    api.breaks = lambda _: None if len(api.asked) > 1 else httpx.Response(429, headers={"retry-after": "60"})

    run(scenario(api))

    assert api.asked[1][0] - api.asked[0][0] >= 57


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_the_account_ends_all_waits_when_it_lasts_and_costs_few_requests(status: int):
    api = Api(jobs=1000)
    api.breaks = lambda _: refusal(status)

    gave_up = run(wait_for(api, *range(1, 1001)))

    assert kinds(gave_up) == {errors.AuthenticationError if status == 401 else errors.PermissionDeniedError}
    assert {end.error.job_id for end in gave_up} == {job_id(n) for n in range(1, 1001)}
    assert api.asked[-1][0] >= REFUSED_SECONDS
    # Who refuses the list may tell of single jobs all the same.
    of_a_look = 1 if status == 401 else 2 * CONCURRENT_LOOKS
    looks = REFUSED_SECONDS / INTERVAL + 2
    assert REFUSALS <= len(api.asked) <= looks * of_a_look
    assert (len(api.clients), api.open_clients) == (1, 0)


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_refusal_of_one_job_ends_its_own_wait_alone(status: int):
    api = Api(jobs=30, end=200)
    api.unlisted = set(range(1, 31))
    api.breaks = lambda request: refusal(status) if request.url.path.endswith(job_id(2)) else None

    ended = run(wait_for(api, *range(1, 31)))

    assert isinstance(ended[1], GaveUp)
    assert (ended[1].error.status, ended[1].error.job_id) == (status, job_id(2))
    assert all_finished([*ended[:1], *ended[2:]])


def test_one_odd_answer_of_the_api_ends_no_wait():
    for status in (400, 401, 402, 403, 404, 409, 418):
        api = Api(jobs=10, end=60)
        api.breaks = lambda _, status=status: refusal(status) if 10 < moment() < 40 else None

        assert all_finished(run(wait_for(api, *range(1, 11)))), status


def test_pages_of_proxies_are_outwaited_for_as_long_as_the_deadline_allows():
    for status in (302, 401, 403, 404, 418):
        api = Api(jobs=10, end=60)
        api.breaks = lambda _, status=status: page_of_a_proxy(status) if moment() < 1500 else None

        assert all_finished(run(wait_for(api, *range(1, 11)))), status
        assert (len(api.look_ups), len(api.clients)) == (1, 1)


@pytest.mark.parametrize(
    ("answer", "status"),
    [(page_of_a_proxy, 502), (page_of_a_proxy, 404), (page_of_a_proxy, 403), (refusal, 403), (refusal, 402)],
)
def test_when_every_single_look_fails_it_does_not_try_them_all(answer: Callable[[int], httpx.Response], status: int):
    api = Api(jobs=1000)
    api.unlisted = set(range(1, 1001))
    api.breaks = lambda _: answer(status) if api.singles else None

    run(wait_for(api, *range(1, 1001), seconds=0))

    # A key that is refused may have been replaced: as many as are under way then are sent again.
    again = CONCURRENT_LOOKS if (answer, status) == (refusal, 403) else 0
    assert CONCURRENT_LOOKS <= len(api.singles) <= 2 * CONCURRENT_LOOKS + again


def test_when_a_page_says_404_to_everything_it_does_not_ask_for_each_job_at_each_look():
    api = Api(jobs=1000, end=60)
    api.breaks = lambda _: page_of_a_proxy(404) if moment() < 300 else None

    assert all_finished(run(wait_for(api, *range(1, 1001))))
    looks = api.pages
    assert len(api.singles) <= looks * 2 * CONCURRENT_LOOKS


def test_what_the_api_says_of_many_jobs_says_nothing_of_others():
    api = Api(jobs=100, end=12)
    api.unlisted = set(range(1, 101))
    gone = {job_id(n) for n in range(1, 101) if n % 10}
    api.breaks = lambda request: refusal(404) if request.url.path.rpartition("/")[2] in gone else None

    ended = run(wait_for(api, *range(1, 101)))

    assert all_finished(ended[9::10])
    assert {end.error.job_id for end in ended if isinstance(end, GaveUp)} == gone
    # Nobody had to wait for a look that others let fail.
    assert max(Counter(api.singles)[job_id(n)] for n in range(10, 101, 10)) <= 4


# A URL that is not there yet


@pytest.mark.parametrize("jobs", [1, 2 * FEW, 250])
def test_a_list_of_summaries_tells_of_jobs_that_render_and_each_is_asked_once_for_its_url(jobs: int):
    api = Api(jobs)
    api.summaries = True
    api.ends = {n: 60 + n * INTERVAL / jobs for n in range(1, jobs + 1)}

    assert all_finished(run(wait_for(api, *range(1, jobs + 1))))
    if jobs > FEW:
        assert max(Counter(api.singles).values()) <= 2 + FEW
        assert len(api.singles) <= jobs + 2 * FEW


def test_summaries_do_not_make_it_walk_to_older_pages():
    api = Api(jobs=50_000, end=12)
    api.summaries = True

    assert all_finished(run(wait_for(api, *range(49_001, 50_001))))
    assert api.pages <= 5 * 10
    assert len(api.singles) == 1000


def test_a_url_that_comes_late_is_waited_for_and_one_that_never_comes_is_not_for_long():
    for summaries in (False, True):
        api = Api(jobs=20, end=11)
        api.summaries = summaries
        api.url_delay = 15.0
        assert all_finished(run(wait_for(api, *range(1, 21))))

        api.url_delay = 1e6
        ended, seconds = run(timed(wait_for(api, *range(1, 21))))
        assert kinds(ended) == {Finished}
        assert not any(end.job.video_url for end in ended)
        assert 11 + URL_SECONDS <= seconds <= 11 + URL_SECONDS + 3 * INTERVAL


# Keys, look-ups, accounts


@pytest.mark.parametrize("failure", [RuntimeError("no Airflow"), errors.NetworkError("refused")])
def test_a_client_that_cannot_be_made_now_is_made_later(failure: Exception):
    def fail() -> None:
        if moment() < 200:
            raise failure

    api = Api(jobs=10, end=10)
    api.connecting = fail

    assert all_finished(run(wait_for(api, *range(1, 11))))
    assert len(api.clients) == 1


def test_whatever_a_submission_dies_of_it_may_have_created_a_job():
    async def submit(api: Api) -> None:
        async with shared_watcher("a", api.look_up, api.connect) as (_, shared):
            with pytest.raises(errors.NetworkError, match="RuntimeError: torn down") as raised:
                await shared.send(calls.generate_video(VideoRequest(prompt="x"), "key"))
            assert raised.value.in_doubt

    def die(request: httpx.Request) -> None:
        raise RuntimeError("torn down")

    api = Api()
    api.breaks = die
    run(submit(api))


def test_an_environment_that_will_not_do_ends_the_waits_when_it_lasts():
    def fail() -> None:
        raise errors.InvalidInputError("NO_PROXY")

    api = Api(jobs=2)
    api.connecting = fail
    ended, seconds = run(timed(wait_for(api, 1, 2)))

    assert kinds(ended) == {errors.InvalidInputError}
    assert REFUSED_SECONDS <= seconds <= REFUSED_SECONDS + 6 * INTERVAL


FAILED_LOOK_UPS = [
    errors.CredentialsUnavailableError("no such connection"),
    errors.InvalidInputError("there is no API key"),
    RuntimeError("the text may cite the afk_key"),
]


@pytest.mark.parametrize("failure", FAILED_LOOK_UPS, ids=lambda failure: type(failure).__name__)
def test_a_look_up_that_fails_is_a_look_that_failed(failure: Exception):
    for until in (REFUSED_SECONDS - 15, 1e6):
        api, told = Api(jobs=1, end=60), list[str]()
        api.looking_up = failing(failure, end=until)
        ended, seconds = run(timed(wait_for(api, 1, log=lambda _, line, told=told: told.append(line))))

        assert seconds >= 60
        assert sum("cannot see it" in line for line in told) == 1
        assert "cannot see it, looking on" in told[0]
        assert "afk_" not in told[0]
        if until < REFUSED_SECONDS:
            assert all_finished(ended)
            assert (len(api.clients), api.open_clients) == (1, 0)
        else:
            expected = failure if isinstance(failure, errors.ApiframeError) else FAILED_LOOK_UPS[0]
            assert kinds(ended) == {type(expected)}
            assert ended[0].error.job_id == job_id(1)
            assert seconds <= REFUSED_SECONDS + 30
            assert api.clients == []


def test_the_deadline_holds_while_look_ups_fail_or_hang():
    async def hang() -> None:
        await asyncio.Event().wait()

    for looking_up, longest in ((failing(FAILED_LOOK_UPS[0]), 0.1), (hang, LOOK_UP_SECONDS)):
        api = Api(jobs=1)
        api.looking_up = looking_up
        ended, seconds = run(timed(wait_for(api, 1, seconds=20)))
        assert kinds(ended) == {errors.JobTimeoutError}
        assert "connection" in str(ended[0].error)
        assert 20 <= seconds <= 20 + longest


def test_while_look_ups_fail_a_thousand_do_not_look_up_each():
    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise errors.CredentialsUnavailableError("throttled")

    api = Api(jobs=1000)
    api.looking_up = fail

    assert kinds(run(wait_for(api, *range(1, 1001)))) == {errors.CredentialsUnavailableError}
    assert all(b - a >= FAILED_LOOK_UP_SECONDS for a, b in zip(api.look_ups, api.look_ups[1:], strict=False))


def test_one_look_up_serves_all_who_come_meanwhile_and_none_who_come_later():
    async def scenario(api: Api) -> None:
        waits = [asyncio.create_task(wait_for(api, n)) for n in range(1, 51)]
        await asyncio.sleep(1)
        waits += [asyncio.create_task(wait_for(api, n)) for n in range(51, 101)]
        await asyncio.sleep(2)
        waits.append(asyncio.create_task(wait_for(api, 1)))
        await asyncio.gather(*waits)

    api = Api(jobs=100, end=20)
    api.looking_up = lambda: asyncio.sleep(2)
    run(scenario(api))

    assert [round(second) for second in api.look_ups] == [0, 3]
    assert (len(api.clients), api.open_clients) == (1, 0)


def test_connections_are_looked_up_each_for_itself():
    async def scenario(api: Api) -> None:
        await asyncio.gather(*(wait_for(api, 1, name=name) for name in "ab"))

    api = Api(jobs=1, end=0)
    run(scenario(api))

    assert (len(api.look_ups), len(api.clients), api.open_clients) == (2, 2, 0)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("jobs", [3, 10])
def test_a_key_that_was_replaced_is_looked_up_anew_and_no_look_is_missed(status: int, jobs: int):
    def replace_key() -> None:
        api.keys, api.connection_key = {"afk_2"}, "afk_2"

    api, told = Api(jobs, end=60), list[str]()
    api.unlisted = set(range(1, 6))
    api.refusal = status
    waiting = wait_for(api, *range(1, jobs + 1), log=lambda _, line: told.append(line))

    assert all_finished(run(changing(waiting, replace_key, after=12)))
    assert (len(api.look_ups), len(api.clients), api.open_clients) == (2, 2, 0)
    assert not [line for line in told if "cannot see" in line]


@pytest.mark.parametrize("failure", FAILED_LOOK_UPS, ids=lambda failure: type(failure).__name__)
def test_while_a_refused_key_cannot_be_looked_up_the_old_client_goes_on(failure: Exception):
    api = Api(jobs=10, end=60)
    api.looking_up = failing(failure, begin=12)
    api.breaks = lambda _: refusal(401) if 12 < moment() < 40 else None

    assert all_finished(run(wait_for(api, *range(1, 11))))
    assert (len(api.clients), api.open_clients) == (1, 0)
    assert len(api.look_ups) > 2


@pytest.mark.parametrize("status", [401, 403])
def test_at_each_refusal_the_key_is_looked_up_and_the_same_key_makes_no_other_client(status: int):
    def replace_key() -> None:
        api.connection_key = "afk_2"

    api = Api(jobs=1, end=60)
    api.refusal = status
    api.breaks = lambda request: (
        refusal(status) if moment() > 12 and request.headers["x-api-key"] == "afk_1" else None
    )
    api.keys.add("afk_2")

    assert all_finished(run(changing(wait_for(api, 1), replace_key, after=40)))
    assert len(api.clients) == 2
    refused = sum(12 < second < 40 for second, _ in api.asked)
    assert refused - 2 <= sum(12 < second < 40 for second in api.look_ups) <= refused


def test_a_key_that_is_refused_again_and_again_for_days_makes_nothing_grow():
    def size(shared: watcher.JobWatcher) -> int:
        parts = [asyncio.all_tasks(), loop().look_ups, *vars(shared).values()]
        return sum(len(part) for part in parts if isinstance(part, dict | set | list))

    async def scenario(api: Api) -> None:
        long = {"seconds": 1e9, "interval": 60.0}
        waits = asyncio.create_task(wait_for(api, *range(1, 11), **long))
        await asyncio.sleep(1000)
        (shared,) = loop().watchers.values()
        before = size(shared)
        await asyncio.sleep(24 * 3600)
        assert size(shared) <= before + 5
        waits.cancel()
        await asyncio.wait([waits])

    for flip in (False, True):
        api = Api(jobs=10)
        api.keys.add("afk_2")
        refusals = iter(range(10**6))
        api.breaks = lambda _, n=refusals: refusal(401) if next(n) % 3 else None

        async def another(api: Api = api, flip: bool = flip) -> None:
            api.connection_key = f"afk_{1 + len(api.look_ups) % 2}" if flip else "afk_1"

        api.looking_up = another
        run(scenario(api))
        assert (len(api.look_ups) > 500, len(api.clients), api.open_clients) == (True, 1 + flip, 0)


def test_who_comes_follows_the_connection_and_who_is_there_stays_with_the_old_key():
    async def scenario(both: Accounts) -> None:
        old = asyncio.create_task(wait_for(both, *range(1, 11)))
        await asyncio.sleep(12)
        both.now = "afk_b"
        new = asyncio.create_task(wait_for(both, *range(11, 21)))
        async with shared_watcher("a", both.look_up, both.connect) as (settings, shared):
            assert settings.api_key == "afk_b"
            await shared.send(calls.generate_video(VideoRequest(prompt="x"), "key"))
        assert both.open_clients == {"afk_a": 1, "afk_b": 1}
        assert all_finished(await old)
        await asyncio.sleep(1)
        assert both.open_clients == {"afk_a": 0, "afk_b": 1}
        assert all_finished(await new)

    both = Accounts(afk_a=account(range(1, 11), 60), afk_b=account(range(11, 21), 90))
    run(scenario(both))

    assert both.open_clients == {"afk_a": 0, "afk_b": 0}
    assert [len(api.clients) for api in both.accounts.values()] == [1, 1]
    assert submissions(both.accounts["afk_b"]) == 1


def submissions(api: Api) -> int:
    return sum(path.endswith("/generate") for _, path in api.asked)


def test_whatever_else_changes_in_the_connection_is_followed_too():
    async def scenario(one: Accounts) -> None:
        async with shared_watcher("a", one.look_up, one.connect) as (before, first):
            one.namespace = "b"
            async with shared_watcher("a", one.look_up, one.connect) as (after, second):
                assert (before.namespace, after.namespace) == ("", "b")
                assert first is not second
            one.namespace = ""
            async with shared_watcher("a", one.look_up, one.connect) as (_, third):
                assert third is first

    run(scenario(Accounts(afk_a=Api())))


@pytest.mark.parametrize("jobs", [2, 10])
def test_a_refusal_in_passing_does_not_drive_jobs_to_an_account_that_never_heard_of_them(jobs: int):
    def lead_to_the_other() -> None:
        both.now = "afk_b"

    both = Accounts(afk_a=account(range(1, 11), 120), afk_b=account(range(11, 21), 120))
    both.accounts["afk_a"].breaks = lambda _: refusal(401) if 10 < moment() < 30 else None

    assert all_finished(run(changing(wait_for(both, *range(1, jobs + 1)), lead_to_the_other, after=8)))
    assert both.open_clients == {"afk_a": 0, "afk_b": 0}
    # While it was refused, and not for long after.
    assert all(10 < second < 40 for second, _ in both.accounts["afk_b"].asked)


def test_a_key_that_was_revoked_with_its_account_ends_the_waits_when_that_lasts():
    def revoke() -> None:
        both.now = "afk_b"
        both.accounts["afk_a"].keys = set()

    both = Accounts(afk_a=account(range(1, 201), 1000), afk_b=account(range(201, 301), 1000))
    ended, seconds = run(timed(changing(wait_for(both, *range(1, 201)), revoke, after=8)))

    assert kinds(ended) == {errors.NotFoundError}
    assert {end.error.job_id for end in ended} == {job_id(n) for n in range(1, 201)}
    assert REFUSED_SECONDS <= seconds <= 8 + REFUSED_SECONDS + 60
    assert len(both.accounts["afk_a"].asked) <= 2 * REFUSED_SECONDS / INTERVAL
    assert len(both.accounts["afk_b"].asked) <= (200 * 4 / 3 + 2) * REFUSED_SECONDS / INTERVAL


def test_who_comes_when_the_connection_leads_back_submits_to_the_account_it_names():
    async def scenario(both: Accounts) -> None:
        old = asyncio.create_task(wait_for(both, 1))
        await asyncio.sleep(8)
        both.now = "afk_b"
        async with shared_watcher("a", both.look_up, both.connect):
            await asyncio.sleep(3)
            assert both.accounts["afk_b"].asked
            both.now = "afk_a"
            async with shared_watcher("a", both.look_up, both.connect) as (settings, shared):
                assert settings.api_key == "afk_a"
                await shared.send(calls.generate_video(VideoRequest(prompt="x"), "key"))
        assert all_finished(await old)

    both = Accounts(afk_a=account(range(1, 11), 60), afk_b=account(range(11, 21), 60))
    both.accounts["afk_a"].breaks = lambda _: refusal(401) if 9 < moment() < 11 else None
    run(scenario(both))

    assert [submissions(api) for api in both.accounts.values()] == [1, 0]


def test_a_call_that_is_refused_while_others_are_not_is_repeated_once():
    async def scenario(api: Api) -> None:
        async with shared_watcher("a", api.look_up, api.connect) as (_, shared):
            await shared.send(calls.get_job(job_id(1)))
            others = asyncio.create_task(keep_asking(shared))
            with pytest.raises(errors.PermissionDeniedError):
                await shared.send(calls.generate_video(VideoRequest(prompt="x"), "key"))
            others.cancel()
            await asyncio.wait([others])

    async def slowly(request: httpx.Request) -> httpx.Response:
        # Others are accepted with the same key meanwhile.
        await asyncio.sleep(0.01 if request.method == "POST" else 0)
        return await Api.answer(api, request)

    async def keep_asking(shared: watcher.JobWatcher) -> None:
        while True:
            await asyncio.gather(*(shared.send(calls.get_job(job_id(n))) for n in range(1, 21)))

    api = Api(jobs=20)
    api.breaks = lambda request: refusal(403 if submissions(api) < 10 else 503) if request.method == "POST" else None
    api.answer = slowly  # type: ignore[method-assign]
    run(scenario(api))

    assert submissions(api) == 2
    assert (len(api.clients), api.open_clients) == (1, 0)


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

    api = Api(jobs=100, end=30)
    run(scenario(api))
    assert (len(api.clients), api.open_clients) == (1, 0)


@pytest.mark.parametrize("seconds", [0, 0.0005, 2, 5.0005, 7])
def test_the_last_one_out_closes_everything_at_any_moment(seconds: float):
    run(leave(Api(jobs=2), 1, 2, after=seconds))


@pytest.mark.parametrize("others", [False, True])
def test_leaving_while_it_looks_up_leaves_nothing_behind_and_disturbs_no_other(others: bool):
    async def scenario(api: Api) -> None:
        waits = [asyncio.create_task(wait_for(api, 1)) for _ in range(2)]
        other = asyncio.create_task(wait_for(api, 1)) if others else None
        await asyncio.sleep(1)
        for wait in waits:
            wait.cancel()
        # Who comes at this very moment has a look-up, too.
        late = asyncio.create_task(wait_for(api, 1))
        await asyncio.wait(waits)
        assert all(wait.cancelled() for wait in waits)
        assert all_finished(await late)
        assert other is None or all_finished(await other)

    api = Api(jobs=1, end=0)
    api.looking_up = lambda: asyncio.sleep(3)
    run(scenario(api))
    assert len(api.look_ups) == (1 if others else 2)
    assert api.open_clients == 0


@pytest.mark.parametrize("hangs_from", [0, 3])
def test_leaving_while_a_look_up_hangs_leaves_nothing_behind(hangs_from: float):
    async def hang() -> None:
        if moment() >= hangs_from:
            await asyncio.Event().wait()

    api = Api(jobs=1)
    api.looking_up = hang
    api.breaks = lambda _: refusal(401) if moment() > hangs_from else None
    run(leave(api, 1, after=10))
    assert len(api.look_ups) == (2 if hangs_from else 1)


@pytest.mark.parametrize("seconds", [0, 1, 4.9])
def test_leaving_between_two_looks_at_a_failing_look_up_leaves_nothing_behind(seconds: float):
    api = Api(jobs=1)
    api.looking_up = failing(FAILED_LOOK_UPS[0])
    run(leave(api, 1, after=seconds))
    assert api.clients == []


def test_a_client_that_cannot_be_closed_spoils_no_result_and_keeps_no_other_open():
    async def fail() -> None:
        raise RuntimeError("the connection is gone")

    def replace_key() -> None:
        api.clients[0].close = fail  # type: ignore[method-assign]
        api.keys, api.connection_key = {"afk_2"}, "afk_2"

    api = Api(jobs=1, end=20)
    assert all_finished(run(changing(wait_for(api, 1), replace_key, after=7)))
    assert [client._http.is_closed for client in api.clients] == [False, True]


def test_two_may_wait_for_the_same_job():
    api = Api(jobs=1, end=12)

    first, second = run(wait_for(api, 1, 1))

    assert first.job.id == second.job.id == job_id(1)
    assert len(api.asked) in {3, 4}


def test_a_watching_task_that_dies_is_replaced():
    def cancel_it() -> None:
        (shared,) = loop().watchers.values()
        shared._watching.cancel()

    def break_it() -> None:
        (shared,) = loop().watchers.values()
        walk = shared._walk

        async def once(*_: set[str]) -> None:
            shared._walk = walk  # type: ignore[method-assign]
            raise ZeroDivisionError

        shared._walk = once  # type: ignore[method-assign]

    for kill, reason in ((cancel_it, "cancelled"), (break_it, "ZeroDivisionError")):
        api, told = Api(jobs=10, end=60), list[str]()
        waiting = wait_for(api, *range(1, 11), log=lambda _, line, told=told: told.append(line))
        assert all_finished(run(changing(waiting, kill, after=12)))
        assert sum(reason in line for line in told) == 10
        assert (len(api.clients), api.open_clients) == (1, 0)


# What it tells


def test_what_is_worth_telling_is_told_once_to_each_in_its_own_context():
    task: ContextVar[str] = ContextVar("task", default="nobody's")
    told: list[tuple[str, int, str]] = []

    async def one(n: int) -> None:
        task.set(f"task {n}")
        await wait_for(api, n, log=lambda level, line: told.append((task.get(), level, line)))

    async def all_of_them() -> None:
        await asyncio.gather(*map(one, range(1, 6)))

    api = Api(jobs=5, end=60)
    run(all_of_them())
    assert sorted(told) == [(f"task {n}", logging.DEBUG, f"Job {job_id(n)}: PROCESSING") for n in range(1, 6)]


def test_however_many_have_something_to_log_others_get_a_turn_in_between():
    turns: list[str] = []
    busy: list[asyncio.Task] = []

    async def others() -> None:
        for _ in range(1000):
            turns.append("others")
            await asyncio.sleep(0)

    def log(*_: object) -> None:
        turns.append("log")
        if not busy:
            busy.append(asyncio.create_task(others()))

    api = Api(jobs=1000, end=12)
    # The first look fails, and each of the thousand has to say so.
    api.breaks = lambda _: httpx.Response(503) if moment() < 1 else None
    run(wait_for(api, *range(1, 1001), log=log))

    logged = [len(list(same)) for turn, same in groupby(turns[:1000]) if turn == "log"]
    assert max(logged) <= DECISIONS_AT_ONCE
    assert sum(logged) > 500
