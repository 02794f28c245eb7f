from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from airflow_provider_hailuo.apiframe.models import JobStatus
from airflow_provider_hailuo.sandbox.errors import SettingError
from airflow_provider_hailuo.sandbox.state.account import Account, InsufficientCreditsError, KeyConflictError
from airflow_provider_hailuo.sandbox.state.jobs import Cursor, EventKind, GenerateRequest, Job

HOUR = 3600.0
ALL_EVENTS = frozenset(EventKind)


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_773_568_800.0

    def __call__(self) -> int:
        return round(self.seconds * 1000)

    def pass_(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_account(clock: Clock) -> Callable[..., Account]:
    def open_account(seed: int = 1, **settings: Any) -> Account:
        defaults = {"credits": 1000, "render_seconds": 100, "jitter": 0, "retention_seconds": 86400}
        return Account(rng=Random(seed), clock=clock, **{**defaults, **settings})

    return open_account


@pytest.fixture
def account(open_account: Callable[..., Account]) -> Account:
    return open_account()


def request(prompt: str = "a wave", **changes: Any) -> GenerateRequest:
    fields = {
        "prompt": prompt,
        "model": "hailuo-02",
        "resolution": "768p",
        "duration": 6,
        "webhook_url": None,
        "webhook_events": frozenset({EventKind.COMPLETED, EventKind.FAILED}),
        "body": {"prompt": prompt},
    }
    return GenerateRequest(**{**fields, **changes})


def now(account: Account, job: Job) -> Job:
    found = account.job(job.id)
    assert found
    return found


class TestTime:
    @pytest.mark.parametrize(
        ("seconds", "status", "progress"),
        [
            (0, "QUEUED", 0),
            (9.999, "QUEUED", 0),
            (10, "PROCESSING", 0),
            (55, "PROCESSING", 50),
            (99.999, "PROCESSING", 99),
            (100, "COMPLETED", 100),
            (5000, "COMPLETED", 100),
        ],
    )
    def test_drives_a_job(self, account: Account, clock: Clock, seconds: float, status: str, progress: int) -> None:
        job = account.submit(request())
        clock.pass_(seconds)
        job = now(account, job)
        assert (job.status, job.progress(account.now)) == (status, progress)

    def test_of_completion_is_when_it_was_due_not_when_someone_looked(self, account: Account, clock: Clock) -> None:
        job = account.submit(request())
        clock.pass_(5000)
        assert now(account, job).completed_at == job.created_at + 100_000

    def test_of_a_render_varies_by_the_jitter(self, open_account: Callable[..., Account]) -> None:
        account = open_account(jitter=0.2)
        lengths = [job.ends_at - job.created_at for job in (account.submit(request()) for _ in range(200))]
        assert 80_000 <= min(lengths) < 84_000
        assert 116_000 < max(lengths) <= 120_000

    def test_does_not_go_back_when_the_clock_does(self, account: Account, clock: Clock) -> None:
        job = account.submit(request())
        clock.pass_(55)
        assert now(account, job).progress(account.now) == 50
        clock.pass_(-60)
        assert now(account, job).progress(account.now) == 50
        assert account.submit(request()).created_at == job.created_at + 55_000

    def test_zero_renders_at_once(self, open_account: Callable[..., Account]) -> None:
        account = open_account(render_seconds=0)
        job = account.submit(request(webhook_url="http://x", webhook_events=ALL_EVENTS))
        assert job.status is JobStatus.QUEUED
        assert now(account, job).status is JobStatus.COMPLETED
        stalled = account.submit(request("[[stall]]"))
        assert now(account, stalled).progress(account.now) == 0

    def test_makes_videos_expire(self, open_account: Callable[..., Account], clock: Clock) -> None:
        account = open_account(retention_seconds=60)
        job = account.submit(request())
        clock.pass_(159.9)
        assert not now(account, job).expired
        assert account.take_expired() == []
        clock.pass_(0.1)
        assert now(account, job).expired
        assert now(account, job).status is JobStatus.COMPLETED
        assert account.take_expired() == [job.id]
        assert account.take_expired() == []

    def test_leaves_failures_alone(self, open_account: Callable[..., Account], clock: Clock) -> None:
        account = open_account(retention_seconds=60)
        job = account.submit(request("[[fail: x]]"))
        clock.pass_(1000)
        assert not now(account, job).expired


class TestPrompt:
    def test_asks_for_a_failure(self, account: Account, clock: Clock) -> None:
        job = account.submit(request("a duck [[fail: content policy]] on a lake"))
        clock.pass_(99)
        assert now(account, job).status is JobStatus.PROCESSING
        clock.pass_(1)
        job = now(account, job)
        assert (job.status, job.error, job.progress(account.now)) == (JobStatus.FAILED, "content policy", 0)
        assert job.completed_at == job.created_at + 100_000

    def test_may_leave_the_reason_open(self, account: Account, clock: Clock) -> None:
        job = account.submit(request("[[fail]]"))
        clock.pass_(100)
        assert now(account, job).error == "Generation failed"

    def test_asks_for_a_stall(self, account: Account, clock: Clock) -> None:
        job = account.submit(request("[[stall]]"))
        clock.pass_(30 * 24 * HOUR)
        job = now(account, job)
        assert (job.status, job.progress(account.now)) == (JobStatus.PROCESSING, 99)

    @pytest.mark.parametrize(
        ("command", "seconds"), [("[[slow: 300]]", 300), ("[[ slow :0.5 ]]", 0.5), ("[[slow:2]]", 2)]
    )
    def test_asks_for_a_render_time_without_jitter(
        self, open_account: Callable[..., Account], command: str, seconds: float
    ) -> None:
        job = open_account(jitter=1).submit(request(command))
        assert job.ends_at - job.created_at == seconds * 1000

    @pytest.mark.parametrize(
        "prompt",
        [
            "[fail: x]",
            "[[slow: soon]]",
            "[[slow: 9999999]]",
            "[[fails: x]]",
            "[[stall",
        ],
    )
    def test_without_a_command_is_only_a_prompt(self, account: Account, clock: Clock, prompt: str) -> None:
        job = account.submit(request(prompt))
        clock.pass_(100)
        assert now(account, job).status is JobStatus.COMPLETED

    def test_of_any_shape_is_read_quickly(self, account: Account) -> None:
        for prompt in ("[[fail:" + " " * 1993, "[[" * 1000, "[[stall" + " " * 1990, "[[slow:" + "1" * 1993):
            account.submit(request(prompt))


class TestRelease:
    @pytest.mark.parametrize("seconds", [0, 10, 55, 5000])
    def test_completes_a_stalled_job_now_for_good(self, account: Account, clock: Clock, seconds: float) -> None:
        job = account.submit(request("a wave [[stall]]"))
        clock.pass_(seconds)
        assert account.release() == [job.id]
        ended = now(account, job)
        assert (ended.status, ended.progress(account.now)) == (JobStatus.COMPLETED, 100)
        assert ended.completed_at == clock()
        assert (ended.credit_cost, account.credits_charged) == (5, 5)
        clock.pass_(5000)
        assert now(account, job) == ended
        assert account.statuses()[JobStatus.COMPLETED] == 1

    def test_is_once_and_of_what_stalls_by_then(self, account: Account, clock: Clock) -> None:
        usual = account.submit(request())
        first = account.submit(request("[[stall]]"), "key")
        assert account.release() == [first.id]
        later = account.submit(request("[[stall]]"))
        assert account.submit(request("[[stall]]"), "key").status is JobStatus.COMPLETED
        assert now(account, usual).status is JobStatus.QUEUED
        clock.pass_(30 * 24 * HOUR)
        assert now(account, later).status is JobStatus.PROCESSING
        assert account.release() == [later.id]
        assert account.release() == []

    def test_leaves_the_time_of_others_as_it_was(self, account: Account, clock: Clock) -> None:
        rng = Random(1)
        prompts = [f"[[slow: {rng.randrange(1000)}]]" + rng.choice(["", "[[stall]]"]) for _ in range(100)]
        jobs = [account.submit(request(prompt)) for prompt in prompts]
        released = account.release()
        others = [job for job in jobs if job.id not in released]
        assert 20 < len(others) < 80
        for _ in range(100):
            clock.pass_(10)
            done = [job for job in others if now(account, job).status is JobStatus.COMPLETED]
            assert done == [job for job in others if job.ends_at <= account.now]

    def test_is_told_to_webhooks_as_any_end(self, account: Account, clock: Clock) -> None:
        job = account.submit(request("[[stall]]", webhook_url="http://hook", webhook_events=ALL_EVENTS))
        quiet = account.submit(
            request("[[stall]]", webhook_url="http://hook", webhook_events=frozenset({EventKind.FAILED}))
        )
        clock.pass_(40)
        account.release()
        events = account.take_events()
        assert [(e.kind, e.job.id, e.job.progress(e.at)) for e in events] == [
            (EventKind.PROGRESS, job.id, 25),
            (EventKind.COMPLETED, job.id, 100),
        ]
        assert (now(account, job).webhook_status, now(account, quiet).webhook_status) == ("pending", None)
        clock.pass_(1000)
        account.advance()
        assert account.take_events() == []

    def test_lets_a_job_fail_whose_prompt_asks_for_that_too(self, account: Account) -> None:
        job = account.submit(request("[[stall]] [[fail: no luck]]"))
        account.release()
        assert (now(account, job).status, now(account, job).error) == (JobStatus.FAILED, "no luck")
        assert account.credits_charged == 0


class TestCredits:
    def test_come_back_when_a_job_fails(self, account: Account, clock: Clock) -> None:
        job = account.submit(request("[[fail: x]]"))
        account.submit(request())
        assert account.credits == 990
        clock.pass_(100)
        assert now(account, job).credit_cost == 0
        assert (account.credits, account.credits_charged) == (995, 5)

    def test_may_be_spent_to_the_last(self, open_account: Callable[..., Account]) -> None:
        account = open_account(credits=10)
        account.submit(request(resolution="1080p"))
        assert (account.credits, account.credits_charged) == (0, 10)
        with pytest.raises(InsufficientCreditsError) as caught:
            account.submit(request(duration=10), "key")
        assert (caught.value.required, caught.value.available) == (8, 0)
        assert account.statuses()[JobStatus.QUEUED] == 1


class TestIdempotencyKey:
    def test_brings_the_original_job_as_it_is_now(self, account: Account, clock: Clock) -> None:
        job = account.submit(request(), "key")
        clock.pass_(50)
        again = account.submit(request(), "key")
        assert (again.id, again.status) == (job.id, JobStatus.PROCESSING)
        assert account.credits == 995
        assert sum(account.statuses().values()) == 1

    def test_conflicts_with_another_request(self, account: Account) -> None:
        account.submit(request(), "key")
        with pytest.raises(KeyConflictError):
            account.submit(request("another"), "key")
        assert account.credits == 995

    def test_is_remembered_for_24_hours(self, account: Account, clock: Clock) -> None:
        job = account.submit(request(), "key")
        clock.pass_(24 * HOUR - 0.001)
        assert account.submit(request(), "key").id == job.id
        clock.pass_(0.001)
        new = account.submit(request("another"), "key")
        assert new.id != job.id
        clock.pass_(23 * HOUR)
        assert account.submit(request("another"), "key").id == new.id

    def test_is_not_remembered_without_a_job(self, open_account: Callable[..., Account], clock: Clock) -> None:
        account = open_account(credits=5)
        account.submit(request("[[fail: x]]"))
        with pytest.raises(InsufficientCreditsError):
            account.submit(request("one"), "key")
        clock.pass_(100)
        account.submit(request("two"), "key")


def walk(account: Account, limit: int, meanwhile: Callable[[], None] = lambda: None) -> list[str]:
    ids: list[str] = []
    before: Cursor | None = None
    more = True
    while more:
        jobs, more = account.page(limit=limit, before=before)
        assert len(jobs) == limit or not more
        ids += [job.id for job in jobs]
        before = jobs[-1].cursor if jobs else None
        meanwhile()
    return ids


class TestPages:
    @pytest.mark.parametrize("pause", [0.0, 0.001, 1.0])
    def test_hold_every_job_once_newest_first(self, account: Account, clock: Clock, pause: float) -> None:
        places = []
        for _ in range(150):
            places.append(account.submit(request()).cursor)
            clock.pass_(pause)
        assert walk(account, 20) == [place.id for place in sorted(places, reverse=True)]

    @pytest.mark.parametrize("pause", [0.0, 1.0])
    def test_stay_right_when_new_jobs_arrive(
        self, open_account: Callable[..., Account], clock: Clock, pause: float
    ) -> None:
        account = open_account(credits=10_000)
        old = {account.submit(request()).id for _ in range(100)}

        def submit_some() -> None:
            clock.pass_(pause)
            for _ in range(5):
                account.submit(request())

        met = walk(account, 10, submit_some)
        assert old <= set(met)
        assert len(met) == len(set(met))

    def test_tell_whether_there_are_more(self, account: Account) -> None:
        assert account.page(limit=2) == ([], False)
        for model in ("hailuo-02", "hailuo-03", "hailuo-02"):
            account.submit(request(model=model))
        assert account.page(limit=3)[1] is False
        assert account.page(limit=2)[1] is True
        assert account.page(limit=2, model="hailuo-02")[1] is False
        assert account.page(limit=1, model="hailuo-02")[1] is True


class TestEvents:
    def test_come_in_order_with_the_job_as_it_was(self, account: Account, clock: Clock) -> None:
        job = account.submit(request(webhook_url="http://hook", webhook_events=ALL_EVENTS))
        clock.pass_(1000)
        account.advance()
        events = account.take_events()
        assert [(e.kind.value, e.job.status, e.job.progress(e.at), e.url) for e in events] == [
            ("progress", "PROCESSING", 25, "http://hook"),
            ("progress", "PROCESSING", 50, "http://hook"),
            ("progress", "PROCESSING", 75, "http://hook"),
            ("completed", "COMPLETED", 100, "http://hook"),
        ]
        assert {e.job.id for e in events} == {job.id}
        assert account.take_events() == []

    @pytest.mark.parametrize("seconds", [0.001, 0.007, 0.333, 7.777])
    def test_of_progress_never_tell_less_than_was_reached(
        self, open_account: Callable[..., Account], clock: Clock, seconds: float
    ) -> None:
        account = open_account(render_seconds=seconds)
        account.submit(request(webhook_url="http://hook", webhook_events=frozenset({EventKind.PROGRESS})))
        clock.pass_(seconds)
        account.advance()
        told = [e.job.progress(e.at) for e in account.take_events()]
        assert all(t >= reached for t, reached in zip(told, (25, 50, 75), strict=True))

    def test_come_only_when_asked_for(self, account: Account, clock: Clock) -> None:
        failures = {"webhook_url": "http://hook", "webhook_events": frozenset({EventKind.FAILED})}
        for asked in (request(), request(**failures), request("[[fail: x]]", **failures)):
            account.submit(asked)
        clock.pass_(1000)
        account.advance()
        assert [(e.kind, e.job.error) for e in account.take_events()] == [(EventKind.FAILED, "x")]

    @pytest.mark.parametrize("delivered", [True, False])
    def test_of_the_end_settle_the_webhook_status(self, account: Account, clock: Clock, delivered: bool) -> None:
        job = account.submit(request(webhook_url="http://hook", webhook_events=ALL_EVENTS))
        assert job.webhook_status == "pending"
        clock.pass_(1000)
        account.advance()
        *progress, completed = account.take_events()
        for event in progress:
            account.record_delivery(event, delivered=not delivered)
        assert now(account, job).webhook_status == "pending"
        account.record_delivery(completed, delivered=delivered)
        assert now(account, job).webhook_status == ("delivered" if delivered else "failed")

    def test_that_nobody_wants_leave_no_webhook_pending(self, account: Account, clock: Clock) -> None:
        job = account.submit(request(webhook_url="http://hook", webhook_events=frozenset({EventKind.FAILED})))
        assert job.webhook_status == "pending"
        assert account.submit(request()).webhook_status is None
        clock.pass_(100)
        assert now(account, job).webhook_status is None


def test_statuses_are_counted(account: Account, clock: Clock) -> None:
    for prompt in ("[[stall]]", "[[fail: x]]", "[[slow: 30]]", "[[slow: 2000]]", "x"):
        account.submit(request(prompt))
    clock.pass_(100)
    assert account.statuses() == {"QUEUED": 1, "PROCESSING": 1, "COMPLETED": 2, "FAILED": 1, "CANCELLED": 0}


def test_a_seed_makes_everything_the_same(open_account: Callable[..., Account]) -> None:
    def jobs(seed: int) -> list[Job]:
        account = open_account(seed, jitter=0.5)
        return [account.submit(request(prompt)) for prompt in ("a", "b [[slow: 3]]", "c")]

    assert jobs(7) == jobs(7)
    assert jobs(7) != jobs(8)
    assert len({job.id for job in jobs(7)}) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("credits", -1),
        ("render_seconds", -0.1),
        ("render_seconds", float("nan")),
        ("render_seconds", float("inf")),
        ("retention_seconds", -1),
        ("jitter", -0.1),
        ("jitter", 1.1),
        ("jitter", float("nan")),
    ],
)
def test_settings_have_a_range(open_account: Callable[..., Account], name: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"^{name} must be"):
        open_account(**{name: value})


def test_many_jobs_cost_a_page_nothing(open_account: Callable[..., Account], clock: Clock) -> None:
    account = open_account(credits=10**6)
    for _ in range(10_000):
        clock.pass_(0.001)
        account.submit(request())

    class Watched(list[Cursor]):
        reads = 0

        def __getitem__(self, index: Any) -> Any:
            Watched.reads += 1
            return super().__getitem__(index)

    account._cursors = Watched(account._cursors)
    middle = account._cursors[5000]
    Watched.reads = 0
    jobs, more = account.page(limit=100, before=middle)
    assert (len(jobs), more) == (100, True)
    assert Watched.reads <= 150
