from __future__ import annotations

from pathlib import Path

import pytest

from sluiced.cgroup import UNLIMITED, memory_limit


def limit(directory: Path, mine: str, **files: str) -> int | None:
    """The limit by these files, a "__" for each "/" of their paths."""
    for name, text in files.items():
        path = directory / "sys" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    (directory / "mine").write_text(mine)
    return memory_limit(directory / "sys", directory / "mine")


def test_the_least_limit_of_all_groups_above_counts(tmp_path: Path) -> None:
    files = {"memory_dot_max": "max", "a__memory_dot_max": "300", "a__b__memory_dot_max": "500"}
    assert limit(tmp_path, "0::/a/b\n", **files) == 300


def test_version_1_is_read_as_well(tmp_path: Path) -> None:
    files = {
        "memory__memory_dot_limit_in_bytes": str(2**63 - 4096),
        "memory__a__memory_dot_limit_in_bytes": "400",
    }
    assert limit(tmp_path, "4:memory:/a\n0::/\n", **files) == 400


def test_in_a_container_the_group_at_the_root_is_ours(tmp_path: Path) -> None:
    assert limit(tmp_path, "0::/docker/12ab\n", memory_dot_max="700") == 700


@pytest.mark.parametrize("text", ["max", str(UNLIMITED), "", "no number"])
def test_no_limit_is_none(text: str, tmp_path: Path) -> None:
    assert limit(tmp_path, "0::/\n", memory_dot_max=text) is None


def test_a_machine_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path / "sys", tmp_path / "mine") is None
