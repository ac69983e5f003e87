"""The short version of `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak.run import MARGIN, soak

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]


async def test_an_api_that_stalls_and_fails_never_costs_more_than_the_budget_and_its_margin(
    tmp_path: Path,
) -> None:
    memory = 32 * 1024**2
    found = await soak(
        tmp_path, "zstd, a window each", memory, 170 * 10**6, patience=0.05, stalled=True
    )
    print(found)
    assert found.sound, found
    assert found.peak < memory + MARGIN, found


async def test_several_answers_as_large_as_allowed_cost_no_more_either(
    tmp_path: Path,
) -> None:
    memory = 32 * 1024**2
    found = await soak(tmp_path, "answers at the cap", memory, 30 * 10**6, patience=0.02)
    print(found)
    assert found.sound, found
    assert found.peak < memory + MARGIN, found
