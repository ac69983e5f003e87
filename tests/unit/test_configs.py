"""Every file in configs/ is one that `sluiced check` accepts without a word of warning."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from sluiced.config import conflicts, load

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


def test_there_are_examples() -> None:
    assert CONFIGS


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_check_accepts(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for kind, name in references(tomllib.loads(file.read_text())):
        if kind == "env":
            monkeypatch.setenv(name, "secret")
        else:
            (tmp_path / name).write_text("secret")
    assert [str(problem) for problem in conflicts(load(file))] == []


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_example_begins_with_what_it_is_for(file: Path) -> None:
    assert file.read_text().startswith("# ")


def references(value: Any) -> list[tuple[str, str]]:
    """The environment variables and credentials that a file refers to."""
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    if not isinstance(value, dict):
        return []
    own = [
        (kind, value[kind]) for kind in ("env", "credential") if isinstance(value.get(kind), str)
    ]
    return own + [found for item in value.values() for found in references(item)]
