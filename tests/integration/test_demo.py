"""The demo of prompts from end to end, at a small size, and the port that it puts before Tansu."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import OffsetAndMetadata

from sluiced.tools.demo.keeper import Keeper
from sluiced.tools.demo.llm import run
from sluiced.tools.demo.provider import Pace
from sluiced.tools.embedded_broker import EmbeddedBroker, free_ports

SMALL = Pace(validating=0.1, working=0.5, finalizing=0.1)


def test_the_demo_of_prompts_survives_its_crash_and_its_audit_holds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    status = run.main(keep=False, count=2_000, pace=SMALL)
    printed = capsys.readouterr().out

    assert status == 0, printed
    lines = {line[:14].strip(): line[16:].strip() for line in printed.splitlines()}
    holds = "holds: each prompt has exactly one answer or dead letter, and no job was made twice"
    assert lines["audit"] == holds
    assert lines["answered"].startswith("2,000, ")
    assert lines["dead letters"].startswith("7 (1 exhausted, 3 invalid, 3 rejected)")
    adopted = re.search(
        r"^4 jobs were at the provider: .* (\d) adopted by name$", lines["the crash"]
    )
    assert adopted is not None
    assert adopted[1] != "0"


def test_the_demo_is_interrupted_and_leaves_nothing(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "sluiced", "demo", "--llm"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    # Until both of its processes run: the broker, and the daemon, which says so in its log.
    while not any(log.stat().st_size for log in tmp_path.glob("*/*.log")):
        assert demo.poll() is None
        time.sleep(0.05)
    started = psutil.Process(demo.pid).children()
    assert len(started) == 2
    demo.send_signal(signal.SIGINT)
    printed, _ = demo.communicate()

    assert printed.endswith("\nInterrupted; everything is stopped and removed.\n"), printed
    assert "Traceback" not in printed
    assert demo.returncode == 1
    assert not any(process.is_running() for process in started)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_the_keeper_hands_out_what_was_committed_along_with_an_offset() -> None:
    (port,) = free_ports(1)
    tp = TopicPartition("t", 0)
    with EmbeddedBroker(behind=port) as broker:
        async with Keeper(port, broker.port) as keeper:
            admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
            consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, group_id="g")
            await admin.start()
            await admin.create_topics([NewTopic("t", 1, 1)])
            consumer.assign([tp])
            await consumer.start()
            for offset, metadata in ((3, "a plan"), (4, "")):
                await consumer.commit({tp: (offset, metadata)})
                found = await admin.list_consumer_group_offsets("g", partitions=[tp])
                assert found == {tp: OffsetAndMetadata(offset, metadata)}
                assert keeper.kept == {("g", "t", 0): (offset, metadata)}
            await consumer.stop()
            await admin.close()
