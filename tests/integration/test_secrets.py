"""Secrets stand wherever one can, everything goes wrong, and all that comes out is read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from brokers.base import Message
from brokers.kafka import Kafka
from brokers.security import PASSWORD, USER
from harness.api import Api, Call
from harness.daemon import Daemon, until
from harness.stream import Stream, make_stream

pytestmark = pytest.mark.anyio

# Each with what JSON must escape, so that it is looked for in both forms.
TOKEN, KEY = 'm4rk"token', "m4rk\\key"
QUERY = "m4rk-query"
RECORD = "m4rk-record"


async def test_secrets_and_records_come_out_nowhere(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await make_stream(kafka, tmp_path)
    monkeypatch.setenv("CMS_TOKEN", TOKEN)
    (tmp_path / "api-key").write_text(KEY)
    (tmp_path / "password").write_text(PASSWORD)
    await produce(stream)
    seen: list[str] = []
    async with Api(Hostile()) as api:
        daemon = stream.daemon(api, **values(kafka, tmp_path, api))
        async with daemon:
            await until(lambda: len(daemon.events("dead_lettered")) == 2, "both burials")
            with anyio.fail_after(60):
                while await stream.checkpoints() != {0: 5}:
                    await anyio.sleep(0.05)
            for path in ("/status", "/readyz", "/livez", "/metrics", "/", f"/{QUERY}"):
                seen.append((await daemon.get(path))[1])
            assert await daemon.stop() == 0
        seen += [daemon.log, await checked(daemon), await checked(daemon, "--connect")]
    for letter in await kafka.read(stream.dead):
        seen += [value.decode() for name, value in letter.headers if name != "trace"]
    clean(seen)
    assert "refused with ***" in daemon.log, "the API did repeat the secrets"


async def test_a_password_that_kafka_refuses_is_not_shown(kafka: Kafka, tmp_path: Path) -> None:
    stream = await make_stream(kafka, tmp_path)
    (tmp_path / "password").write_text(TOKEN)
    (tmp_path / "api-key").write_text(KEY)
    async with Api() as api, stream.daemon(api, **values(kafka, tmp_path, api)) as daemon:
        daemon.process.kill()
        await daemon.ended()
        await daemon.start(CMS_TOKEN=TOKEN)
        assert await daemon.ended() == 1
        assert "Check kafka.bootstrap_servers" in daemon.log
        clean([daemon.log])


class Hostile:
    """An API that repeats whatever it was sent, in every way of failing that there is."""

    def __init__(self) -> None:
        self.script: list[Callable[[str], web.StreamResponse]] = [
            lambda told: web.json_response({"error": told}, status=401),
            lambda told: web.json_response({"error": {"headers": told}}, status=403),
            lambda told: web.Response(text=told, status=500),
            lambda told: web.json_response({"error": told}, status=429),
            lambda told: web.Response(status=307, headers={"Location": f"/x?{QUERY}"}),
            lambda told: web.Response(status=999, reason="m4rk-reason"),
            lambda told: web.Response(
                body=told.encode(), headers={"Content-Encoding": "gzip", "X": QUERY}
            ),
        ]

    async def __call__(self, call: Call) -> web.StreamResponse | None:
        assert call.headers["X-Api-Key"] == f"Key {KEY}"
        told = f"refused with {call.headers['Authorization']} and {call.headers['X-Api-Key']}"
        if self.script:
            return self.script.pop(0)(told)
        bad = any("refuse" in item["v"] for item in call.items)
        return web.json_response({"error": told}, status=422) if bad else None


def values(kafka: Kafka, directory: Path, api: Api) -> dict[str, str]:
    return {
        "url": f"{api.url}?account={QUERY}",
        "bootstrap": kafka.listener("SASL_SSL"),
        "kafka": f'tls = {{ ca = "{kafka.certificates.ca}" }}\n'
        f'sasl = {{ mechanism = "SCRAM-SHA-512", username = "{USER}", '
        f'password = {{ file = "{directory}/password" }} }}',
        "sink": 'headers = { Authorization = { env = "CMS_TOKEN" }, '
        f'X-Api-Key = {{ file = "{directory}/api-key", prefix = "Key " }} }}\n'
        'response = { error = "/error" }',
        "dead_letter": "max_ratio = 1.0",
    }


async def produce(stream: Stream) -> None:
    key, header = RECORD.encode(), [("trace", RECORD.encode())]
    contents = ('{"say":"%s"}', '{"refuse":"%s"}', '{"say":"%s"}', '{"broken":"%s"', '{"say":"%s"}')
    await stream.broker.produce(
        stream.topic,
        [Message((c % RECORD).encode(), key, header, partition=0) for c in contents],
    )


async def checked(daemon: Daemon, *options: str) -> str:
    command = [sys.executable, "-m", "sluiced", "check", str(daemon.path), *options]
    with anyio.fail_after(60):
        done = await anyio.run_process(command, check=False, stderr=subprocess.STDOUT)
    assert done.returncode == 0
    return done.stdout.decode()


def clean(texts: list[str]) -> None:
    for text in texts:
        assert "m4rk" not in text
        assert PASSWORD not in text
