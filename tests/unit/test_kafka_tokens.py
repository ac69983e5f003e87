"""Where OAUTHBEARER tokens come from, and what is told when none comes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process

from sluiced.errors import SourceError
from sluiced.kafka import SaslSettings, client
from sluiced.kafka.client import _Tokens

pytestmark = pytest.mark.anyio

SECRET = "m4rk-token"


def running(code: str) -> _Tokens:
    command = [sys.executable, "-c", code, SECRET]
    return _Tokens(SaslSettings(mechanism="OAUTHBEARER", token_command=command))


async def refusal(tokens: _Tokens) -> str:
    with pytest.raises(SourceError) as caught:
        await tokens.token()
    assert SECRET not in str(caught.value)
    return str(caught.value)


async def test_a_token_is_what_the_command_prints_or_the_file_holds(tmp_path: Path) -> None:
    assert await running("import sys; print(sys.argv[1])").token() == SECRET
    (tmp_path / "token").write_text(SECRET + "\n")
    file = SaslSettings(mechanism="OAUTHBEARER", token_file=str(tmp_path / "token"))
    assert await _Tokens(file).token() == SECRET


async def test_a_command_that_fails_is_named_without_what_it_says_or_is_told() -> None:
    code = "import sys; print(sys.argv[1]); print(sys.argv[1], file=sys.stderr); sys.exit(3)"
    assert "ended with exit code 3" in await refusal(running(code))


async def test_a_command_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TOKEN_TIMEOUT", 0.2)
    assert "took too long" in await refusal(running("import time; time.sleep(60)"))


async def test_a_command_is_not_lost_where_time_is_over_before_it_has_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "TOKEN_TIMEOUT", 0.0)
    started: list[Process] = []
    start = anyio.open_process

    async def noted(*args: Any, **others: Any) -> Process:
        started.append(await start(*args, **others))
        return started[-1]

    monkeypatch.setattr(anyio, "open_process", noted)
    assert "took too long" in await refusal(running("import time; time.sleep(60)"))
    assert [process.returncode for process in started] == [-signal.SIGKILL]


async def test_a_source_without_a_token_says_so(tmp_path: Path) -> None:
    assert "gave none" in await refusal(running("print()"))
    missing = SaslSettings(mechanism="OAUTHBEARER", token_file=str(tmp_path / "token"))
    assert "cannot be read" in await refusal(_Tokens(missing))
    nothing = SaslSettings(mechanism="OAUTHBEARER", token_command=["no-such-program", SECRET])
    assert "failed" in await refusal(_Tokens(nothing))
