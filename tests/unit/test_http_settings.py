from __future__ import annotations

from typing import Any

import msgspec
import pytest

from contract.api import http_settings
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
        ({"response": {"items": "responses", "status": "/s"}}, "items: a JSON pointer"),
        ({"response": {"items": "/r", "status": "s"}}, "status: a JSON pointer"),
        ({"response": {"error": "e"}}, "error: a JSON pointer"),
        ({"response": {"items": "/r"}}, "status, error or both"),
        ({"response": {"format": "ndjson"}}, "status, error or both"),
        ({"response": {"format": "ndjson", "items": "/r", "status": "/s"}}, "lines"),
        ({"response": {"status": "/s"}}, "set items"),
        ({"response": {"id": "/s"}}, "set items"),
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
        ({"response": {"on_error": {"error": "/e", "retry": [404]}}}, "set its items"),
        ({"response": {"on_error": {"max_bytes": "1MiB"}}}, "max_bytes"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_with_the_way_out(keys: dict[str, Any], word: str) -> None:
    assert word in refusal(**keys)


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
