"""What APIs say of their limits, in the words of those that are about."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from fakes import batch_of
from sluiced.feedback import Allowance, Feedback
from sluiced.identity import COORDINATES, identity
from sluiced.outcome import Again, Answered, Outcome
from sluiced.sinks.allowances import allowances, seconds_until
from sluiced.sinks.http_settings import HttpSettings, ResponseSettings
from sluiced.sinks.response import Answer, ResponseReader

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z

OPENAI = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-reset-tokens": "6m0s",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-requests-reset": "2023-11-14T22:13:21Z",
    "anthropic-ratelimit-tokens-limit": "40000",
    "anthropic-ratelimit-tokens-remaining": "39000",
    "anthropic-ratelimit-tokens-reset": "2023-11-14T22:14:20+00:00",
    "anthropic-ratelimit-output-tokens-limit": "8000",
    "anthropic-ratelimit-output-tokens-remaining": "0",
    "anthropic-ratelimit-output-tokens-reset": "2023-11-14T23:13:50+01:00",
}
GITHUB = {
    "X-RateLimit-Limit": "5000",
    "X-RateLimit-Remaining": "0",
    "X-RateLimit-Reset": "1700000372",
    "X-RateLimit-Used": "5000",
}


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (
            OPENAI,
            {
                Allowance("requests", 59, 1.0, 60, refills=True),
                Allowance("tokens", 149_984, 360.0, 150_000, refills=True),
            },
        ),
        (
            ANTHROPIC,
            {
                Allowance("requests", 49, 1.0, 50, refills=True),
                Allowance("tokens", 0, 30.0, 8000, refills=True),
            },
        ),
        (GITHUB, {Allowance("requests", 0, 372.0, 5000)}),
        (
            {
                "RateLimit-Limit": "100, 100;w=60",
                "RateLimit-Remaining": "7",
                "RateLimit-Reset": "9",
            },
            {Allowance("requests", 7, 9.0, 100)},
        ),
        ({"RateLimit": "limit=100, remaining=50, reset=5"}, {Allowance("requests", 50, 5.0, 100)}),
        (
            {"RateLimit": '"default";r=50;t=30', "RateLimit-Policy": '"default";q=100;w=10'},
            {Allowance("requests", 50, 30.0, 100)},
        ),
        ({"x-rate-limit-remaining": "3"}, {Allowance("requests", 3)}),
        ({"x-ratelimit-limit-requests": "60"}, set()),
        ({"x-ratelimit-remaining": "many"}, set()),
        ({"x-ratelimit-remaining": "-1"}, set()),
        ({"Content-Type": "application/json", "x-ratelimit-policy": "hard"}, set()),
    ],
)
def test_the_headers_of_known_apis_are_understood(
    headers: dict[str, str], said: set[Allowance]
) -> None:
    assert set(allowances(CIMultiDict(headers), NOW)) == said


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12ms", 0.012),
        ("1s", 1.0),
        ("7.66s", 7.66),
        ("6m0s", 360.0),
        ("1h2m3s", 3723.0),
        ("2m59.56s", 179.56),
        ("1m12ms", 60.012),
        ("1d", 86400.0),
        ("30", 30.0),
        ("0.5", 0.5),
        ("1700000060", 60.0),
        ("1700000060000", 60.0),
        ("1600000000", 0.0),
        ("2023-11-14T22:13:25Z", 5.0),
        ("2023-11-14T22:13:20.500Z", 0.5),
        ("2023-11-14T23:13:25+01:00", 5.0),
        ("2023-11-14T22:13:25", 5.0),
        ("2001-01-01T00:00:00Z", 0.0),
        ("", None),
        ("soon", None),
        ("5 s", None),
        ("-5", None),
        ("inf", None),
        ("9999-99-99T00:00:00Z", None),
    ],
)
def test_times_are_read_in_every_form_that_is_about(text: str, seconds: float | None) -> None:
    assert seconds_until(text, NOW) == (None if seconds is None else pytest.approx(seconds))


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*OPENAI, *ANTHROPIC, *GITHUB, "ratelimit", "ratelimit-policy"]),
        st.text() | st.from_regex(r"[0-9.;=rtqdhmsTZ:+ -]{0,40}"),
    )
)
def test_no_header_makes_an_answer_unreadable(headers: dict[str, str]) -> None:
    for allowance in allowances(CIMultiDict(headers), NOW):
        assert allowance.remaining >= 0
        assert allowance.reset is None or 0 <= allowance.reset < 10**15


# --- with an outcome ------------------------------------------------------------------------------


def outcome(answer: Answer, usage: str | tuple[str, ...] | None = "/usage/total_tokens") -> Outcome:
    settings = HttpSettings(url="http://h/bulk", response=ResponseSettings(usage=usage))
    reader = ResponseReader(settings, identity(COORDINATES), str, lambda: NOW)
    return reader.outcome(batch_of(2), answer)


def test_what_an_api_says_of_its_limits_comes_with_the_outcome_whatever_that_is() -> None:
    left = (Allowance("requests", 0, 372.0, 5000),)
    for status, kind in ((200, Answered), (429, Again)):
        said = outcome(Answer(status, CIMultiDict(GITHUB), b"{}"))
        assert isinstance(said, kind)
        assert said.feedback == Feedback(left)


def test_what_an_answer_has_counted_comes_with_the_outcome() -> None:
    body = b'{"usage":{"total_tokens":123}}'
    assert outcome(Answer(200, {}, body)).feedback == Feedback(tokens=123)
    assert outcome(Answer(200, {}, body), usage=None).feedback is None


def test_of_several_counts_those_that_are_there_are_added_up() -> None:
    body = b'{"usage":{"input_tokens":100,"output_tokens":23,"cache_creation_input_tokens":null}}'
    names = ("input_tokens", "cache_creation_input_tokens", "output_tokens")
    usage = tuple(f"/usage/{name}" for name in names)
    assert outcome(Answer(200, {}, body), usage).feedback == Feedback(tokens=123)
    assert outcome(Answer(200, {}, b"{}"), usage).feedback is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"{}",
        b'{"usage":{"total_tokens":"9"}}',
        b'{"usage":true}',
        b'{"usage":{"total_tokens":%d}}' % 10**400,
    ],
)
def test_an_answer_that_counts_nothing_is_none_the_worse_for_it(body: bytes) -> None:
    said = outcome(Answer(200, {}, body))
    assert isinstance(said, Answered)
    assert said.feedback is None
