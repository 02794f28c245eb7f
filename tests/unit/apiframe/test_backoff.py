from __future__ import annotations

from airflow_provider_hailuo.apiframe.backoff import backoff
from airflow_provider_hailuo.apiframe.errors import RateLimitError, ServerError


def test_the_wait_doubles_up_to_a_limit():
    error = ServerError("out of order")

    assert [backoff(n, error, draw=lambda: 1.0) for n in (1, 2, 3, 7, 8, 10**6)] == [0.5, 1.0, 2.0, 30.0, 30.0, 30.0]


def test_half_of_the_wait_is_left_to_chance():
    error = ServerError("out of order")

    assert backoff(3, error, draw=lambda: 0.0) == 1.0
    assert backoff(3, error, draw=lambda: 0.5) == 1.5


def test_the_wait_is_never_shorter_than_the_api_asks_for():
    assert backoff(1, RateLimitError("slow down", retry_after=7), draw=lambda: 0.0) == 7.25


def test_an_absurd_wish_is_capped():
    assert backoff(1, RateLimitError("slow down", retry_after=86400), draw=lambda: 0.0) == 120.25
