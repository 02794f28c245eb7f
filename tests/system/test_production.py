"""A few videos on an Airflow as teams have it, while Celery workers die: `make chaos PRODUCTION=1` has the rest."""

from __future__ import annotations

import os

import chaos
import pytest
from production import missing_programs

pytestmark = pytest.mark.system


def test_no_video_is_lost_when_celery_workers_die():
    if missing := missing_programs():
        (pytest.fail if os.environ.get("REQUIRE_PRODUCTION") == "1" else pytest.skip)(missing)
    (scenario,) = (scenario for scenario in chaos.PRODUCTION_SCENARIOS if scenario.quick)
    with chaos.stage(quick=True, production=True) as stage:
        seen = scenario.play(stage, scenario.quick)

    assert seen.right, seen
