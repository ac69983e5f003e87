from __future__ import annotations

import pytest

from fakes import FakeRecord
from sluiced.identity import COORDINATES, identity, resolve, text_of, tokens_of


def test_by_default_a_record_is_known_by_its_coordinates() -> None:
    assert identity(COORDINATES)(FakeRecord("pages", 3, 42)) == "pages-3-42"


def test_the_key_can_be_the_id() -> None:
    assert identity("$key")(FakeRecord(key="köln".encode())) == "köln"


@pytest.mark.parametrize(("key", "why"), [(None, "no key"), (b"\xff", "not UTF-8")])
def test_a_record_whose_key_cannot_be_an_id_says_so(key: bytes | None, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        identity("$key")(FakeRecord(key=key))


@pytest.mark.parametrize(
    ("pointer", "value", "expected"),
    [
        ("/slug", b'{"slug":"koeln"}', "koeln"),
        ("/a/1/b", b'{"a":[0,{"b":7}]}', "7"),
        ("/a~1b/m~0n", b'{"a/b":{"m~n":"x"}}', "x"),
        ("/id", b'{"id":12345678901234567890}', "12345678901234567890"),
        ("/id", b'{"id":1.5}', "1.5"),
        ("/id", b'{"id":true}', "true"),
        ("/", b'{"":"empty name"}', "empty name"),
    ],
)
def test_a_json_pointer_leads_to_the_id(pointer: str, value: bytes, expected: str) -> None:
    assert identity(pointer)(FakeRecord(value=value)) == expected


@pytest.mark.parametrize(
    "value",
    [
        b'{"other":1}',
        b'{"slug":null}',
        b'{"slug":""}',
        b'{"slug":["a"]}',
        b'{"slug":{"a":1}}',
        b"[1]",
        b'"slug"',
        b"not JSON",
        b"\xff\xfe",
        b"",
        b"[" * 100_000,
        None,
    ],
)
def test_a_record_without_an_id_at_the_pointer_names_the_pointer(value: bytes | None) -> None:
    with pytest.raises(ValueError, match="/slug"):
        identity("/slug")(FakeRecord(value=value))


@pytest.mark.parametrize("token", ["-", "-1", "2", "1.0", "²"])
def test_what_is_no_index_into_a_list_is_not_found(token: str) -> None:
    with pytest.raises(LookupError):
        resolve(["a", "b"], (token,))


@pytest.mark.parametrize("template", ["", "slug", "$value", "$key-x", "$topic"])
def test_another_template_is_refused_with_the_ones_that_there_are(template: str) -> None:
    with pytest.raises(ValueError, match=r"\$key"):
        identity(template)


def test_the_empty_pointer_is_the_whole_document() -> None:
    assert tokens_of("") == ()
    assert resolve({"a": 1}, ()) == {"a": 1}


def test_a_pointer_without_its_slash_is_refused() -> None:
    with pytest.raises(ValueError, match="starts with"):
        tokens_of("items")


def test_an_escaped_tilde_before_a_one_stays_a_tilde() -> None:
    assert tokens_of("/~01") == ("~1",)


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (1, "1"), (True, "true"), (False, "false"), (None, None), ([], None), ({}, None)],
)
def test_ids_are_compared_as_the_text_that_json_would_show(value: object, text: str | None) -> None:
    assert text_of(value) == text
