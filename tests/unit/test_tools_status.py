"""`sluiced status`: one screen, whatever the daemon says, and whom it asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import P0, FakeSink, Log, Rig, until
from sluiced.errors import SluicedError
from sluiced.outcome import Again
from sluiced.tools.status import address, healthy, screen
from sluiced.tools.status_text import as_text
from sluiced.tools.text import width_of
from strategies import steady

STATUS: dict[str, Any] = {
    "pipeline": "pages",
    "version": "1.2.3",
    "now": "2026-03-01T12:00:12.000Z",
    "state": "outage",
    "reason": "the API answered 503",
    "partitions": [
        {
            "topic": "pages",
            "partition": 3,
            "epoch": 1,
            "position": 1200,
            "checkpoint": 1000,
            "stopped": False,
            "end": 12_000,
            "lag": 11_000,
            "visible_until": "2026-03-01T12:00:00.000Z",
            "delay_seconds": 12.0,
        },
        {
            "topic": "pages",
            "partition": 4,
            "epoch": 1,
            "position": 7,
            "checkpoint": 7,
            "stopped": True,
            "end": None,
            "lag": None,
            "visible_until": None,
            "delay_seconds": None,
        },
    ],
    "window": {
        "records": 12,
        "bytes": 3400,
        "age_seconds": 0.5,
        "max_records": 500,
        "max_bytes": 4_194_304,
        "max_age_seconds": 2.0,
    },
    "in_flight": [
        {
            "batch": "ab" * 16,
            "records": 200,
            "bytes": 81_000,
            "attempts": 3,
            "age_seconds": 9.5,
            "closed_by": "records",
        }
    ],
    "jobs": {
        "working": 51,
        "ended": 0,
        "waiting": 1,
        "oldest_seconds": 45_300.0,
        "unseen_seconds": 12.0,
        "shown": [
            {
                "job": "batch_000000000000000000000001",
                "batch": "ef" * 16,
                "state": "working",
                "status": "in_progress",
                "done": 1200,
                "total": 50_000,
                "age_seconds": 45_300.0,
                "attempt": 2,
                "partitions": ["pages/3"],
            },
            {
                "job": None,
                "batch": "ee" * 16,
                "state": "waiting",
                "status": None,
                "done": None,
                "total": None,
                "age_seconds": 30.0,
                "attempt": 3,
                "partitions": ["pages/4"],
            },
        ],
        "more": 50,
    },
    "schedule": {
        "active": "22:00-06:00 Europe/Berlin",
        "align": "5m",
        "open": False,
        "changes_at": "2026-03-01T21:00:00.000Z",
    },
    "catch_up_seconds": 75.0,
    "waiting_seconds": 11.25,
    "queued_batches": 2,
    "recovering": {"forming": 3, "formed": 1},
    "recent_batches": [
        {
            "batch": "cd" * 16,
            "records": 500,
            "bytes": 70_000,
            "closed_by": "records",
            "outcome": "partial",
            "attempts": 1,
            "at": "2026-03-01T12:00:00.000Z",
            "seconds": 0.043,
            "delay_seconds": 0.5,
            "cost": None,
        }
    ],
    "totals": {"consumed": 1200, "dead_lettered": 1},
    "limits": [
        {"name": "max_in_flight", "limit": 2, "used": 1},
        {"name": "memory", "limit": 201_326_592, "used": 81_000},
        {"name": "requests_per_minute", "limit": 60, "used": 60, "holds_seconds": 34.0},
    ],
    "reload": {"successful": True, "at": None, "error": None},
    "last_error": {"at": "2026-03-01T12:00:00.000Z", "text": "503 " * 30},
    "recent_errors": [
        {"at": "2026-03-01T12:00:00.000Z", "reason": "status", "text": "503 " * 30, "times": 9},
        {"at": "2026-03-01T11:00:12.000Z", "reason": "timeout", "text": "no answer", "times": 1},
    ],
}


def shown(status: dict[str, Any]) -> str:
    """The text with its lines joined, so that it does not matter where they were broken."""
    return " ".join(" ".join(as_text(status, "", 80)).split())


def test_the_state_is_one_screen_of_80_columns() -> None:
    lines = as_text(STATUS, "outage: the API answered 503", 80)
    assert lines[:2] == ["pages is outage, sluiced 1.2.3", "because  the API answered 503"]
    assert "lag         11,000 records, done in about 75.0s" in lines
    assert "window      12 of 500 records, 3.3 KiB of 4 MiB, 0.5 of 2.0 s" in lines
    assert "waiting     the oldest record for 11.2s, 2 batches for the gate" in lines
    assert "totals      1,200 consumed, 1 dead-lettered" in lines
    assert "limits      max_in_flight 1 of 2, memory 79.1 KiB of 192 MiB," in lines
    assert "            requests_per_minute 60 of 60 (holds the next for 34.0s)" in lines
    assert [line.split() for line in lines if line.startswith("pages/")] == [
        ["pages/3", "1,000", "1,200", "12,000", "11,000", "2026-03-01T12:00:00.000Z"],
        ["pages/4", "7", "7", "STOPPED"],
    ]
    assert [line.split() for line in lines if "abab" in line] == [
        ["ab" * 16, "200", "79.1", "KiB", "9.5s", "3"]
    ]
    assert [line.split() for line in lines if "cdcd" in line] == [
        ["cd" * 16, "12s", "500", "records", "43ms", "500ms", "partial"]
    ]
    assert all(width_of(line) <= 80 for line in lines)
    assert len(lines) <= 37


def test_jobs_are_told_with_how_far_they_are_and_how_many_there_are_besides() -> None:
    lines = [line.split() for line in as_text(STATUS, "", 80)]
    assert ["DONE", "FOR", "ATTEMPT", "STATE", "JOB"] in lines
    named = "batch_000000000000000000000001"
    assert ["1,200/50,000", "12h", "35m", "2", "in_progress", named] in lines
    assert "- 30.0s 3 waiting to be submitted again" in [" ".join(line) for line in lines]
    assert ["and", "50", "more"] in lines
    assert "JOB" not in shown(STATUS | {"jobs": None})


def test_what_the_clock_decides_is_told_where_it_decides_anything() -> None:
    closed = "closed until 2026-03-01T21:00:00.000Z, active 22:00-06:00 Europe/Berlin"
    assert f"every 5m, {closed}" in shown(STATUS)
    nothing = {"active": None, "align": None, "open": True, "changes_at": None}
    assert "schedule" not in shown(STATUS | {"schedule": nothing})


def test_a_backlog_that_grows_is_told_from_one_that_will_be_done() -> None:
    assert "11,000 records, and growing" in shown(STATUS | {"catch_up_seconds": None})
    assert "and growing" not in shown({k: v for k, v in STATUS.items() if k != "catch_up_seconds"})


def test_the_last_errors_are_told_in_full_with_how_often_they_came() -> None:
    text = shown(STATUS)
    assert f"12s ago, 9 times status: {'503 ' * 30}" in text
    assert "1h ago timeout: no answer" in text


def test_a_batch_that_took_several_requests_says_how_many() -> None:
    assert "partial x3" in shown(
        STATUS | {"recent_batches": [STATUS["recent_batches"][0] | {"attempts": 3}]}
    )


def test_a_stopped_partition_is_named_with_what_to_do() -> None:
    assert "stopped pages/4: the log is damaged there; the journal has the offset" in shown(STATUS)
    assert "damaged" not in shown(STATUS | {"partitions": STATUS["partitions"][:1]})


def test_recovery_is_shown_while_there_is_something_to_recover() -> None:
    assert "3 being read again, 1 to be sent" in shown(STATUS)
    assert "recovering" not in shown(STATUS | {"recovering": {"forming": 0, "formed": 0}})


def test_a_refused_reload_is_shown_until_one_succeeds() -> None:
    reload = {"successful": False, "at": "2026-03-01T12:00:00.000Z", "error": "name is required"}
    assert "reload refused at 2026-03-01T12:00:00.000Z: name is required" in shown(
        STATUS | {"reload": reload}
    )
    assert "refused" not in shown(STATUS)


def test_of_many_partitions_those_in_trouble_are_shown() -> None:
    calm = [STATUS["partitions"][0] | {"partition": n, "lag": n} for n in range(100)]
    stopped = STATUS["partitions"][1] | {"partition": 100}
    lines = as_text(STATUS | {"partitions": [stopped, *calm]}, "", 80)
    names = [line.split()[0] for line in lines if line.startswith("pages/")]
    assert names == ["pages/100", *(f"pages/{n}" for n in range(89, 100))]
    assert "and 89 more" in lines


def test_no_line_is_longer_than_the_terminal_is_wide_whatever_there_is_to_say() -> None:
    huge = 10**15
    status = STATUS | {
        "pipeline": "p" * 64,
        "reason": "x" * 300,
        "partitions": [
            dict.fromkeys(("checkpoint", "position", "end", "lag"), huge)
            | {"topic": "\u6f22" * 100, "partition": n, "visible_until": "2026-03-01T12:00:00.000Z"}
            for n in range(50)
        ],
        "in_flight": [STATUS["in_flight"][0] | {"records": huge, "bytes": huge}] * 50,
        "recent_batches": [STATUS["recent_batches"][0] | {"records": huge, "seconds": 1e9}] * 20,
        "recent_errors": [{"at": None, "reason": "status", "text": "y" * 5000, "times": huge}] * 5,
    }
    for width in (60, 80, 120):
        lines = as_text(status, "z" * 300, width)
        assert all(width_of(line) <= width for line in lines)
        assert sum("yyy" in line for line in lines) <= 9, "three lines for each of three errors"


@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.anyio
async def test_what_is_shown_here_is_what_a_daemon_says() -> None:
    """A field that `/status` gains is to be shown as well, or to be left out on purpose."""
    rig = Rig(FakeSink(Again("connection", "refused")), Log(P0))
    rig.log.append(b"1")
    async with rig.running():
        await until(lambda: len(rig.status.report()["recent_batches"]) == 1)
        report = rig.status.report()
    assert report.keys() == STATUS.keys()
    for key in ("partitions", "recent_batches", "recent_errors"):
        assert report[key][0].keys() == STATUS[key][0].keys(), key
    for key in ("window", "recovering", "reload"):
        assert report[key].keys() == STATUS[key].keys(), key
    assert as_text(report, "", 80)


def test_a_terminal_is_not_scrolled_by_what_it_has_no_room_for() -> None:
    lines = [str(n) for n in range(40)]
    drawn = screen(lines, 24).removeprefix("\x1b[2J\x1b[H").split("\n")
    assert len(drawn) == 23
    assert drawn[-1] == "and 18 more lines, for which the terminal is too low"
    assert screen(lines, 41).split("\n")[-1] == "39"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@steady
@given(st.lists(st.sampled_from(sorted(STATUS)), unique=True), st.data())
def test_a_daemon_of_another_version_is_shown_as_far_as_it_goes(
    missing: list[str], data: st.DataObject
) -> None:
    status = {key: value for key, value in STATUS.items() if key not in missing}
    for key in ("partitions", "in_flight", "recent_batches", "recent_errors"):
        status[key] = [{name: data.draw(anything) for name in STATUS[key][0]}]
    status[data.draw(st.sampled_from(sorted(STATUS)))] = data.draw(anything)
    assert as_text(status, "", 80)


@pytest.mark.parametrize(
    ("state", "not_ready", "well"),
    [("running", "", True), ("waiting", "", True), ("outage", "", False), ("running", "x", False)],
)
def test_only_a_daemon_that_runs_and_is_ready_is_healthy(
    state: str, not_ready: str, well: bool
) -> None:
    assert healthy({"state": state}, not_ready) is well


def test_the_daemon_is_named_by_url_address_or_configuration(tmp_path: Path) -> None:
    config = tmp_path / "pages.toml"
    config.write_text(
        'name = "pages"\n[kafka]\nbootstrap_servers = ["127.0.0.1:1"]\ngroup_id = "g"\n'
        'topics = ["pages"]\n[sink]\ntype = "http"\nurl = "http://127.0.0.1:1/"\n'
        '[sink.body]\nitem = "$value"\nenvelope = "[$items]"\n'
        '[dead_letter]\ntopic = "dead"\n[admin]\nlisten = "0.0.0.0:1234"\n'
    )
    assert address(None) == "http://127.0.0.1:9464"
    assert address("https://cms.example.com:9464/status") == "https://cms.example.com:9464"
    assert address("10.0.0.7:9464") == "http://10.0.0.7:9464"
    assert address("[::]:9464") == "http://[::1]:9464"
    assert address(str(config)) == "http://127.0.0.1:1234"
    with pytest.raises(SluicedError, match="cannot be read"):
        address("nowhere.toml")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("http://[::1", "is not an address"),
        ("http://ex\u2100mple:9464", "is not an address"),
        ("n" * 5000, "cannot be read"),
    ],
)
def test_what_can_be_no_address_and_no_file_is_said_in_words(target: str, said: str) -> None:
    with pytest.raises(SluicedError, match=said):
        address(target)
