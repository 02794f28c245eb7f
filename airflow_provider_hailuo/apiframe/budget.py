"""Whether videos may be paid for: known prices against a cap and a balance. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from airflow_provider_hailuo.apiframe.errors import InsufficientCreditsError, InvalidInputError
from airflow_provider_hailuo.apiframe.models import DEFAULT_DURATION, DEFAULT_RESOLUTION, VideoRequest

PRICES: Final[Mapping[tuple[str, str, int], int]] = {
    ("hailuo-02", "768p", 6): 5,
    ("hailuo-02", "768p", 10): 8,
    ("hailuo-02", "1080p", 6): 10,
    ("hailuo-2.3", "768p", 6): 5,
    ("hailuo-2.3", "768p", 10): 10,
    ("hailuo-2.3", "1080p", 6): 10,
}
"""Credits by model, resolution and seconds, as far as they are known (Apiframe, prices of Hailuo, November 2026)."""


def price(request: VideoRequest) -> int | None:
    """Return what the video of a request costs.

    :param request: the request.
    :return: credits; None if no price is known of its model.
    """
    return PRICES.get((request.model, request.resolution or DEFAULT_RESOLUTION, request.duration or DEFAULT_DURATION))


def check_max_credits(max_credits: object) -> None:
    """Check a cap as a user gives it.

    :param max_credits: a number of credits above 0, or None for no cap.
    :raises InvalidInputError: it is something else.
    """
    is_number = isinstance(max_credits, int | float) and not isinstance(max_credits, bool)
    if max_credits is not None and not (is_number and max_credits > 0):  # type: ignore[operator]
        raise InvalidInputError.of(("max_credits", max_credits, "must be a number of credits above 0"))


def check_budget(requests: Sequence[VideoRequest], max_credits: float, balance: float | None) -> None:
    """Check that videos cost no more than is allowed and there.

    :param requests: what is going to be submitted.
    :param max_credits: the cap on their sum, in credits.
    :param balance: the credits of the account; None if the API does not tell.
    :raises InvalidInputError: they cost more than the cap, or the price of one is not known.
    :raises InsufficientCreditsError: they cost more than the account has.
    """
    total = 0
    for request in requests:
        cost = price(request)
        if cost is None:
            problem = f"no price is known of {request.model}: leave max_credits out, or take another model"
            raise InvalidInputError.of(("max_credits", max_credits, problem))
        total += cost
    there = "an unknown number of" if balance is None else f"{balance:g}"
    many = "1 video costs" if len(requests) == 1 else f"{len(requests)} videos cost"
    told = f"{many} {total} credits, and the account has {there} credits"
    if total > max_credits:
        raise InvalidInputError.of(("max_credits", max_credits, told))
    if balance is not None and total > balance:
        raise InsufficientCreditsError(f"max_credits: {max_credits:g}: {told}", required=total, available=balance)
