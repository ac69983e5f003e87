"""The page for whatever the daemon says: what is shown, to whom, and what is never done."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from browser.chromium import Chromium, Page
from browser.made_up import Shown, ago, error, job, jobs, partition, status
from harness.daemon import until

# A browser may connect in the very moment in which the server closes, and asyncio leaves such a
# connection to the garbage collector, which then complains.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <(function _SelectorTransport|socket.socket)"
        ":pytest.PytestUnraisableExceptionWarning"
    ),
]

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>alert(1)</script>"
STATES = ["starting", "running", "waiting", "outage", "halted", "draining"]

# Every element that has text of its own, with its colour and the first ground behind it.
COLOURS = """
[...document.querySelectorAll("body *")].filter((element) =>
  element.getClientRects().length && element.closest(".skip, noscript, title") === null &&
  [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim())
).map((element) => {
  const own = getComputedStyle(element), drawn = element instanceof SVGElement;
  let ground = element;
  while (ground && getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)")
    ground = ground.parentElement;
  return [element.textContent.trim().slice(0, 40), drawn ? own.fill : own.color,
    getComputedStyle(ground ?? document.body).backgroundColor];
})
"""


@pytest.fixture
async def shown() -> AsyncIterator[Shown]:
    shown = Shown()
    async with shown.admin:
        yield shown


@pytest.fixture
async def page(chromium: Chromium, shown: Shown) -> AsyncIterator[Page]:
    """At what `shown` says, and drawn."""
    async with chromium.open(shown.url) as page:
        await page.shows("#version", "1.2.3")
        yield page


def contrast(one: str, other: str) -> float:
    """As the WCAG has it: 1 for the same colour, 21 for black on white."""

    def luminance(colour: str) -> float:
        parts = [int(n) / 255 for n in re.findall(r"\d+", colour)[:3]]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


async def test_everything_that_the_daemon_says_can_be_read(page: Page) -> None:
    await page.shows("#state", "Running")
    assert await page.text("#lag") == "2,800"
    assert await page.text("#delay") == "2.5 s"
    gate = await page.text("#gate")
    for text in ("312", "of 500", "1.0 MiB", "of 4.0 MiB", "1.5 s", "of 2.0 s", "1 of 4 in flight"):
        assert text in gate
    for text in ("211 records, 800 ms, try 3", "open, 2 batches waiting", "1.20 M", "17"):
        assert text in gate
    assert "4 planned batches of the run before" in await page.text("#recovering")
    batches = await page.text("#batches")
    assert "500 293 KiB 400 ms count delivered 2 2.5 s" in batches
    assert "size rejected" in batches
    assert "pages/7 700" in await page.text("#partitions")
    errors = await page.text("#errors")
    assert "The API did not answer in time" in errors
    assert "no answer within 30 s" in errors
    assert "7 times in a row" in errors
    assert "Memory 38.4 MiB of 192 MiB" in await page.text("#limits")
    assert await page.value("document.title") == "Running, lag 2,800, pages"


async def test_the_gauges_are_as_full_as_the_window(page: Page, shown: Shown) -> None:
    fill = """[...document.querySelectorAll("#gate .water")].map((water, n) =>
        water.getAttribute("height") / document.querySelectorAll("#gate .tank")[n]
            .getAttribute("height"))"""
    assert await page.value(fill) == pytest.approx([0.624, 0.25, 0.75], abs=0.001)
    late = dict(shown.status["window"], age_seconds=9.0)
    shown.status = status(window=late)
    await page.shows("#gate", "9.0 s")
    assert (await page.value(fill))[2] == 1, "an overdue window does not flow over"


@pytest.mark.parametrize("state", STATES)
async def test_each_state_has_a_word_and_its_reason(page: Page, shown: Shown, state: str) -> None:
    shown.status = status(state=state, reason=f"because it is {state}")
    await page.shows("#reason", f"because it is {state}")
    word = "Stopping" if state == "draining" else state.capitalize()
    assert await page.text("#state") == word
    assert await page.value("document.body.dataset.state") == state
    shut = await page.value('document.querySelector(".paddle").classList.contains("shut")')
    assert shut == (state in ("outage", "halted"))


async def test_jobs_are_shown_with_how_many_how_far_and_how_old(page: Page, shown: Shown) -> None:
    assert await page.value('document.querySelector("#jobs-section").hidden'), "it makes no jobs"
    waits = job(9, job=None, state="waiting", status=None, done=None, total=None)
    shown.status = status(jobs=jobs(job(1), job(2), waits, more=10, working=12, waiting=1))
    await page.shows("#jobs-working", "12")
    assert await page.text("#jobs-note") == "and 1 to go again"
    assert await page.text("#jobs-done") == "3 %"
    assert await page.text("#jobs-done-note") == "3,000 of 100 k, in the 3 oldest"
    assert await page.text("#jobs-oldest") == "11 h 6 m"
    rows = await page.text("#jobs")
    assert "1,000 of 50,000 in progress 11 h 5 m 2 pages/1 and 1 more batch_0" in rows
    assert "goes again" in rows
    meters = '[...document.querySelectorAll("#jobs meter")].map((m) => m.value / m.max)'
    assert await page.value(meters) == [0.02, 0.04, 0]
    assert await page.text("#more-jobs") == "and 10 younger jobs"
    none = jobs() | {"working": 0, "shown": [], "oldest_seconds": 0.0}
    shown.status = status(jobs=none)
    await page.shows("#jobs-oldest-note", "nothing is at work")
    assert await page.value('document.querySelector("#jobs-panel").hidden')


async def test_a_job_that_is_late_or_silent_stands_out(page: Page, shown: Shown) -> None:
    shown.status = status(jobs=jobs(oldest_seconds=90_000.0))
    await page.shows("#jobs-oldest-note", "longer than APIs promise")
    shown.status = status(jobs=jobs(unseen_seconds=7200.0))
    await page.shows("#jobs-oldest-note", "nothing heard for 2 h 0 m")
    colour = 'getComputedStyle(document.querySelector("{}")).color'
    noted = await page.value(colour.format("#jobs-oldest-note"))
    assert noted != await page.value(colour.format("#jobs-note"))


async def test_the_hours_and_the_time_that_is_left_are_told(page: Page, shown: Shown) -> None:
    assert "done in about 1 m 15 s" in await page.text("#lag-note")
    assert await page.value('document.querySelector("#schedule").hidden')
    hours = {"active": "22:00-06:00 UTC", "align": "5m", "open": False, "changes_at": ago(-60)}
    shown.status = status(schedule=hours, catch_up_seconds=None)
    await page.shows(
        "#schedule", "Released 22:00-06:00 UTC: closed, what comes waits in Kafka until"
    )
    assert "every 5m" in await page.text("#schedule")
    assert "outside its hours" in await page.text("#gate")
    assert await page.text("#lag-note") == "records behind, and growing"


async def test_each_partition_says_how_far_it_is_behind(page: Page) -> None:
    assert re.search(r"pages/7 700 \S+ 9.0 s 11,800", await page.text("#partitions"))


async def test_hostile_text_stays_text(page: Page, shown: Shown) -> None:
    shown.status = status(
        pipeline=HOSTILE,
        version=HOSTILE,
        state=HOSTILE,
        reason=HOSTILE,
        partitions=[partition(HOSTILE, 0, 7, stopped=True)],
        recent_batches=[
            dict(b, batch=HOSTILE, closed_by=HOSTILE, outcome=HOSTILE)
            for b in shown.status["recent_batches"]
        ],
        recent_errors=[error(HOSTILE, HOSTILE)],
        limits=[{"name": HOSTILE, "limit": 2, "used": 1}],
        totals=dict(shown.status["totals"], **{HOSTILE: 1}),
        jobs=jobs(job(1, job=HOSTILE, status=HOSTILE, partitions=[HOSTILE])),
        schedule={"active": HOSTILE, "align": HOSTILE, "open": True, "changes_at": HOSTILE},
    )
    for place in ("#pipeline", "#version", "#state", "#reason", "#partitions", "#batches"):
        await page.shows(place, HOSTILE)
    for place in ("#errors", "#limits", "#jobs", "#schedule"):
        await page.shows(place, HOSTILE)
    assert await page.value('document.querySelectorAll("img").length') == 0
    assert await page.value('document.querySelectorAll("script").length') == 2, "its own"
    assert await page.value("document.title") != "taken"
    assert page.complaints == []


async def test_markup_made_of_text_is_refused_by_the_browser_itself(page: Page) -> None:
    """The second lock: whoever writes innerHTML into this page some day finds that it throws."""
    refused = """(() => { try { document.body.innerHTML = "<b>x</b>"; return "" }
        catch (error) { return error.name } })()"""
    assert await page.value(refused) == "TypeError"


async def test_it_asks_no_other_host_and_complains_of_nothing(page: Page, shown: Shown) -> None:
    await until(lambda: shown.asked >= 3, "three answers")
    await until(lambda: len(page.requests) >= 6, "the browser to tell of the files and answers")
    assert [url for url in page.requests if not url.startswith(shown.url)] == []
    assert page.complaints == []


async def test_it_follows_without_being_loaded_again(page: Page, shown: Shown) -> None:
    await page.value("window.mark = 1")
    shown.status = status(partitions=[partition("pages", 0, 4321)], recent_errors=[])
    await page.shows("#lag", "4,321")
    await page.shows("#errors", "none since the start")
    assert await page.value('document.querySelectorAll("#partitions tr").length') == 1
    assert await page.value("window.mark") == 1


async def test_a_daemon_that_has_gone_is_told_and_asked_ever_more_seldom(
    page: Page, shown: Shown
) -> None:
    await shown.admin.stop()
    await page.shows("#state", "No answer")
    assert "old" in await page.text("#reason")
    await page.until("document.body.dataset.stale === ''")
    failed = await page.value("performance.now()")  # once, at the least
    # The browser enters an attempt here once it has ended.
    entries = """performance.getEntriesByType("resource").filter((e) => e.name.endsWith("status"))
        .map((e) => e.startTime)"""
    await page.until(f"{entries}.filter((at) => at > {failed}).length >= 2")
    times = await page.value(entries)
    waits = [b - a for a, b in pairwise(times) if b > failed]
    # What is busy may add to a wait, and takes nothing from it.
    assert waits[0] > 1900, waits
    assert waits[1] > 3900, waits


@pytest.mark.parametrize("part", ["gate.js", "page.css"])
async def test_a_part_that_was_refused_is_asked_for_until_it_comes(page: Page, part: str) -> None:
    """As it is where all connections of the port are taken when the page is opened."""
    await page.tell("Network.setBlockedURLs", urls=[f"*/{part}"])
    await page.tell("Page.reload")
    await until(lambda: len([u for u in page.requests if u.endswith(part)]) >= 3, "it asks again")
    if part.endswith(".js"):
        await page.shows("#reason", "did not come")
    await page.tell("Network.setBlockedURLs", urls=[])
    await page.shows("#state", "Running")
    await page.until("document.body && getComputedStyle(document.body).margin === '0px'")


@pytest.mark.parametrize("width", [360, 800, 1600])
async def test_nothing_is_wider_than_the_window(page: Page, shown: Shown, width: int) -> None:
    long = "a-topic-with-quite-a-long-name." * 8
    shown.status = status(
        pipeline="p" * 120,
        reason="r" * 500,
        state="halted",
        partitions=[partition(long, n, 10**9) for n in range(30)],
        recent_errors=[error("status", "e" * 500)],
        jobs=jobs(job(1, job="j" * 64, partitions=[long])),
    )
    await page.size(width)
    await page.shows("#partitions", long)
    await page.until('document.querySelector("#gate").getBoundingClientRect().width > 100')
    assert await page.value("document.documentElement.scrollWidth") <= width
    over = """[...document.querySelectorAll(".glance b")]
        .filter((b) => b.scrollWidth > b.clientWidth).map((b) => b.textContent)"""
    assert await page.value(over) == []
    outside = """(() => { const box = document.querySelector("#gate").getBoundingClientRect();
        return [...document.querySelectorAll("#gate text")].filter((t) => {
            const r = t.getBoundingClientRect();
            return r.left < box.left || r.right > box.right || r.bottom > box.bottom;
        }).map((t) => t.textContent) })()"""
    assert await page.value(outside) == []
    size = """Math.min(...[...document.querySelectorAll("#gate text")].map((t) =>
        t.getBoundingClientRect().height))"""
    assert await page.value(size) >= 12, "what is drawn can still be read"


async def test_the_state_the_lag_and_the_delay_can_be_read_from_afar(page: Page) -> None:
    await page.size(1600)
    for place in ("#state", "#lag", "#delay"):
        size = f'parseFloat(getComputedStyle(document.querySelector("{place}")).fontSize)'
        assert await page.value(size) >= 50, place


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("scheme", ["dark", "light"])
async def test_every_text_stands_out_from_its_ground(
    page: Page, shown: Shown, scheme: str, state: str
) -> None:
    await page.prefers(color_scheme=scheme)
    late = jobs(unseen_seconds=7200.0)
    shown.status = status(state=state, reason=f"because it is {state}", jobs=late)
    await page.shows("#reason", f"because it is {state}")
    colours: list[tuple[str, str, str]] = await page.value(COLOURS)
    assert len(colours) > 80
    poor = [(*c, contrast(c[1], c[2])) for c in colours if contrast(c[1], c[2]) < 4.5]
    assert poor == []


@pytest.mark.parametrize("scheme", ["dark", "light"])
async def test_text_on_water_stands_out_too(page: Page, scheme: str) -> None:
    await page.prefers(color_scheme=scheme)
    style = 'getComputedStyle(document.querySelector("{}")).fill'
    ink = await page.value(style.format("#gate .medium"))
    assert contrast(ink, await page.value(style.format("#gate .slot.taken"))) >= 4.5


async def test_dark_is_dark_and_light_is_light(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    await page.prefers(color_scheme="dark")
    assert contrast(await page.value(ground), "rgb(255, 255, 255)") > 12
    await page.prefers(color_scheme="light")
    assert contrast(await page.value(ground), "rgb(0, 0, 0)") > 12


async def test_who_wants_no_motion_gets_none(page: Page, shown: Shown) -> None:
    moving = 'document.getAnimations().filter((a) => a.playState === "running").length'
    await page.until(f"{moving} > 0")
    await page.prefers(reduced_motion="reduce")
    shown.status = status(in_flight=[])
    await page.shows("#gate", "0 of 4 in flight")
    assert await page.value(moving) == 0


async def test_a_keyboard_reaches_everything_and_can_be_followed(page: Page, shown: Shown) -> None:
    await page.size(360)  # the tables have to be scrolled here
    here = """(() => { const e = document.activeElement, s = getComputedStyle(e);
        return [e.id || e.className || e.getAttribute("href"), s.outlineStyle, s.outlineWidth];
        })()"""
    stops: list[Any] = []
    for _ in range(8):
        await page.press("Tab")
        stops.append(await page.value(here))
    names = [stop[0] for stop in stops]
    assert names == ["skip", "pause", "scroll", "scroll", "status", "metrics", "readyz", "livez"]
    assert all(stop[1:] == ["solid", "3px"] for stop in stops), "where the focus is can be seen"


async def test_a_pause_by_keyboard_stops_the_questions_and_another_goes_on(
    page: Page, shown: Shown
) -> None:
    await page.press("Tab")
    await page.press("Tab")
    await page.press("Enter")
    assert await page.value('document.activeElement.getAttribute("aria-pressed")') == "true"
    await page.shows("#updated", "paused")
    shown.status = status(partitions=[partition("pages", 0, 77)])
    asked = shown.asked
    await page.value("new Promise((done) => setTimeout(done, 1500))")  # longer than between two
    assert shown.asked - asked <= 1, "one may have been under way"
    assert await page.text("#lag") == "2,800"
    await page.press(" ")
    await page.shows("#lag", "77")


async def test_what_was_asked_before_a_pause_is_not_shown_in_it(page: Page, shown: Shown) -> None:
    held = """new Promise((asked) => {
        const get = window.fetch;
        window.fetch = async (...what) => {
            window.fetch = get;
            const answer = await get(...what);
            asked();
            await new Promise((go) => { window.go = go });
            return answer;
        } })"""
    shown.status = status(partitions=[partition("pages", 0, 77)])
    await page.value(held)
    lag = await page.text("#lag")
    await page.value('document.getElementById("pause").click()')
    shown.status = status(partitions=[partition("pages", 0, 78)])
    await page.value("window.go()")
    await page.value("new Promise((done) => setTimeout(done, 0))")  # whoever waited has gone on
    assert await page.text("#lag") == lag
    await page.value('document.getElementById("pause").click()')
    await page.shows("#lag", "78")


async def test_a_screen_reader_is_told_of_the_state_and_not_of_every_figure(page: Page) -> None:
    live = '[...document.querySelectorAll("[role=status], [aria-live]")].map((e) => e.textContent)'
    regions = " ".join(await page.value(live))
    assert "Running" in regions
    assert "2,800" not in regions
    tree = (await page.tell("Accessibility.getFullAXTree"))["nodes"]
    seen = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree}
    roles = {role for role, _ in seen}
    assert {"banner", "main", "contentinfo", "table", "columnheader", "rowheader"} <= roles
    assert ("heading", "The gate") in seen
    assert any(role == "meter" and name.startswith("Memory") for role, name in seen)
    assert any(name.startswith("8 partitions in, window 312 of 500 records") for _, name in seen)
    changes = """(async () => { let n = 0;
        const watch = new MutationObserver((seen) => { n += seen.length });
        for (const e of document.querySelectorAll("[role=status]"))
          watch.observe(e, { subtree: true, childList: true, characterData: true });
        await new Promise((done) => setTimeout(done, 2500)); return n })()"""
    assert await page.value(changes) == 0, "the same state is not told again"
