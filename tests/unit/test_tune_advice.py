"""What `sluiced tune` makes of its figures: a recommendation, a table, a page, a changed file."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anyio
import pytest

from sluiced.config import Config, load
from sluiced.errors import SluicedError
from sluiced.kafka.scan import Span
from sluiced.record import TopicPartition
from sluiced.tools.tune import Options, Tuned, at_once, warnings
from sluiced.tools.tune import report as text
from sluiced.tools.tune.advice import Advice, advise
from sluiced.tools.tune.load import newest
from sluiced.tools.tune.page import page, save
from sluiced.tools.tune.point import Point
from sluiced.tools.tune.tune import aimed, tune
from sluiced.tools.tune.write import write

PAGES = """\
# Pages to the CMS.
name = "pages"

[kafka]
bootstrap_servers = ["127.0.0.1:9092"]
group_id = "pages-to-cms"
topics = ["pages"]

[window]            # as agreed with the CMS's people
max_records = 500   # they take 1000

[sink]
type = "http"
url = "https://cms.example.com/bulk"
idempotency_header = "Idempotency-Key"

[sink.body]
item = "$value"  # nothing else

[dead_letter]
topic = "pages.dead"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "pages.toml"
    file.write_text(PAGES)
    return file


@pytest.fixture
def config(path: Path) -> Config:
    return load(path)


def point(size: int, concurrency: int = 1, rate: float = 1000.0, **more: Any) -> Point:
    fields = {"records": 1000, "seconds": 1000 / rate, "latencies": (0.01, 0.02, 0.03)} | more
    return Point(size, concurrency, **fields)


def advised(config: Config, *points: Point) -> Advice:
    found = advise(config, points)
    assert found is not None
    return found


def tuned(config: Config, *points: Point, **more: Any) -> Tuned:
    return Tuned(config, Options(), {}, points, advise(config, points), **more)


def test_of_settings_that_are_nearly_as_fast_the_gentlest_is_taken(config: Config) -> None:
    near, fast = point(100, 1, 960), point(500, 1, 1000)
    assert advised(config, point(10, 1, 900), near, fast, point(10, 2, 1000)).point is near


def test_a_setting_that_failed_is_never_recommended(config: Config) -> None:
    slow = point(10, 1, 100)
    assert advised(config, slow, point(100, 1, 9000, stopped="timeout")).point is slow
    assert advise(config, [point(1, records=0), point(10, stopped="too large")]) is None


@pytest.mark.parametrize(
    ("slowest", "timeout"), [(0.01, "5s"), (0.7, "10s"), (1.1, "15s"), (2.9, "30s"), (400, "4000s")]
)
def test_the_timeout_is_ten_times_the_slowest_answer_and_not_below_five_seconds(
    config: Config, slowest: float, timeout: str
) -> None:
    assert advised(config, point(10, latencies=(0.01, slowest))).values["sink.timeout"] == timeout


def test_a_drain_that_is_shorter_than_the_timeout_is_lengthened(config: Config) -> None:
    assert "shutdown.drain" not in advised(config, point(10)).values
    assert advised(config, point(10, latencies=(4.0,))).values["shutdown.drain"] == "45s"


def test_the_edge_that_was_found_becomes_the_cap_of_a_request(config: Config) -> None:
    found = advised(config, point(90), point(95, rate=1010), point(100, stopped="too large"))
    assert found.values["sink.max_records"] == 95
    assert found.values["window.max_records"] == 90
    assert "one of 100 is too large for the API" in found.reason


def test_a_window_has_room_for_the_bytes_of_what_was_sent(config: Config) -> None:
    assert "window.max_bytes" not in advised(config, point(10)).values, "4 MiB are enough"
    grown = advised(config, point(1000, value_bytes=4 * 1024**2))
    assert grown.values["window.max_bytes"] == "6MiB"
    capped = advised(config, point(1000, value_bytes=9 * 1024**2))
    assert capped.values["window.max_bytes"] == "10MiB", "what the sink takes"


def test_the_values_that_are_recommended_make_a_configuration_that_can_be_used(
    path: Path,
) -> None:
    path.write_text(PAGES + '[limits]\nmemory = "64MiB"  # of eight windows and two more\n')
    config = load(path)
    many = point(800, 8, value_bytes=30 * 1024**2, latencies=(60.0,))
    write(path, advised(config, many, point(900, stopped="too large")).values)
    assert load(path).limits.max_in_flight == 8


def test_auto_stays_auto_and_what_was_measured_is_told(path: Path) -> None:
    text = PAGES.replace("max_records = 500 ", 'max_records = "auto" ')
    text += '[limits]\nmax_in_flight = "auto"  # as it likes\n'
    path.write_text(text)
    config = load(path)
    found = advised(config, point(90, 4, 2000), point(100, stopped="too large"))
    assert found.values == {"sink.timeout": "5s", "sink.max_records": 90}
    [said] = [r for r in found.remarks if "auto" in r]
    assert said.startswith('window.max_records and limits.max_in_flight = "auto" stays as it is')
    assert "90 records a request and 4 at once are the fastest" in found.reason
    write(path, found.values)
    written = path.read_text().splitlines()
    assert 'max_records = "auto"   # they take 1000' in written
    assert 'max_in_flight = "auto"  # as it likes' in written
    assert load(path).sink.max_records == 90, "the bound of what may be found out"


def test_with_auto_the_windows_of_all_that_may_be_at_once_fit_into_the_memory(path: Path) -> None:
    path.write_text(PAGES + '[limits]\nmax_in_flight = "auto"\n')
    found = advised(load(path), point(1000, 2, value_bytes=9 * 1024**2))
    write(path, found.values)
    assert load(path).limits.slots == 32


def test_a_window_is_no_larger_than_a_budget_of_bytes(path: Path) -> None:
    path.write_text(PAGES + '[limits]\nbytes_per_minute = "5MiB"\n')
    found = advised(load(path), point(1000, value_bytes=4 * 1024**2))
    assert found.values["window.max_bytes"] == "5MiB"


def test_the_bound_that_stands_in_the_file_is_kept_unless_more_is_asked_for(path: Path) -> None:
    def bound(limits: str, asked: int | None = None) -> int:
        path.write_text(f"{PAGES}[limits]\n{limits}\n")
        return at_once(path, load(path), asked)

    assert bound("") == 8
    assert bound("max_in_flight = 1") == 1
    assert bound("max_in_flight = 3") == 3
    assert bound('max_in_flight = "auto"') == 32
    assert bound('max_in_flight = "auto"\nmost_in_flight = 5') == 5
    assert bound("max_in_flight = 1", asked=16) == 16


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["openai-batch", "anthropic-batch"])
async def test_jobs_are_not_measured(
    kind: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_KEY", "hunter2")
    before, _, _ = PAGES.partition("[sink]")
    path.write_text(
        f'{before}[sink]\ntype = "{kind}"\napi_key = {{ env = "LLM_KEY" }}\n'
        '[results]\ntopic = "answers"\n[dead_letter]\ntopic = "pages.dead"\n'
    )
    with pytest.raises(SluicedError, match="jobs take hours to be answered"):
        await tune(load(path), Options(), anyio.Event(), send=True)


def test_what_order_within_a_partition_has_to_do_with_it_is_said(config: Config) -> None:
    said = "keeps the records of a partition in order"
    assert said in advised(config, point(10, 2)).remarks[0]
    assert not any(said in remark for remark in advised(config, point(10)).remarks)


def test_every_line_of_the_table_fits_into_80_columns(config: Config) -> None:
    wide = point(1_000_000, 8, 1_234_567, memory=10**9, latencies=(0.0123,), errors={"x" * 99: 7})
    lines = text.as_text(tuned(config, point(1), wide, point(10, stopped="too large")), 80)
    assert max(map(len, lines)) <= 80
    [chosen] = [line for line in lines if "<- chosen" in line]
    assert "1,234,567" in chosen


def test_a_run_that_was_cut_short_says_so(config: Config) -> None:
    assert not any("before all that" in line for line in text.as_text(tuned(config, point(1)), 80))
    for how, words in (("cut_short", "The budget ended"), ("stopped", "It was stopped")):
        lines = text.as_text(tuned(config, point(1), **{how: True}), 80)
        assert any(line.startswith(words) for line in lines)


def test_without_a_recommendation_the_table_says_why(config: Config) -> None:
    lines = text.as_text(tuned(config, point(1, records=0, errors={"refused 422": 3})), 80)
    assert "  1 records, 1 at once: refused 422, 3 times" in lines
    assert lines[-1] == "No setting can be recommended: nothing was delivered at any."


def test_the_page_shows_each_plot_with_the_knee_and_needs_nothing_from_elsewhere(
    config: Config,
) -> None:
    made = tuned(config, point(1, rate=10), point(100), point(100, 2, 5000, memory=4000))
    html = page(made, datetime(2026, 1, 1, tzinfo=UTC))
    assert html.count("<svg") == 5
    assert html.count('class="knee"') == 5
    assert not re.search(r"src=|<script|<link|@import|url\(", html)
    for svg in re.findall(r"<svg.*?</svg>", html, re.S):
        drawing = ElementTree.fromstring(svg)
        ends = [float(c.get("cy") or "nan") for c in drawing.iter("circle")]
        assert len(ends) == 3
        assert all(0 <= y <= 300 for y in ends)


def test_what_an_api_says_cannot_become_part_of_the_page(config: Config) -> None:
    html = page(tuned(config, point(1, errors={"<script>alert(1)</script>": 1})), datetime.now(UTC))
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_a_page_of_nothing_is_still_a_page(config: Config, tmp_path: Path) -> None:
    assert "No setting can be recommended" in page(tuned(config), datetime.now(UTC))
    with pytest.raises(SluicedError, match="cannot be written: No such file"):
        save(tmp_path / "missing/tune.html", tuned(config))


def test_values_go_into_the_file_and_the_comments_stay(path: Path) -> None:
    path.chmod(0o640)
    values = {"window.max_records": 200, "limits.max_in_flight": 4, "sink.timeout": "5s"}
    assert write(path, values) == [
        "window.max_records: 500 -> 200",
        "limits.max_in_flight: default -> 4",
        "sink.timeout: default -> 5s",
    ]
    written = path.read_text()
    before, after = PAGES.splitlines(), written.splitlines()
    assert [line for line in before if line not in after] == [
        "max_records = 500   # they take 1000"
    ]
    assert "max_records = 200   # they take 1000" in after
    config = load(path)
    assert (config.limits.max_in_flight, float(config.sink.timeout)) == (4, 5.0)
    assert path.stat().st_mode & 0o777 == 0o640
    assert write(path, values) == [], "a second time there is nothing to change"
    assert write(path, {"retry.max_delay": "1m", "sink.max_records": 1000}) == [], "the defaults"
    assert path.read_text() == written


def test_a_file_that_could_not_be_used_afterwards_is_left_as_it_is(path: Path) -> None:
    with pytest.raises(SluicedError, match="do not go with the rest of the file"):
        write(path, {"window.max_records": 5000})
    assert path.read_text() == PAGES
    assert [each.name for each in path.parent.iterdir()] == ["pages.toml"]


def test_a_link_to_the_file_stays_a_link(path: Path) -> None:
    link = path.with_name("link.toml")
    link.symlink_to(path)
    write(link, {"window.max_records": 7})
    assert link.is_symlink()
    assert load(path).window.max_records == 7


def test_another_address_takes_the_sinks_place_and_is_checked(config: Config) -> None:
    there = aimed(config, "http://127.0.0.1:8080/bulk")
    assert "127.0.0.1:8080" in there.sink.summary
    assert aimed(config, "") is config
    with pytest.raises(SluicedError, match="--url: url must start with"):
        aimed(config, "ftp://127.0.0.1/bulk")


def test_a_secret_that_would_be_readable_on_the_way_to_another_address_is_warned_of(
    path: Path,
) -> None:
    secret = path.with_name("secret")
    secret.write_text("hunter2")
    header = f'[sink.headers]\nX = {{ file = "{secret}" }}\n[sink.body]'
    path.write_text(PAGES.replace("[sink.body]", header))
    loaded = load(path)
    assert warnings(aimed(loaded, "https://test.example.com/bulk")) == []
    [warning] = warnings(aimed(loaded, "http://test.example.com/bulk"))
    assert "unencrypted" in str(warning)


def test_the_newest_records_are_taken_of_every_partition_alike() -> None:
    a, b, c = (TopicPartition("pages", n) for n in range(3))
    held = {a: Span(0, 1000), b: Span(90, 100), c: Span(500, 2000)}
    assert newest(held, 210) == {b: Span(90, 100), a: Span(900, 1000), c: Span(1900, 2000)}
    assert newest({a: Span(5, 5)}, 10) == {a: Span(5, 5)}
