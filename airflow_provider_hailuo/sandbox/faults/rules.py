"""What is to go wrong, for which requests and when: rules, and how often each has struck. No I/O.

Rules are a JSON list. A request meets them in their order, and the first that strikes decides what becomes of it;
those that follow do not see that request.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from reprlib import repr as shortened
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from airflow_provider_hailuo.sandbox.errors import SettingError

_ListRoute = Literal["GET /v2/jobs"]
_JobRoute = Literal["GET /v2/jobs/{id}", _ListRoute]
_GenerateRoute = Literal["POST /v2/videos/generate"]
_ApiRoute = Literal[_JobRoute, _GenerateRoute, "GET /v2/me", "POST /v2/uploads"]
_AnyRoute = Literal[_ApiRoute, "GET /videos/{id}.mp4", "GET /uploads/{id}"]

JOB_ROUTES: Final = frozenset(get_args(_JobRoute))
"""The routes that answer with jobs."""

_API_ROUTES: Final = frozenset(get_args(_ApiRoute))

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Rule(BaseModel):
    """A fault, and when it strikes.

    :param fault: its kind.
    :param route: requests for this one only, named as in the statistics: `POST /v2/videos/generate`. Default: for all
        that the fault can strike, except files.
    :param skip: how many of them it lets pass first, default 0.
    :param times: how often it strikes at most, default without limit.
    :param seconds: how long it goes on after it has struck first, default without limit.
    :param probability: that it strikes, each time, 0 to 1, default 1.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, alias_generator=to_camel)

    fault: str
    route: _AnyRoute | None = None
    skip: Annotated[int, Field(ge=0)] = 0
    times: Annotated[int, Field(ge=1)] | None = None
    seconds: _Seconds | None = None
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0

    def covers(self, route: str) -> bool:
        """Tell whether the rule is about requests for a route.

        :param route: the route, named as in the statistics.
        :return: whether it is.
        """
        return route in _API_ROUTES if self.route is None else route == self.route


class ErrorRule(_Rule):
    """The answer is an error, or any other that the API does not give of itself.

    :param fault: `error`.
    :param status: 300 to 599.
    :param retry_after: the header `Retry-After`, in seconds up to 10**9 (31 years), default none.
    :param http_date: whether that header tells it as a date, default false: as a number.
    :param html: whether the body is a page, as from a proxy, default false: the API's envelope.
    :param after: whether the request is carried out all the same, default false.
    """

    fault: Literal["error"]
    status: Annotated[int, Field(ge=300, le=599)]
    retry_after: Annotated[int, Field(ge=0, le=10**9)] | None = None
    http_date: bool = False
    html: bool = False
    after: bool = False

    @model_validator(mode="after")
    def _has_a_date(self) -> ErrorRule:
        if self.http_date and self.retry_after is None:
            raise PydanticCustomError("http_date", "httpDate needs retryAfter")
        return self


class ResetRule(_Rule):
    """The connection is reset.

    :param fault: `reset`.
    :param after: whether the request is carried out first, default false.
    """

    fault: Literal["reset"]
    after: bool = False


class DelayRule(_Rule):
    """What is sent comes late.

    :param fault: `slow`, the whole answer; `drip`, each byte of its body.
    :param delay: by how many seconds.
    """

    fault: Literal["slow", "drip"]
    delay: _Seconds


class StallRule(_Rule):
    """Half of the body comes, then nothing, for as long as the client waits.

    :param fault: `stalled`.
    """

    fault: Literal["stalled"]


class BodyRule(_Rule):
    """The body of the answer is not what it should be.

    :param fault: `truncated`: half of it is all there is, and the answer is complete; `empty`: there is none;
        `not-json`: it is a page, with the status 200.
    """

    fault: Literal["truncated", "empty", "not-json"]


class TypesRule(_Rule):
    """Each field of the answer has the wrong type: text is a number, and everything else is text.

    :param fault: `wrong-types`.
    :param route: as of any rule, but files have no fields.
    """

    fault: Literal["wrong-types"]
    route: _ApiRoute | None = None


class JobRule(_Rule):
    """The jobs in the answer are not what they are; it strikes only where it finds one that it can change.

    :param fault: `vanished`: they are gone; `unknown-status`: their status is one that nobody has documented;
        `no-url`: they have no video, though they are COMPLETED; `expired`: their file has been purged, it says,
        though they are just COMPLETED.
    :param route: as of any rule, but only those that answer with jobs.
    """

    fault: Literal["vanished", "unknown-status", "no-url", "expired"]
    route: _JobRoute | None = None


class LateUrlRule(_Rule):
    """The jobs in the answer are COMPLETED some time before their video can be told.

    :param fault: `late-url`.
    :param route: as of any rule, but only those that answer with jobs.
    :param delay: how many seconds, default 5.
    """

    fault: Literal["late-url"]
    route: _JobRoute | None = None
    delay: _Seconds = 5.0


class SummaryRule(_Rule):
    """The jobs in a list come without `result`; singly they are complete.

    :param fault: `summary-list`.
    :param route: the list.
    """

    fault: Literal["summary-list"]
    route: _ListRoute = "GET /v2/jobs"


class OtherCaseRule(_Rule):
    """The jobs in the answer are told as other servers would: `completed`, `Processing`, blanks around the URL.

    :param fault: `other-case`.
    :param route: as of any rule, but only those that answer with jobs.
    :param shape: the name that the URL goes by, default `video_url`; under `output` it is the only one of a list.
    """

    fault: Literal["other-case"]
    route: _JobRoute | None = None
    shape: Literal["video_url", "url", "output"] = "video_url"


class InProgressRule(_Rule):
    """A submission with an idempotency key is carried out, yet told that one with that key still is going on.

    :param fault: `in-progress`.
    :param route: the submission.
    """

    fault: Literal["in-progress"]
    route: _GenerateRoute = "POST /v2/videos/generate"


AlteredJobsRule = JobRule | LateUrlRule | SummaryRule | OtherCaseRule
"""The jobs in the answer are told in another way; it strikes only where that makes a difference."""

Rule = ErrorRule | ResetRule | DelayRule | StallRule | BodyRule | TypesRule | AlteredJobsRule | InProgressRule

_RULES: Final = TypeAdapter(list[Annotated[Rule, Field(discriminator="fault")]])


def parse_rules(value: Any) -> list[Rule]:
    """Read rules.

    :param value: a decoded JSON list.
    :return: the rules.
    :raises SettingError: about the first that is wrong.
    """
    try:
        return _RULES.validate_python(value)
    except ValidationError as error:
        mistake = error.errors(include_url=False, include_context=False)[0]
        # The number of the rule, its kind of fault, which is no level of the JSON, and the field; or less of that.
        number, _, field = (*mistake["loc"], None, None, None)[:3]
        path = "" if number is None else f"[{number}]: " if field is None else f"[{number}].{field}: "
        complaint = mistake["msg"].replace("Input should", "must")
        raise SettingError("faults", f"{path}{complaint} (given: {shortened(mistake['input'])})") from None


@dataclass
class _ActiveRule:
    """A rule in force: `passed` and `struck` count requests, `since` (seconds) is when it struck first."""

    rule: Rule
    passed: int = 0
    struck: int = 0
    since: float = 0.0

    def strikes(self, now: float, rng: Random) -> bool:
        """Tell whether the rule strikes the next request that it is about, and count it."""
        rule = self.rule
        if self.struck == rule.times or (self.struck and rule.seconds and now >= self.since + rule.seconds):
            return False
        if self.passed < rule.skip:
            self.passed += 1
            return False
        if rng.random() >= rule.probability:
            return False
        if not self.struck:
            self.since = now
        self.struck += 1
        return True


class Faults:
    """The rules in force.

    `struck` counts the faults by their kind, also those of former rules.

    :param rng: draws where a rule has a probability.
    :param clock: returns seconds since any moment, default the monotonic clock.
    """

    def __init__(self, *, rng: Random, clock: Callable[[], float] = time.monotonic) -> None:
        self._rng = rng
        self._clock = clock
        self._active: list[_ActiveRule] = []
        self.struck: Counter[str] = Counter()

    def set(self, rules: Sequence[Rule]) -> None:
        """Replace the rules in force; any thread may do so.

        :param rules: the new ones, none for no faults.
        """
        self._active = [_ActiveRule(rule) for rule in rules]

    def choose(self, route: str, applies: Callable[[Rule], bool]) -> Rule | None:
        """Choose the rule that strikes a request, and count it.

        :param route: what the request is for.
        :param applies: whether a rule could change anything about it; one that could not does not see the request.
        :return: the rule; None when none strikes.
        """
        for active in self._active:
            rule = active.rule
            if rule.covers(route) and applies(rule) and active.strikes(self._clock(), self._rng):
                self.struck[rule.fault] += 1
                return rule
        return None

    def report(self) -> list[dict[str, Any]]:
        """Tell the rules in force.

        :return: the rules as they were given, each with how often it has `struck`.
        """
        return [
            {**active.rule.model_dump(by_alias=True, exclude_unset=True), "struck": active.struck}
            for active in self._active
        ]
