"""Small batches of `make chaos`: whatever is broken, no video is lost and none is paid twice."""

from __future__ import annotations

from collections.abc import Iterator

import chaos
import pytest

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stage() -> Iterator[chaos.Chaos]:
    """Return an Airflow and a sandbox to break."""
    with chaos.stage(quick=True) as stage:
        yield stage


@pytest.mark.parametrize("scenario", [s for s in chaos.SCENARIOS if s.quick], ids=lambda s: s.name)
def test_no_video_is_lost_and_none_is_paid_twice(stage: chaos.Chaos, scenario: chaos.Scenario):
    seen = scenario.play(stage, scenario.quick)

    assert seen.right, seen
