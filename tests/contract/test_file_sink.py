"""What the file sink does besides what every sink does: names, places, and a disk that will not."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from fakes import FakeRecord
from sluiced.intake import RecordSettings
from sluiced.outcome import Again, Answered, TooLarge
from sluiced.sinks.file import FileSettings, FileSink
from sluiced.sinks.settings import Line
from sluiced.testing import batch_of, read

pytestmark = pytest.mark.anyio

BATCH = batch_of([FakeRecord(offset=n, value=b'{"n":%d}' % n) for n in range(3)])


@asynccontextmanager
async def opened(directory: Path, line: Line | None = None, **keys: Any) -> AsyncIterator[FileSink]:
    settings = read(FileSettings, directory=str(directory), **keys)
    assert isinstance(settings, FileSettings)
    sink = settings.build(line or Line("pages"))
    await sink.open()
    yield sink
    await sink.close()


async def test_a_batch_is_one_file_named_by_its_id(tmp_path: Path) -> None:
    async with opened(tmp_path) as sink:
        assert isinstance(await sink.send(BATCH), Answered)
        assert isinstance(await sink.send(BATCH), Answered)
    [file] = tmp_path.iterdir()
    assert file.name == f"{BATCH.id}.ndjson"
    assert file.read_bytes() == b'{"n":0}\n{"n":1}\n{"n":2}\n'


async def test_a_line_is_what_the_template_makes_of_a_record(tmp_path: Path) -> None:
    async with opened(tmp_path, item='{"at":$offset,"page":$value}') as sink:
        await sink.send(batch_of([FakeRecord(offset=5, value=b'{\n"a": 1}')]))
    [file] = tmp_path.iterdir()
    assert file.read_bytes() == b'{"at":5,"page":{ "a": 1}}\n', "one line, whatever the value"


async def test_a_value_that_would_be_two_lines_is_objected_to(tmp_path: Path) -> None:
    async with opened(tmp_path, Line("pages", record=RecordSettings(format="text"))) as sink:
        assert sink.objections_needed
        assert "newline" in (sink.objection(FakeRecord(value=b"a\nb")) or "")


@pytest.mark.parametrize("keys", [{"max_records": 2}, {"max_bytes": "10B"}])
async def test_what_is_too_much_for_one_file_is_not_written(
    tmp_path: Path, keys: dict[str, Any]
) -> None:
    async with opened(tmp_path, **keys) as sink:
        outcome = await sink.send(BATCH)
    assert isinstance(outcome, TooLarge)
    assert not outcome.sent
    assert list(tmp_path.iterdir()) == []


async def test_a_directory_that_is_not_there_is_an_outage_and_is_not_made(tmp_path: Path) -> None:
    calls: list[str] = []
    line = Line("pages", requests=lambda status, seconds: calls.append(status))
    async with opened(tmp_path / "unmounted", line) as sink:
        outcome = await sink.send(BATCH)
        assert isinstance(outcome, Again)
        assert outcome.outage
        assert "No such file or directory" in outcome.error
        assert not (tmp_path / "unmounted").exists()
        (tmp_path / "unmounted").mkdir()
        assert isinstance(await sink.send(BATCH), Answered)
    assert calls == ["error", "ok"]


async def test_a_write_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    async with opened(tmp_path) as sink:
        outcome = await sink.send(BATCH)
    assert isinstance(outcome, Again)
    assert "No space left on device" in outcome.error
    assert list(tmp_path.iterdir()) == []


async def test_a_disk_that_hangs_is_given_up_and_may_still_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, fsync = os.pipe(), os.fsync

    def hang(descriptor: int) -> None:
        os.read(hanging[0], 1)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", hang)
    async with opened(tmp_path, timeout="1s") as sink:
        outcome = await sink.send(BATCH)
        assert isinstance(outcome, Again)
        assert outcome.reason == "timeout"
        monkeypatch.setattr(os, "fsync", lambda _: None)  # how slow this disk is, is not asked
        assert isinstance(await sink.send(BATCH), Answered)
        os.write(hanging[1], b"12")
        await _until(lambda: len(list(tmp_path.iterdir())) == 1)
    [file] = tmp_path.iterdir()
    assert file.read_bytes().splitlines() == [b'{"n":0}', b'{"n":1}', b'{"n":2}']
    for descriptor in hanging:
        os.close(descriptor)


async def test_of_a_disk_that_hangs_for_long_no_more_and_more_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, begun = os.pipe(), []

    def hang(descriptor: int) -> None:
        begun.append(descriptor)
        os.read(hanging[0], 1)

    monkeypatch.setattr(os, "fsync", hang)
    async with opened(tmp_path, timeout="50ms") as sink:
        for _ in range(20):
            outcome = await sink.send(BATCH)
            assert isinstance(outcome, Again)
            assert outcome.reason == "timeout"
        assert len(begun) <= 2, "each of them holds a thread and a body"
        monkeypatch.setattr(os, "fsync", lambda _: None)
        os.write(hanging[1], b"x" * 20)
        await _until(lambda: len(list(tmp_path.iterdir())) == 1)
    for descriptor in hanging:
        os.close(descriptor)


async def _until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not is_so():
            await anyio.sleep(0.01)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"directory": ""}, "directory must not be empty"),
        ({"directory": "/d", "item": "x"}, "item has no placeholder"),
        ({"directory": "/d", "timeout": "0s"}, "timeout must be more than 0s"),
    ],
)
def test_settings_that_cannot_work_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        read(FileSettings, **keys)
