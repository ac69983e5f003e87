"""Durations, sizes and secrets as a user writes them."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluiced.units import Duration, Patience, Secret, Size, decode


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("2s", 2), ("1.5s", 1.5), ("15m", 900), ("1h", 3600), ("1d", 86400)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [("7B", 7), ("500KB", 500_000), ("4KiB", 4096), ("4MiB", 4 * 1024**2), ("1GB", 10**9)],
)
def test_kb_is_1000_bytes_and_kib_1024(text: str, count: int) -> None:
    assert Size.parse(text) == count


@pytest.mark.parametrize("text", ["", "2", 2, 2.0, True, None, "s", "-2s", "2 weeks", "2S", "nans"])
def test_a_duration_without_a_known_unit_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match='such as "500ms"'):
        Duration.parse(text)


@pytest.mark.parametrize("text", ["", "4", 4, "4M", "4mib", "-4B", "4 MiB each", "infB"])
def test_a_size_without_a_known_unit_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match='such as "4MiB"'):
        Size.parse(text)


@pytest.mark.parametrize(("kind", "unit"), [(Duration, "s"), (Patience, "s"), (Size, "B")])
def test_a_number_too_long_to_be_meant_is_refused_and_does_not_overflow(
    kind: type[Duration], unit: str
) -> None:
    with pytest.raises(ValueError, match="such as"):
        kind.parse("9" * 400 + unit)


def test_digits_of_other_scripts_are_refused() -> None:
    with pytest.raises(ValueError, match="such as"):
        Duration.parse("٢s")


def test_patience_may_be_endless() -> None:
    assert Patience.parse("never") == math.inf
    assert Patience.parse("2s") == 2
    with pytest.raises(ValueError, match='or "never"'):
        Patience.parse("always")


@given(st.integers(0, 10**9), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_duration_reads_back_as_it_is_shown(number: int, unit: str) -> None:
    duration = Duration.parse(f"{number}{unit}")
    assert math.isclose(Duration.parse(str(duration)), duration)


@given(st.integers(0, 10**14))
def test_a_size_reads_back_as_it_is_shown(number: int) -> None:
    assert Size.parse(str(Size(number))) == number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Duration(0.25), "250ms"),
        (Duration(45), "45s"),
        (Duration(90), "90s"),
        (Duration(7200), "2h"),
        (Patience(math.inf), "never"),
        (Size(4 * 1024**2), "4MiB"),
        (Size(500_000), "500KB"),
        (Size(0), "0B"),
    ],
)
def test_they_are_shown_as_a_user_would_write_them(value: object, text: str) -> None:
    assert str(value) == text
    assert f"{value}" == text


def test_msgspec_decodes_them_with_the_hook() -> None:
    assert msgspec.convert("2s", Duration, dec_hook=decode) == Duration(2)
    with pytest.raises(msgspec.ValidationError, match="expected a size"):
        msgspec.convert(4, Size, dec_hook=decode)


def test_a_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMS_TOKEN", "hunter2")
    assert Secret(env="CMS_TOKEN", prefix="Bearer ").reveal() == "Bearer hunter2"


def test_a_secret_comes_from_a_file_without_its_last_newline(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2\n")
    assert Secret(file=str(tmp_path / "token")).reveal() == "hunter2"


def test_a_secret_comes_from_systemds_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "api-token").write_text("hunter2")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Secret(credential="api-token").reveal() == "hunter2"


def test_a_rotated_secret_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "token"
    secret = Secret(file=str(file))
    file.write_text("old")
    assert secret.reveal() == "old"
    file.write_text("new")
    assert secret.reveal() == "new"


@pytest.mark.parametrize(
    ("secret", "where"),
    [
        (Secret(env="NOBODY_SETS_THIS"), "environment variable NOBODY_SETS_THIS is not set"),
        (Secret(file="no/such/token"), "secret file no/such/token cannot be read: No such file"),
        (Secret(credential="api-token"), r"api-token needs \$CREDENTIALS_DIRECTORY"),
    ],
)
def test_a_missing_secret_says_where_it_was_looked_for(
    secret: Secret, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ValueError, match=where):
        secret.reveal()


@pytest.mark.parametrize("content", [b"", b"\n", b"hunter2\nhunter3", b"hunter2\0", b"hunter2\xff"])
def test_a_secret_that_no_header_can_carry_is_refused_unseen(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ValueError, match="secret") as caught:
        Secret(file=str(tmp_path / "token")).reveal()
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("fields", [{}, {"env": "A", "file": "b"}, {"credential": "a/b"}])
def test_a_secret_has_exactly_one_place_and_a_credential_is_no_path(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"secret has exactly one|not a path"):
        Secret(**fields)


def test_a_printed_secret_shows_its_place_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMS_TOKEN", "hunter2")
    secret = Secret(env="CMS_TOKEN")
    secret.reveal()
    assert str(secret) == "env CMS_TOKEN"
    assert "hunter2" not in repr(secret)
