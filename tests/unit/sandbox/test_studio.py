from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from airflow_provider_hailuo.apiframe.models import JobStatus
from airflow_provider_hailuo.sandbox.studio import (
    EventKind,
    InsufficientCreditsError,
    Job,
    KeyConflictError,
    Order,
    Place,
    SettingError,
    Studio,
)

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
def open_studio(clock: Clock) -> Callable[..., Studio]:
    def open_studio(seed: int = 1, **settings: Any) -> Studio:
        defaults = {"credits": 1000, "render_seconds": 100, "jitter": 0, "retention_seconds": 86400}
        return Studio(rng=Random(seed), clock=clock, **{**defaults, **settings})

    return open_studio


@pytest.fixture
def studio(open_studio: Callable[..., Studio]) -> Studio:
    return open_studio()


def order(prompt: str = "a wave", **changes: Any) -> Order:
    fields = {
        "prompt": prompt,
        "model": "hailuo-02",
        "resolution": "768p",
        "duration": 6,
        "webhook_url": None,
        "webhook_events": frozenset({EventKind.COMPLETED, EventKind.FAILED}),
        "body": {"prompt": prompt},
    }
    return Order(**{**fields, **changes})


def now(studio: Studio, job: Job) -> Job:
    found = studio.job(job.id)
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
    def test_drives_a_job(self, studio: Studio, clock: Clock, seconds: float, status: str, progress: int) -> None:
        job = studio.submit(order())
        clock.pass_(seconds)
        job = now(studio, job)
        assert (job.status, job.progress(studio.now)) == (status, progress)

    def test_of_completion_is_when_it_was_due_not_when_someone_looked(self, studio: Studio, clock: Clock) -> None:
        job = studio.submit(order())
        clock.pass_(5000)
        assert now(studio, job).completed_at == job.created_at + 100_000

    def test_of_a_render_varies_by_the_jitter(self, open_studio: Callable[..., Studio]) -> None:
        studio = open_studio(jitter=0.2)
        lengths = [job.ends_at - job.created_at for job in (studio.submit(order()) for _ in range(200))]
        assert 80_000 <= min(lengths) < 84_000
        assert 116_000 < max(lengths) <= 120_000

    def test_does_not_go_back_when_the_clock_does(self, studio: Studio, clock: Clock) -> None:
        job = studio.submit(order())
        clock.pass_(55)
        assert now(studio, job).progress(studio.now) == 50
        clock.pass_(-60)
        assert now(studio, job).progress(studio.now) == 50
        assert studio.submit(order()).created_at == job.created_at + 55_000

    def test_zero_renders_at_once(self, open_studio: Callable[..., Studio]) -> None:
        studio = open_studio(render_seconds=0)
        job = studio.submit(order(webhook_url="http://x", webhook_events=ALL_EVENTS))
        assert job.status is JobStatus.QUEUED
        assert now(studio, job).status is JobStatus.COMPLETED
        stalled = studio.submit(order("[[stall]]"))
        assert now(studio, stalled).progress(studio.now) == 0

    def test_makes_videos_expire(self, open_studio: Callable[..., Studio], clock: Clock) -> None:
        studio = open_studio(retention_seconds=60)
        job = studio.submit(order())
        clock.pass_(159.9)
        assert not now(studio, job).expired
        assert studio.take_expired() == []
        clock.pass_(0.1)
        assert now(studio, job).expired
        assert now(studio, job).status is JobStatus.COMPLETED
        assert studio.take_expired() == [job.id]
        assert studio.take_expired() == []

    def test_leaves_failures_alone(self, open_studio: Callable[..., Studio], clock: Clock) -> None:
        studio = open_studio(retention_seconds=60)
        job = studio.submit(order("[[fail: x]]"))
        clock.pass_(1000)
        assert not now(studio, job).expired


class TestPrompt:
    def test_asks_for_a_failure(self, studio: Studio, clock: Clock) -> None:
        job = studio.submit(order("a duck [[fail: content policy]] on a lake"))
        clock.pass_(99)
        assert now(studio, job).status is JobStatus.PROCESSING
        clock.pass_(1)
        job = now(studio, job)
        assert (job.status, job.error, job.progress(studio.now)) == (JobStatus.FAILED, "content policy", 0)
        assert job.completed_at == job.created_at + 100_000

    def test_may_leave_the_reason_open(self, studio: Studio, clock: Clock) -> None:
        job = studio.submit(order("[[fail]]"))
        clock.pass_(100)
        assert now(studio, job).error == "Generation failed"

    def test_asks_for_a_stall(self, studio: Studio, clock: Clock) -> None:
        job = studio.submit(order("[[stall]]"))
        clock.pass_(30 * 24 * HOUR)
        job = now(studio, job)
        assert (job.status, job.progress(studio.now)) == (JobStatus.PROCESSING, 99)

    @pytest.mark.parametrize(
        ("command", "seconds"), [("[[slow: 300]]", 300), ("[[ slow :0.5 ]]", 0.5), ("[[slow:2]]", 2)]
    )
    def test_asks_for_a_render_time_without_jitter(
        self, open_studio: Callable[..., Studio], command: str, seconds: float
    ) -> None:
        job = open_studio(jitter=1).submit(order(command))
        assert job.ends_at - job.created_at == seconds * 1000

    def test_asks_for_a_slow_failure(self, studio: Studio, clock: Clock) -> None:
        job = studio.submit(order("[[slow: 300]] [[fail: no luck]]"))
        clock.pass_(299)
        assert now(studio, job).status is JobStatus.PROCESSING
        clock.pass_(1)
        assert now(studio, job).error == "no luck"

    @pytest.mark.parametrize(
        "prompt",
        [
            "[fail: x]",
            "[[slow: soon]]",
            "[[slow: -1]]",
            "[[slow: 9999999]]",
            "[[fails: x]]",
            "[[stall",
            "fail: x",
            "[[[]]]",
        ],
    )
    def test_without_a_command_is_only_a_prompt(self, studio: Studio, clock: Clock, prompt: str) -> None:
        job = studio.submit(order(prompt))
        clock.pass_(100)
        assert now(studio, job).status is JobStatus.COMPLETED

    def test_of_any_shape_is_read_quickly(self, studio: Studio) -> None:
        for prompt in ("[[fail:" + " " * 1993, "[[" * 1000, "[[stall" + " " * 1990, "[[slow:" + "1" * 1993):
            studio.submit(order(prompt))


class TestRelease:
    @pytest.mark.parametrize("seconds", [0, 10, 55, 5000])
    def test_completes_a_stalled_job_now_for_good(self, studio: Studio, clock: Clock, seconds: float) -> None:
        job = studio.submit(order("a wave [[stall]]"))
        clock.pass_(seconds)
        assert studio.release() == [job.id]
        ended = now(studio, job)
        assert (ended.status, ended.progress(studio.now)) == (JobStatus.COMPLETED, 100)
        assert ended.completed_at == clock()
        assert (ended.credit_cost, studio.credits_charged) == (5, 5)
        clock.pass_(5000)
        assert now(studio, job) == ended
        assert studio.statuses()[JobStatus.COMPLETED] == 1

    def test_is_once_and_of_what_stalls_by_then(self, studio: Studio, clock: Clock) -> None:
        usual = studio.submit(order())
        first = studio.submit(order("[[stall]]"), "key")
        assert studio.release() == [first.id]
        later = studio.submit(order("[[stall]]"))
        assert studio.submit(order("[[stall]]"), "key").status is JobStatus.COMPLETED
        assert now(studio, usual).status is JobStatus.QUEUED
        clock.pass_(30 * 24 * HOUR)
        assert now(studio, later).status is JobStatus.PROCESSING
        assert studio.release() == [later.id]
        assert studio.release() == []

    def test_can_be_of_some_words(self, studio: Studio, clock: Clock) -> None:
        wave, duck = (studio.submit(order(f"{words} [[stall]]")) for words in ("a wave", "a duck"))
        assert studio.release("A wave") == []
        assert studio.release("wave [[") == [wave.id]
        clock.pass_(50)
        assert now(studio, duck).progress(studio.now) == 44
        assert studio.release("a ") == [duck.id]

    def test_leaves_the_time_of_others_as_it_was(self, studio: Studio, clock: Clock) -> None:
        rng = Random(1)
        prompts = [f"[[slow: {rng.randrange(1000)}]]" + rng.choice(["", "[[stall]]"]) for _ in range(100)]
        jobs = [studio.submit(order(prompt)) for prompt in prompts]
        released = studio.release()
        others = [job for job in jobs if job.id not in released]
        assert 20 < len(others) < 80
        for _ in range(100):
            clock.pass_(10)
            done = [job for job in others if now(studio, job).status is JobStatus.COMPLETED]
            assert done == [job for job in others if job.ends_at <= studio.now]

    def test_is_told_to_webhooks_as_any_end(self, studio: Studio, clock: Clock) -> None:
        job = studio.submit(order("[[stall]]", webhook_url="http://hook", webhook_events=ALL_EVENTS))
        quiet = studio.submit(
            order("[[stall]]", webhook_url="http://hook", webhook_events=frozenset({EventKind.FAILED}))
        )
        clock.pass_(40)
        studio.release()
        events = studio.take_events()
        assert [(e.kind, e.job.id, e.job.progress(e.at)) for e in events] == [
            (EventKind.PROGRESS, job.id, 25),
            (EventKind.COMPLETED, job.id, 100),
        ]
        assert (now(studio, job).webhook_status, now(studio, quiet).webhook_status) == ("pending", None)
        clock.pass_(1000)
        studio.settle()
        assert studio.take_events() == []

    def test_starts_the_retention(self, open_studio: Callable[..., Studio], clock: Clock) -> None:
        studio = open_studio(retention_seconds=60)
        job = studio.submit(order("[[stall]]"))
        clock.pass_(1000)
        studio.release()
        clock.pass_(59.9)
        assert not now(studio, job).expired
        clock.pass_(0.1)
        assert now(studio, job).expired

    def test_lets_a_job_fail_whose_prompt_asks_for_that_too(self, studio: Studio) -> None:
        job = studio.submit(order("[[stall]] [[fail: no luck]]"))
        studio.release()
        assert (now(studio, job).status, now(studio, job).error) == (JobStatus.FAILED, "no luck")
        assert studio.credits_charged == 0


class TestCredits:
    @pytest.mark.parametrize(
        ("model", "resolution", "duration", "price"),
        [
            ("hailuo-02", "768p", 6, 5),
            ("hailuo-02", "768p", 10, 8),
            ("hailuo-02", "1080p", 6, 10),
            ("hailuo-2.3", "768p", 6, 5),
            ("hailuo-2.3", "768p", 10, 10),
            ("hailuo-2.3", "1080p", 6, 10),
            ("hailuo-2.3-fast", "768p", 10, 10),
            ("hailuo-03", "768p", 10, 10),
        ],
    )
    def test_are_charged_at_submission(
        self, studio: Studio, model: str, resolution: str, duration: int, price: int
    ) -> None:
        job = studio.submit(order(model=model, resolution=resolution, duration=duration))
        assert job.credit_cost == price
        assert (studio.credits, studio.credits_charged) == (1000 - price, price)

    def test_come_back_when_a_job_fails(self, studio: Studio, clock: Clock) -> None:
        job = studio.submit(order("[[fail: x]]"))
        studio.submit(order())
        assert studio.credits == 990
        clock.pass_(100)
        assert now(studio, job).credit_cost == 0
        assert (studio.credits, studio.credits_charged) == (995, 5)

    def test_that_come_back_can_be_spent(self, open_studio: Callable[..., Studio], clock: Clock) -> None:
        studio = open_studio(credits=5)
        studio.submit(order("[[fail: x]]"))
        with pytest.raises(InsufficientCreditsError):
            studio.submit(order())
        clock.pass_(100)
        studio.submit(order())

    def test_may_be_spent_to_the_last(self, open_studio: Callable[..., Studio]) -> None:
        studio = open_studio(credits=10)
        studio.submit(order(resolution="1080p"))
        with pytest.raises(InsufficientCreditsError) as caught:
            studio.submit(order(duration=10), "key")
        assert (caught.value.required, caught.value.available) == (8, 0)
        assert studio.statuses()[JobStatus.QUEUED] == 1


class TestIdempotencyKey:
    def test_brings_the_original_job_as_it_is_now(self, studio: Studio, clock: Clock) -> None:
        job = studio.submit(order(), "key")
        clock.pass_(50)
        again = studio.submit(order(), "key")
        assert (again.id, again.status) == (job.id, JobStatus.PROCESSING)
        assert studio.credits == 995
        assert sum(studio.statuses().values()) == 1

    def test_conflicts_with_another_request(self, studio: Studio) -> None:
        studio.submit(order(), "key")
        with pytest.raises(KeyConflictError):
            studio.submit(order("another"), "key")
        assert studio.credits == 995

    def test_of_another_name_is_another_job(self, studio: Studio) -> None:
        assert studio.submit(order(), "one").id != studio.submit(order(), "two").id

    def test_is_needed_to_get_the_original(self, studio: Studio) -> None:
        assert studio.submit(order()).id != studio.submit(order()).id

    def test_is_remembered_for_24_hours(self, studio: Studio, clock: Clock) -> None:
        job = studio.submit(order(), "key")
        clock.pass_(24 * HOUR - 0.001)
        assert studio.submit(order(), "key").id == job.id
        clock.pass_(0.001)
        new = studio.submit(order("another"), "key")
        assert new.id != job.id
        clock.pass_(23 * HOUR)
        assert studio.submit(order("another"), "key").id == new.id

    def test_of_a_failed_job_brings_the_failure(self, studio: Studio, clock: Clock) -> None:
        studio.submit(order("[[fail: x]]"), "key")
        clock.pass_(100)
        assert studio.submit(order("[[fail: x]]"), "key").status is JobStatus.FAILED

    def test_is_not_remembered_when_nothing_was_made(self, open_studio: Callable[..., Studio], clock: Clock) -> None:
        studio = open_studio(credits=5)
        studio.submit(order("[[fail: x]]"))
        with pytest.raises(InsufficientCreditsError):
            studio.submit(order("one"), "key")
        clock.pass_(100)
        studio.submit(order("two"), "key")


def walk(studio: Studio, limit: int, meanwhile: Callable[[], None] = lambda: None, **filters: Any) -> list[str]:
    ids: list[str] = []
    before: Place | None = None
    more = True
    while more:
        jobs, more = studio.page(limit=limit, before=before, **filters)
        assert len(jobs) == limit or not more
        ids += [job.id for job in jobs]
        before = jobs[-1].place if jobs else None
        meanwhile()
    return ids


class TestPages:
    @pytest.mark.parametrize("pause", [0.0, 0.001, 1.0])
    def test_hold_every_job_once_newest_first(self, studio: Studio, clock: Clock, pause: float) -> None:
        places = []
        for _ in range(150):
            places.append(studio.submit(order()).place)
            clock.pass_(pause)
        assert walk(studio, 20) == [place.id for place in sorted(places, reverse=True)]

    @pytest.mark.parametrize("pause", [0.0, 1.0])
    def test_stay_right_when_new_jobs_arrive(
        self, open_studio: Callable[..., Studio], clock: Clock, pause: float
    ) -> None:
        studio = open_studio(credits=10_000)
        old = {studio.submit(order()).id for _ in range(100)}

        def submit_some() -> None:
            clock.pass_(pause)
            for _ in range(5):
                studio.submit(order())

        met = walk(studio, 10, submit_some)
        assert old <= set(met)
        assert len(met) == len(set(met))

    def test_tell_whether_there_are_more(self, studio: Studio) -> None:
        assert studio.page(limit=2) == ([], False)
        for _ in range(2):
            studio.submit(order())
        assert studio.page(limit=2)[1] is False
        assert studio.page(limit=1)[1] is True

    def test_can_be_of_one_status_or_model(self, studio: Studio, clock: Clock) -> None:
        failed = studio.submit(order("[[fail: x]]"))
        done = studio.submit(order())
        clock.pass_(100)
        other = studio.submit(order(model="hailuo-03"))
        assert walk(studio, 1, status=JobStatus.FAILED) == [failed.id]
        assert walk(studio, 1, status=JobStatus.CANCELLED) == []
        assert walk(studio, 1, model="hailuo-03") == [other.id]
        assert walk(studio, 5, model="hailuo-02", status=JobStatus.COMPLETED) == [done.id]

    def test_can_be_of_one_job(self, studio: Studio) -> None:
        job = studio.submit(order())
        studio.submit(order())
        assert walk(studio, 1, search=job.id) == [job.id]
        assert walk(studio, 1, search=job.id, model="hailuo-03") == []
        assert walk(studio, 1, search="00000000-0000-0000-0000-000000000000") == []


class TestEvents:
    def test_come_in_order_with_the_job_as_it_was(self, studio: Studio, clock: Clock) -> None:
        job = studio.submit(order(webhook_url="http://hook", webhook_events=ALL_EVENTS))
        clock.pass_(1000)
        studio.settle()
        events = studio.take_events()
        assert [(e.kind.value, e.job.status, e.job.progress(e.at), e.url) for e in events] == [
            ("progress", "PROCESSING", 25, "http://hook"),
            ("progress", "PROCESSING", 50, "http://hook"),
            ("progress", "PROCESSING", 75, "http://hook"),
            ("completed", "COMPLETED", 100, "http://hook"),
        ]
        assert {e.job.id for e in events} == {job.id}
        assert studio.take_events() == []

    @pytest.mark.parametrize("seconds", [0.001, 0.007, 0.333, 7.777])
    def test_of_progress_never_tell_less_than_was_reached(
        self, open_studio: Callable[..., Studio], clock: Clock, seconds: float
    ) -> None:
        studio = open_studio(render_seconds=seconds)
        studio.submit(order(webhook_url="http://hook", webhook_events=frozenset({EventKind.PROGRESS})))
        clock.pass_(seconds)
        studio.settle()
        told = [e.job.progress(e.at) for e in studio.take_events()]
        assert all(t >= reached for t, reached in zip(told, (25, 50, 75), strict=True))

    def test_come_only_when_asked_for(self, studio: Studio, clock: Clock) -> None:
        studio.submit(order())
        studio.submit(order(webhook_url="http://hook", webhook_events=frozenset({EventKind.FAILED})))
        studio.submit(order("[[fail: x]]", webhook_url="http://hook", webhook_events=frozenset({EventKind.FAILED})))
        clock.pass_(1000)
        studio.settle()
        assert [(e.kind, e.job.error) for e in studio.take_events()] == [(EventKind.FAILED, "x")]

    @pytest.mark.parametrize("delivered", [True, False])
    def test_of_the_end_settle_the_webhook_status(self, studio: Studio, clock: Clock, delivered: bool) -> None:
        job = studio.submit(order(webhook_url="http://hook", webhook_events=ALL_EVENTS))
        assert job.webhook_status == "pending"
        clock.pass_(1000)
        studio.settle()
        *progress, completed = studio.take_events()
        for event in progress:
            studio.record_delivery(event, delivered=not delivered)
        assert now(studio, job).webhook_status == "pending"
        studio.record_delivery(completed, delivered=delivered)
        assert now(studio, job).webhook_status == ("delivered" if delivered else "failed")

    def test_that_nobody_wants_leave_no_webhook_pending(self, studio: Studio, clock: Clock) -> None:
        job = studio.submit(order(webhook_url="http://hook", webhook_events=frozenset({EventKind.FAILED})))
        assert job.webhook_status == "pending"
        assert studio.submit(order()).webhook_status is None
        clock.pass_(100)
        assert now(studio, job).webhook_status is None


def test_models_are_told_once_each(studio: Studio) -> None:
    assert studio.models() == []
    for model in ("hailuo-2.3", "hailuo-02", "hailuo-2.3"):
        studio.submit(order(model=model))
    assert studio.models() == ["hailuo-02", "hailuo-2.3"]


def test_statuses_are_counted(studio: Studio, clock: Clock) -> None:
    for prompt in ("[[stall]]", "[[fail: x]]", "[[slow: 30]]", "[[slow: 1000]]", "x"):
        studio.submit(order(prompt))
    clock.pass_(50)
    assert studio.statuses() == {"QUEUED": 1, "PROCESSING": 3, "COMPLETED": 1, "FAILED": 0, "CANCELLED": 0}
    clock.pass_(50)
    assert studio.statuses() == {"QUEUED": 0, "PROCESSING": 2, "COMPLETED": 2, "FAILED": 1, "CANCELLED": 0}


def test_a_seed_makes_everything_the_same(open_studio: Callable[..., Studio]) -> None:
    def jobs(seed: int) -> list[Job]:
        studio = open_studio(seed, jitter=0.5)
        return [studio.submit(order(prompt)) for prompt in ("a", "b [[slow: 3]]", "c")]

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
def test_settings_have_a_range(open_studio: Callable[..., Studio], name: str, value: float) -> None:
    with pytest.raises(SettingError, match=name) as caught:
        open_studio(**{name: value})
    assert caught.value.name == name


def test_many_jobs_cost_a_page_nothing(open_studio: Callable[..., Studio], clock: Clock) -> None:
    studio = open_studio(credits=10**6)
    for _ in range(10_000):
        clock.pass_(0.001)
        studio.submit(order())

    class Watched(list[Place]):
        reads = 0

        def __getitem__(self, index: Any) -> Any:
            Watched.reads += 1
            return super().__getitem__(index)

    studio._places = Watched(studio._places)
    middle = studio._places[5000]
    Watched.reads = 0
    jobs, more = studio.page(limit=100, before=middle)
    assert (len(jobs), more) == (100, True)
    assert Watched.reads <= 150
