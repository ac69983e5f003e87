"""The report of `sluiced tune` in a browser: read by day and by night, and asking nobody."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from browser.chromium import Chromium
from browser.test_page import COLOURS, contrast
from sluiced.config import Config
from sluiced.tools.tune import Options, Tuned
from sluiced.tools.tune.advice import advise
from sluiced.tools.tune.page import save
from sluiced.tools.tune.point import Point
from sluiced.units import decode

pytestmark = pytest.mark.anyio

CONFIG = {
    "name": "pages",
    "kafka": {"bootstrap_servers": ["127.0.0.1:1"], "group_id": "g", "topics": ["pages"]},
    "sink": {"type": "http", "url": "http://127.0.0.1:1/bulk", "idempotency_header": "Key"},
    "dead_letter": {"topic": "pages.dead"},
    "limits": {"records_per_minute": 300_000},
}


def report(path: Path) -> Path:
    """Of a run with an edge, a limit, and a setting that the limit left no time for."""
    config = msgspec.convert(CONFIG, Config, strict=True, dec_hook=decode)
    points = [
        Point(
            size, level, size * 40, 4 / level, [0.1 * level] * 40, memory=size * 300, peak=8 * 10**7
        )
        for level in (1, 2, 4)
        for size in (1, 10, 100, 500)
    ]
    points += [
        Point(500, 8, 500 * 20, 2.0, [0.2] * 20, limit="records_per_minute", ceiling=5000.0),
        Point(1000, 1, latencies=[0.01], errors={"too large 413": 1}, stopped="too large"),
        Point(900, 8, stopped="minutes", limit="records_per_minute", needed=600.0),
    ]
    save(path, Tuned(config, Options(), {}, points, advise(config, points), seconds=65.0))
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everything_on_the_report_can_be_read(
    scheme: str, chromium: Chromium, tmp_path: Path
) -> None:
    where = report(tmp_path / "tune.html").as_uri()
    async with chromium.open(where) as page:
        await page.prefers(color_scheme=scheme)
        await page.until("document.querySelectorAll('svg').length >= 6")
        found = await page.value(COLOURS)
        assert len(found) > 100
        weak = [each for each in found if contrast(each[1], each[2]) < 4.5]
        assert weak == []
        grounds = {ground for _, _, ground in found}
        dark = [contrast(ground, "rgb(0, 0, 0)") < 3 for ground in grounds]
        assert all(dark) if scheme == "dark" else not any(dark)
        assert page.requests == [where]
        assert page.complaints == []


@pytest.mark.parametrize("width", [1400, 390])
async def test_no_label_of_a_plot_runs_out_of_it_and_the_page_does_not_scroll_sideways(
    width: int, chromium: Chromium, tmp_path: Path
) -> None:
    async with chromium.open(report(tmp_path / "tune.html").as_uri()) as page:
        await page.size(width)
        await page.until("document.querySelectorAll('svg').length >= 6")
        assert await page.value("document.documentElement.scrollWidth") <= width
        outside = """[...document.querySelectorAll("svg text")].filter((text) => {
            const own = text.getBoundingClientRect(),
              all = text.closest("svg").getBoundingClientRect();
            return own.left < all.left || own.right > all.right || own.bottom > all.bottom ||
              own.top < all.top;
        }).map((text) => text.textContent)"""
        assert await page.value(outside) == []
