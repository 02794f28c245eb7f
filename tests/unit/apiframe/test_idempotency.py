from __future__ import annotations

import itertools
import os
import subprocess
import sys

from airflow_provider_hailuo.apiframe.calls import generate_video
from airflow_provider_hailuo.apiframe.idempotency import derive_key, nth_key
from airflow_provider_hailuo.apiframe.models import VideoRequest

REQUEST = VideoRequest(prompt="ein Sonnenaufgang über 서울")
IDENTITY = ("hailuo_default", "dag", "run", "task", "-1", 0)


def test_the_key_is_the_same_for_ever():
    digest = "02ab75cb4eb0272fa0ae01cb3fe824fede7f6fdc452eb7d34c40461e1c98dac2"

    assert derive_key("dag/task", IDENTITY, REQUEST) == f"dag/task/{digest}"


def test_the_key_is_the_same_in_each_process_even_of_a_set_of_events():
    program = (
        "from airflow_provider_hailuo.apiframe.idempotency import derive_key;"
        "from airflow_provider_hailuo.apiframe.models import VideoRequest;"
        "events = {'progress', 'completed', 'failed'};"
        f"request = VideoRequest(prompt={REQUEST.prompt!r}, webhook_events=events);"
        f"print(*events, derive_key('dag/task', {IDENTITY!r}, request))"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2", "3")
    ]

    assert len({tuple(events) for *events, _ in told}) > 1
    assert len({key for *_, key in told}) == 1


def test_whatever_differs_gives_another_key():
    identities = [(*IDENTITY[:n], f"{IDENTITY[n]}'", *IDENTITY[n + 1 :]) for n in range(len(IDENTITY))]
    keys = [derive_key("dag/task", identity, REQUEST) for identity in (IDENTITY, *identities)]
    changes = [{"duration": 6}, {"duration": 10}, {"prompt": "x"}]
    keys += [derive_key("dag/task", IDENTITY, REQUEST.model_copy(update=change)) for change in changes]

    assert len(set(keys)) == len(keys)


def test_parts_cannot_run_into_each_other():
    alike = [("a", "b", "c"), ("a_b", "c"), ("a", "b_c"), ("a\0b", "c"), ("a", "b\0c"), ('a", "b', "c"), ("a b c",)]

    assert all(derive_key("", a, REQUEST) != derive_key("", b, REQUEST) for a, b in itertools.combinations(alike, 2))


def test_the_api_takes_every_key_of_the_sequence():
    key = derive_key("dag é\r\n/" * 100, ("x" * 1000,), REQUEST)

    assert len({nth_key(key, n) for n in range(1, 100)}) == 99
    assert generate_video(REQUEST, nth_key(key, 10_000)).idempotency_key == f"{key}/10000"


def test_the_sequence_begins_with_the_key_itself():
    assert [nth_key("k", n) for n in (1, 2, 3)] == ["k", "k/2", "k/3"]


def test_the_longest_key_leaves_room_for_the_next_ones():
    keys = {nth_key("k" * 255, n) for n in range(1, 30)}

    assert len(keys) == 29
    assert max(map(len, keys)) == 255
