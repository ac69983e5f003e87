"""The command line: what is printed where, and the exit codes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sluiced import __version__
from sluiced.cli import main, summary
from sluiced.config import load
from sluiced.tools.commands.dead_letters import _rate

PAGES = """
name = "pages"
[kafka]
bootstrap_servers = ["127.0.0.1:9092"]
group_id = "pages-to-cms"
topics = ["pages", "posts"]
[sink]
type = "http"
url = "https://cms.example.com/bulk/pages?account=4711"
headers = { Authorization = { env = "CMS_TOKEN", prefix = "Bearer " } }
idempotency_header = "Idempotency-Key"
[dead_letter]
topic = "pages.dead"
"""


@dataclass
class Ended:
    code: object
    out: str
    err: str


Sluiced = Callable[..., Ended]


@pytest.fixture
def sluiced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sluiced:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["sluiced", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Ended(caught.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that is in order, its secret included."""
    monkeypatch.setenv("CMS_TOKEN", "hunter2")
    file = tmp_path / "pages.toml"
    file.write_text(PAGES)
    return file


@pytest.fixture
def deaf_port() -> int:
    """A port of the loopback where nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    return port


def test_check_says_in_plain_words_what_the_daemon_will_do(pages: Path, sluiced: Sluiced) -> None:
    ended = sluiced("check", pages)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "pipeline   pages",
        "kafka      127.0.0.1:9092 (no TLS)",
        "topics     pages, posts as group pages-to-cms, "
        "from the earliest record where it has no checkpoint",
        "records    checked to be JSON, known as $topic-$partition-$offset, tombstones skipped",
        "window     closes at 500 records, 4MiB or 2s, one over all partitions",
        "sink       POST https://cms.example.com, at most 1000 records and 10MiB a request, "
        "30s each",
        "in flight  1 batch at once, in order within a partition, in 256MiB of memory",
        "retries    after 250ms to 1m; for as long as it takes",
        "refused    to pages.dead; halts when more than 50% of 1000 records are refused",
        "admin      http://127.0.0.1:9464",
        "guarantee  every record reaches the sink or the dead letters; what was in flight at a "
        "crash is sent again as the same batch under the same id, unless a rebalance has taken "
        "apart a batch of several partitions",
    ]


@pytest.mark.parametrize(
    ("identifies", "words"),
    [
        ("batch", "as the same batch under the same id"),
        ("item", "and the API must know each item by its id"),
        ("none", "and the API cannot know that it has it"),
    ],
)
def test_the_guarantee_follows_from_what_identifies_the_work(
    pages: Path, identifies: str, words: str
) -> None:
    text = PAGES.replace("[sink]", f'[sink]\nidentifies = "{identifies}"')
    pages.write_text(text + '[window]\nspan = "partition"\n')
    last = summary(load(pages))[-1]
    assert last.startswith("guarantee ")
    assert last.endswith(words)


def test_the_summary_follows_what_is_set(pages: Path) -> None:
    pages.write_text(
        PAGES.replace('topic = "pages.dead"', 'on_reject = "halt"')
        + '[kafka.tls]\n[kafka.sasl]\nmechanism = "OAUTHBEARER"\ntoken_command = ["true"]\n'
        + '[window]\nspan = "partition"\ncollapse = true\nmax_age = "1h"\nalign = "1h UTC"\n'
        + 'active = "Mon-Fri 22:00-06:00 Europe/Berlin"\n'
        + '[record]\nformat = "text"\nid = "$key"\n'
        + '[limits]\nmax_in_flight = 4\n[retry]\ngive_up_after = "1h"\n'
    )
    text = "\n".join(summary(load(pages)))
    for words in (
        "(TLS and SASL)",
        "or 1h, one for each partition, and every 1h UTC, newest record of an id only",
        "released   Mon-Fri 22:00-06:00 Europe/Berlin; what is read by then is finished",
        "checked to be UTF-8, known as $key",
        "4 batches at once, not in order",
        "dead-lettered after 1h",
        "halts at the first one",
    ):
        assert words in text


def test_the_summary_says_what_may_go_out_and_what_is_found_out(pages: Path) -> None:
    limits = '[limits]\nmax_in_flight = "auto"\nrequests_per_minute = 90\nbytes_per_hour = "1GiB"\n'
    pages.write_text(PAGES + limits + 'share = "group"\n[window]\nmax_records = "auto"\n')
    text = "\n".join(summary(load(pages)))
    for words in (
        "closes at 1 to 1000 records, as serves best, 4MiB or 2s",
        "as many as serve best, up to 32 batches at once, not in order",
        "at most 90 requests per minute, 1GiB bytes per hour, for all members together",
    ):
        assert words in text
    pages.write_text(PAGES)
    assert not any(line.startswith("limits") for line in summary(load(pages)))


def test_check_shows_no_secret_and_no_query(pages: Path, sluiced: Sluiced) -> None:
    ended = sluiced("check", pages)
    for hidden in ("hunter2", "4711"):
        assert hidden not in ended.out + ended.err


def test_check_shows_warnings_and_succeeds(pages: Path, sluiced: Sluiced) -> None:
    pages.write_text(PAGES.replace("idempotency_header", "#"))
    ended = sluiced("check", pages)
    assert ended.code == 0
    assert ended.err.startswith("warning: sink.idempotency_header: ")


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_bad_configuration_ends_with_2_and_no_traceback(
    command: str, pages: Path, sluiced: Sluiced
) -> None:
    pages.write_text(PAGES.replace("topics =", "topic ="))
    ended = sluiced(command, pages)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        f"sluiced: {pages} cannot be used:\n"
        "  kafka.topic: unknown key; did you mean topics?\n"
        "  kafka.topics is required\n"
        "  docs/configuration.md describes every key.\n"
    )


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_file_that_is_not_there_ends_with_2(command: str, sluiced: Sluiced) -> None:
    ended = sluiced(command, "none.toml")
    assert ended.code == 2
    assert ended.err.startswith("sluiced: none.toml cannot be read: No such file")


def test_check_connect_ends_with_2_where_nothing_is_reached(
    pages: Path, sluiced: Sluiced, deaf_port: int
) -> None:
    pages.write_text(PAGES.replace("127.0.0.1:9092", f"127.0.0.1:{deaf_port}"))
    ended = sluiced("check", pages, "--connect")
    assert ended.code == 2
    assert f"the Kafka cluster at 127.0.0.1:{deaf_port} cannot be used" in ended.err
    assert "Traceback" not in ended.err


def test_run_ends_with_1_and_no_traceback_where_the_admin_port_is_taken(
    pages: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        pages.write_text(f'{PAGES}[admin]\nlisten = "{listen}"\n')
        ended = in_a_process("run", str(pages))
    assert ended.returncode == 1
    *_, error, hint = ended.stderr.splitlines()
    assert error.startswith("sluiced: ")
    assert listen in error
    assert "`listen` in [admin]" in hint
    assert "Traceback" not in ended.stderr


def test_a_bug_is_logged_with_its_traceback_and_ends_with_1(pages: Path) -> None:
    program = """
import asyncio
from sluiced.cli import main
def break_down(work):
    work.close()
    raise ZeroDivisionError("a bug")
asyncio.run = break_down
main()
"""
    command = [sys.executable, "-c", program, "run", str(pages)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    last = json.loads(ended.stderr.splitlines()[-1])
    assert last["event"] == "crashed"
    assert "ZeroDivisionError: a bug" in last["exception"]


def test_a_checkpoint_that_fell_off_the_log_ends_with_3(pages: Path) -> None:
    program = """
import asyncio
from sluiced.cli import main
from sluiced.errors import LostRangeError
def lose(work):
    work.close()
    raise LostRangeError("pages/2: records 10 to 49 were deleted", "Reset the offset.")
asyncio.run = lose
main()
"""
    command = [sys.executable, "-c", program, "run", str(pages)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 3
    assert "sluiced: pages/2: records 10 to 49 were deleted\n  Reset the offset." in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "arguments", [["bogus"], ["check"], ["run"], ["check", "a.toml", "b.toml"], ["run", "--x"], []]
)
def test_a_wrong_command_line_ends_with_2_and_says_how_it_is_used(
    arguments: list[str], sluiced: Sluiced
) -> None:
    ended = sluiced(*arguments)
    assert ended.code == 2
    assert "Usage: sluiced" in ended.out + ended.err


def test_help_names_the_commands_that_exist_in_plain_text(sluiced: Sluiced) -> None:
    ended = sluiced("--help")
    assert ended.code == 0
    commands = ended.out.partition("Commands:")[2].split("\n")
    names = [line.split()[0] for line in commands if line.strip()]
    assert names == [
        *("run", "check", "demo", "preview", "replay", "status", "tune", "dead-letters", "jobs"),
    ]
    assert ended.out.isascii()


def test_the_version_needs_no_command() -> None:
    ended = in_a_process("--version")
    assert (ended.returncode, ended.stdout) == (0, f"sluiced {__version__}\n")


def test_asking_for_the_version_loads_none_of_the_libraries() -> None:
    program = (
        "import sys, sluiced.cli; "
        "print([m for m in ('aiokafka', 'aiohttp', 'structlog') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "[]\n"


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sluiced", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("dead-letters", "list", "PAGES", "--since", "yesterday"), "is not a point in time"),
        (("dead-letters", "show", "PAGES", "pages"), "does not name a record"),
        (("dead-letters", "redrive", "PAGES", "--rate", "fast"), "is not a rate"),
        (("dead-letters", "redrive", "PAGES", "--rate", "0/s"), "is not a rate"),
        (("dead-letters", "redrive", "PAGES", "--patience", "5"), "expected a duration"),
        (("replay", "PAGES"), "give either ranges, a span of time or --batch"),
        (("replay", "PAGES", "pages/0/1", "--since", "1h"), "give either ranges, a span"),
        (("replay", "PAGES", "--batch-ranges", "--since", "1h"), "--batch-ranges needs ranges"),
        (("replay", "PAGES", "pages/0/9-1"), "is not a range of offsets"),
    ],
)
def test_a_tool_that_is_told_nonsense_says_so_and_reaches_for_nothing(
    pages: Path, sluiced: Sluiced, arguments: tuple[str, ...], advice: str
) -> None:
    ended = sluiced(*(pages if word == "PAGES" else word for word in arguments))
    assert (ended.code, ended.out) == (1, "")
    assert advice in ended.err


def test_a_pipeline_without_dead_letters_has_none_to_look_at(pages: Path, sluiced: Sluiced) -> None:
    pages.write_text(PAGES.replace('topic = "pages.dead"', 'on_reject = "halt"'))
    for command in ("list", "redrive"):
        ended = sluiced("dead-letters", command, pages)
        assert ended.code == 2
        assert "dead_letter.topic is not set" in ended.err


@pytest.mark.parametrize(
    ("text", "rate"), [("", 0.0), ("50", 50.0), ("50/s", 50.0), ("600/m", 10.0), ("36/h", 0.01)]
)
def test_a_rate_is_so_many_in_a_unit_of_time(text: str, rate: float) -> None:
    assert _rate(text) == rate
