from __future__ import annotations

from typing import Any

import msgspec
import pytest

from contract.api import http_settings
from sluiced.sinks.http_settings import BodySettings, HttpSettings
from sluiced.sinks.template import HEADER, Template

URL = "https://api.example.com/bulk"


def refusal(url: str = URL, **keys: Any) -> str:
    with pytest.raises(msgspec.ValidationError) as caught:
        http_settings(url, **keys)
    return str(caught.value)


def test_the_defaults_are_the_documented_ones() -> None:
    settings = http_settings(URL)
    assert settings.method == "POST"
    assert (settings.timeout, settings.connect_timeout) == (30, 5)
    assert (settings.max_records, settings.max_bytes) == (1000, 10 * 1024**2)
    body, response = settings.body, settings.response
    assert (body.item, body.separator, body.envelope) == ("$value", ",", "[$items]")
    assert response.delivered == (200, 201, 202, 204)
    assert response.retry == (408, 425, 429, 500, 502, 503, 504)
    assert (response.format, response.items, response.max_bytes) == ("json", None, 16 * 1024**2)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/bulk",
        "https://[::1]:8443/",
        "https://api.example.com/$topic/bulk?dedup=$batch_id&n=$name&price=$$5",
        "HTTPS://api.example.com",
        "https://api.example.com/?insert_deduplication_token=$batch_id",
        "https://api.example.com/a%20b",
    ],
)
def test_a_url_may_hold_placeholders_in_path_and_query(url: str) -> None:
    assert http_settings(url).url == url


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "character"),
        ("api.example.com/bulk", "http://"),
        ("ftp://api.example.com/", "http://"),
        ("file:///etc/passwd", "http://"),
        ("https:///bulk", "http://"),
        ("$name://api.example.com/", "http://"),
        ("https://$topic.example.com/", "host or port"),
        ("https://api.example.com:$name/", "port"),
        ("https://api.example.com$$/", "host or port"),
        ("https://api.example.com:99999/", "port"),
        ("https://[::1/", "host"),
        ("https://user@api.example.com/", "password"),
        ("https://user:hunter2@api.example.com/", "password"),
        ("https://api.example.com/#top", "fragment"),
        ("https://api.example.com/a b", "percent-encode"),
        ("https://api.example.com/a\r\nX: y", "percent-encode"),
        ("https://api.example.com/ü", "percent-encode"),
        ("https://api.example.com/100%", "percent-encode"),
        ("https://api.example.com/$key", "$batch_id"),
        ("https://api.example.com/?a=$", "dollar"),
        ("https://api..example.com/", "host"),
        (f"https://{'x' * 64}.example.com/", "host"),
        ("https://api.example.com/?api_key=hunter2", "secret"),
        ("https://api.example.com/?access_token=hunter2", "secret"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_way_out(url: str, word: str) -> None:
    text = refusal(url)
    assert "url" in text
    assert word in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "authorization",
        "Proxy-Authorization",
        "Cookie",
        "X-Api-Key",
        "apikey",
        "X_API_KEY",
        "X-Auth-Token",
        "Client-Secret",
        "X-Password",
    ],
)
def test_a_literal_secret_in_a_header_is_refused_and_not_repeated(name: str) -> None:
    text = refusal(headers={name: "hunter2"})
    assert name in text
    assert "env" in text
    assert "hunter2" not in text
    assert http_settings(URL, headers={name: {"env": "API_TOKEN"}})


def test_a_header_that_is_only_a_placeholder_holds_no_secret() -> None:
    assert http_settings(URL, headers={"X-Dedup-Token": "$batch_id"})


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ({"": "x"}, "name of a header"),
        ({"X Y": "x"}, "name of a header"),
        ({"X:Y": "x"}, "name of a header"),
        ({"X-Ü": "x"}, "name of a header"),
        ({"X": "a\r\nY: b"}, "one line"),
        ({"X": "ü"}, "ASCII"),
        ({"X": "$key"}, "$batch_id"),
        ({"X": "5$"}, "$$"),
        ({"Content-Length": "5"}, "daemon itself"),
        ({"Transfer-Encoding": "chunked"}, "daemon itself"),
        ({"Accept-Encoding": "br"}, "daemon itself"),
        ({"X-A": "1", "x-a": "2"}, "twice"),
        ({"idempotency-key": "1"}, "twice"),
        ({"Authorization": {"env": "A", "prefix": "a\nb"}}, "prefix"),
    ],
)
def test_headers_that_no_request_can_have_are_refused(headers: dict[str, Any], word: str) -> None:
    assert word in refusal(headers=headers, idempotency_header="Idempotency-Key")


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"idempotency_quoted": True}, "idempotency_header"),
        ({"idempotency_header": "Key:"}, "idempotency_header"),
        ({"idempotency_header": "Content-Length"}, "daemon itself"),
        ({"timeout": "0s"}, "0s"),
        ({"connect_timeout": "0s"}, "0s"),
        ({"max_bytes": "0B"}, "max_bytes"),
        ({"max_records": 0}, "max_records"),
        ({"method": "GET"}, "method"),
        ({"compression": "brotli"}, "compression"),
        ({"surprise": 1}, "surprise"),
        ({"body": {"item": "{}"}}, "$value"),
        ({"body": {"item": "$vaule"}}, "$value"),
        ({"body": {"item": "$value_strin"}}, "$value_string"),
        ({"body": {"item": "$header"}}, "$header.NAME"),
        ({"body": {"item": "$header."}}, "$header.NAME"),
        ({"body": {"item": "$value $"}}, "$$"),
        ({"body": {"item": "$batch_id"}}, "$value"),
        ({"body": {"envelope": "[]"}}, "$items"),
        ({"body": {"envelope": "$items$items"}}, "once"),
        ({"body": {"envelope": "$value"}}, "$items"),
        ({"body": {"envelope": "$items_count"}}, "$items exactly"),
        ({"response": {"items": "responses", "status": "/s"}}, "items: a JSON pointer"),
        ({"response": {"items": "/r", "status": "s"}}, "status: a JSON pointer"),
        ({"response": {"error": "e"}}, "error: a JSON pointer"),
        ({"response": {"items": "/r"}}, "status, error or both"),
        ({"response": {"format": "ndjson"}}, "status, error or both"),
        ({"response": {"format": "ndjson", "items": "/r", "status": "/s"}}, "lines"),
        ({"response": {"id": "/s"}}, "set items"),
        ({"response": {"index": "/n"}}, "set items"),
        ({"response": {"partial": True}}, "set items"),
        ({"response": {"items": "/r", "error": "/e", "index": "n"}}, "index: a JSON pointer"),
        ({"response": {"items": "/r", "error": "/e", "index": "/n", "id": "/i"}}, "remove one"),
        ({"response": {"rejected": ["bad"]}}, "without items"),
        ({"response": {"rejected": [206]}}, "without items"),
        (
            {"response": {"items": "", "status": "/s", "rejected": [500]}},
            "500 is in retry and in rejected",
        ),
        (
            {"response": {"status": "/s", "delivered": ["ok"], "rejected": ["ok"]}},
            "ok is in delivered and in rejected",
        ),
        ({"response": {"delivered": ["done"]}}, "without items"),
        ({"response": {"delivered": [501]}}, "without items"),
        ({"response": {"delivered": [302]}}, "without items"),
        ({"response": {"retry": [206]}}, "without items"),
        ({"response": {"retry": ["busy"]}}, "without items"),
        (
            {"response": {"items": "", "status": "/s", "delivered": [409], "retry": ["409"]}},
            "409 is in delivered and in retry",
        ),
        ({"response": {"max_bytes": "0B"}}, "max_bytes"),
        ({"response": {"on_error": {"items": "/e"}}}, "status, error or both"),
        ({"response": {"on_error": {"error": "/e", "retry": [404]}}}, "set one of these"),
        ({"response": {"on_error": {"error": "/e", "rejected": [404]}}}, "set one of these"),
        ({"response": {"on_error": {"max_bytes": "1MiB"}}}, "max_bytes"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_with_the_way_out(keys: dict[str, Any], word: str) -> None:
    assert word in refusal(**keys)


FOLLOW = {"url": f"{URL}/$found", "found": "/id", "status": "/state", "pending": ["running"]}


def test_what_is_begun_may_be_followed() -> None:
    settings = http_settings(URL, response={"follow": FOLLOW})
    assert settings.response.follow is not None
    assert settings.response.follow.interval == 1


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"url": f"{URL}/all"}, "$found"),
        ({"url": f"{URL}/$batch_id"}, "$found"),
        ({"url": "https://elsewhere.example.com/$found"}, "scheme, host and port"),
        ({"url": "http://api.example.com/$found"}, "scheme, host and port"),
        ({"url": f"{URL}/$found?token=hunter2"}, "follow.url: the query's token"),
        ({"found": "id"}, "found: a JSON pointer"),
        ({"status": "state"}, "status: a JSON pointer"),
        ({"pending": []}, "pending"),
        ({"interval": "0s"}, "interval"),
    ],
    ids=str,
)
def test_what_cannot_be_followed_is_refused(keys: dict[str, Any], word: str) -> None:
    text = refusal(response={"follow": FOLLOW | keys})
    assert word in text
    assert "hunter2" not in text


def test_a_batch_id_in_the_envelope_is_what_the_api_knows_a_batch_by() -> None:
    body = {"envelope": '{"transactionId":"$batch_id","mutations":[$items]}'}
    assert http_settings(URL, body=body).identified_by == "batch"
    assert http_settings(URL).identified_by == "none"


def test_an_item_list_may_be_judged_by_words() -> None:
    response = {"items": "/r", "status": "/s", "delivered": ["ok", 201], "retry": ["busy"]}
    assert http_settings(URL, response=response).response.delivered == ("ok", 201)


def test_what_may_be_shown_of_the_address_is_its_origin() -> None:
    assert http_settings("https://a.example:8443/x?y=$name").origin == "https://a.example:8443"


def test_a_template_is_literals_around_names() -> None:
    known = ["value", "value_string", HEADER]
    template = Template.parse("a$$b$value$value_string$header.x-y.z,", known)
    assert template.literals == ("a$b", "", "", ",")
    assert template.names == ("value", "value_string", "header.x-y.z")
    assert template.fill(dict.fromkeys(template.names, "_")) == "a$b___,"


@pytest.mark.parametrize(
    ("set_", "kind"),
    [
        ({}, "none"),
        ({"idempotency_header": "Idempotency-Key"}, "batch"),
        ({"url": "https://api.example.com/bulk?dedup=$batch_id"}, "batch"),
        ({"headers": {"X-Batch": "$batch_id"}}, "batch"),
        ({"body": BodySettings(item='{"_id":$id,"doc":$value}')}, "item"),
        ({"body": BodySettings(item='{"n":$offset}')}, "item"),
        ({"body": BodySettings(item='{"_id":$id}'), "idempotency_header": "Key"}, "batch"),
        ({"body": BodySettings(item='{"_id":$id}'), "identifies": "none"}, "none"),
        ({"idempotency_header": "Key", "identifies": "item"}, "item"),
    ],
)
def test_what_identifies_the_work_follows_from_the_request_unless_it_is_said(
    set_: dict[str, object], kind: str
) -> None:
    settings = HttpSettings(**({"url": "https://api.example.com/bulk"} | set_))  # type: ignore[arg-type]
    assert settings.identified_by == kind


def test_a_batch_cannot_be_identified_by_an_id_that_is_not_sent() -> None:
    with pytest.raises(ValueError, match="set idempotency_header, or put"):
        HttpSettings(url="https://api.example.com/bulk", identifies="batch")
