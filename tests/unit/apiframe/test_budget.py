from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_hailuo.apiframe.budget import check_budget, check_max_credits, price
from airflow_provider_hailuo.apiframe.errors import InsufficientCreditsError, InvalidInputError
from airflow_provider_hailuo.apiframe.models import VideoRequest


def request(**fields: Any) -> VideoRequest:
    return VideoRequest(**{"prompt": "a sunrise", **fields})


# The sandbox charges the same: tests/contract/test_sandbox.py.
@pytest.mark.parametrize(
    ("fields", "costs"),
    [
        ({}, 5),
        ({"duration": 10}, 8),
        ({"resolution": "1080p"}, 10),
        ({"resolution": "1080p", "duration": 6}, 10),
        ({"model": "hailuo-2.3"}, 5),
        ({"model": "hailuo-2.3", "duration": 10}, 10),
        ({"model": "hailuo-2.3", "resolution": "1080p"}, 10),
        ({"model": "hailuo-03"}, None),
    ],
    ids=str,
)
def test_the_known_prices(fields: dict[str, Any], costs: int | None):
    assert price(request(**fields)) == costs


def test_what_is_within_cap_and_balance_passes():
    check_budget([request(), request(duration=10)], 13, 13)
    check_budget([request()], 5.0, None)
    check_budget([], 1, 0)


@pytest.mark.parametrize(
    ("balance", "told"), [(100, "has 100 credits"), (None, "has an unknown number of credits"), (3, "has 3 credits")]
)
def test_more_than_the_cap_is_refused_with_all_numbers(balance: float | None, told: str):
    with pytest.raises(InvalidInputError, match=rf"max_credits: 12: 2 videos cost 13 credits, .* {told}"):
        check_budget([request(), request(duration=10)], 12, balance)


def test_more_than_the_balance_is_refused_with_all_numbers():
    with pytest.raises(InsufficientCreditsError, match=r"50: 1 video costs 8 credits, .* has 7\.5") as error:
        check_budget([request(duration=10)], 50, 7.5)

    assert (error.value.required, error.value.available) == (8, 7.5)


def test_an_unknown_price_is_no_price_within_a_cap():
    with pytest.raises(InvalidInputError, match=r"no price is known of hailuo-2\.3-fast"):
        check_budget([request(), request(model="hailuo-2.3-fast")], 1000, 1000)


@pytest.mark.parametrize("cap", [0, -1, "5", True, float("nan"), []], ids=str)
def test_what_is_no_cap_is_refused(cap: object):
    with pytest.raises(InvalidInputError, match=r"max_credits: .*: must be a number of credits above 0"):
        check_max_credits(cap)


@pytest.mark.parametrize("cap", [None, 1, 0.5])
def test_what_is_a_cap_is_taken(cap: object):
    check_max_credits(cap)
