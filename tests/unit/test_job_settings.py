"""What is said of a prompt and of prices before anything is sent or paid for."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from sluiced.cli import summary
from sluiced.config import Config, conflicts, load
from sluiced.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs/configuration.md"

BASE = """\
name = "pages"
[kafka]
bootstrap_servers = ["127.0.0.1:9092"]
group_id = "g"
topics = ["prompts"]
[dead_letter]
topic = "dead"
[results]
topic = "answers"
[record]
format = "{format}"
[window]
max_records = {records}
[sink]
type = "{type}"
api_key = {{ env = "KEY" }}
{sink}
"""

CHAT = """
[sink.prompt]
model = "m"
max_tokens = 100
messages = [{ role = "user", content = "$value/name" }]
"""


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "sk-secret")


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    def load_with(
        sink: str, kind: str = "openai-batch", form: str = "json", records: int = 500
    ) -> Config:
        file = tmp_path / "prompts.toml"
        file.write_text(BASE.format(format=form, type=kind, sink=sink, records=records))
        return load(file)

    return load_with


def warnings(config: Config) -> list[str]:
    return [str(problem) for problem in conflicts(config)]


def refusal(loaded: Any, *arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["openai-batch", "anthropic-batch"])
def test_a_prompt_with_all_that_its_endpoint_needs_is_accepted(loaded: Any, kind: str) -> None:
    assert warnings(loaded(CHAT, kind)) == []


@pytest.mark.parametrize(
    ("endpoint", "missing"),
    [
        ("/v1/chat/completions", ["model", "messages"]),
        ("/v1/responses", ["model", "input"]),
        ("/v1/embeddings", ["model", "input"]),
        ("/v1/images/generations", ["prompt"]),
    ],
)
def test_a_key_that_the_endpoint_cannot_do_without_is_missed(
    loaded: Any, endpoint: str, missing: list[str]
) -> None:
    said = refusal(loaded, f'endpoint = "{endpoint}"\n[sink.prompt]\nuser = "$key"')
    for name in missing:
        assert f"sink.prompt: has no {name}, which {endpoint} needs; add it" in said


def test_anthropic_wants_max_tokens(loaded: Any) -> None:
    said = refusal(loaded, CHAT.replace("max_tokens = 100", ""), "anthropic-batch")
    assert "sink.prompt: has no max_tokens, which /v1/messages needs; add it" in said


def test_a_wrong_placeholder_is_told_by_its_place(loaded: Any) -> None:
    said = refusal(loaded, CHAT.replace("$value/name", "$name"))
    assert "sink.prompt: messages[0].content: there is no placeholder $name here" in said
    assert "sk-secret" not in said


def test_what_is_no_json_needs_a_prompt_and_no_pointers(loaded: Any) -> None:
    whole = CHAT.replace("$value/name", "$value")
    assert warnings(loaded(whole, "openai-batch", "text")) == []
    said = refusal(loaded, CHAT, "openai-batch", "text")
    assert 'messages[0].content: $value/name needs [record] format = "json"' in said
    assert "or make it by [sink.prompt]" in refusal(loaded, "", "openai-batch", "text")
    said = refusal(loaded, whole, "openai-batch", "bytes")
    assert 'what is no text makes no prompt; write "json" or "text"' in said


def test_a_job_streams_nothing(loaded: Any) -> None:
    said = refusal(loaded, CHAT + "stream = true")
    assert "sink.prompt.stream: a job has nothing to stream to; remove it" in said


def test_a_prompt_without_anything_of_the_record_is_worth_a_word(loaded: Any) -> None:
    [said] = warnings(loaded(CHAT.replace("$value/name", "hello")))
    assert said.startswith("sink.prompt: nothing of a record goes into it")


def test_windows_that_make_more_than_a_job_takes_are_worth_a_word(loaded: Any) -> None:
    sink = 'max_bytes = "4200KB"\n' + CHAT.replace("$value/name", "$key " + "x" * 5000)
    assert warnings(loaded(sink, records=500)) == []
    [said] = warnings(loaded(sink, records=1000))
    assert said.startswith("window.max_records = 1000: so many requests of sink.prompt are 50")


@pytest.mark.parametrize("kind", ["openai-batch", "anthropic-batch"])
def test_jobs_are_not_looked_at_more_seldom_than_every_hour(loaded: Any, kind: str) -> None:
    assert warnings(loaded('poll = "1h"', kind)) == []
    assert 'sink.poll = "61m": must be at most 1h: an API that has said' in refusal(
        loaded, 'poll = "61m"', kind
    )


def test_prices_are_for_jobs(tmp_path: Path) -> None:
    file = tmp_path / "file.toml"
    text = BASE.partition("[results]")[0] + '[sink]\ntype = "file"\ndirectory = "/tmp"\n'
    file.write_text(text + "[prices.m]\ninput = 1\n")
    with pytest.raises(ConfigError, match="prices: only what a sink of jobs asks for has a price"):
        load(file)


def test_a_model_of_a_prompt_without_a_price_is_worth_a_word(loaded: Any) -> None:
    assert warnings(loaded(CHAT + "[prices.m]\ninput = 1")) == []
    any_model = CHAT.replace('"m"', '"$value/model"')
    assert warnings(loaded(any_model + "[prices.m]\ninput = 1")) == []
    [said] = warnings(loaded(CHAT + "[prices.other]\ninput = 1"))
    assert said.startswith("prices: none for m, the model of sink.prompt")


@pytest.mark.parametrize("amount", ["-1", '"a lot"', "nan", "true"])
def test_a_price_is_an_amount_of_money(loaded: Any, amount: str) -> None:
    said = refusal(loaded, f"{CHAT}[prices.m]\ninput = {amount}")
    assert f"prices.m.input = {amount}: expected an amount of money" in said.replace("NaN", "nan")


def costs(config: Config) -> str:
    return next((line for line in summary(config) if line.startswith("costs")), "")


def test_check_says_what_a_thousand_records_cost(loaded: Any) -> None:
    prices = "[prices.m]\ninput = 2\noutput = 10"
    # 30 bytes of messages are 8 tokens, and 100 may come out.
    assert costs(loaded(CHAT + prices)) == (
        "costs      about 0.016 for 1,000 records by what sink.prompt says, at most 1.00 for their "
        "answers; each 100 bytes that a record brings make 0.05 more"
    )
    unbounded = CHAT.replace("max_tokens = 100", "")
    assert "their answers, to which it sets no bound" in costs(loaded(unbounded + prices))


@pytest.mark.parametrize(
    "sink",
    [CHAT, "[prices.m]\ninput = 2", CHAT.replace('"m"', '"$key"') + "[prices.m]\ninput = 2"],
    ids=["no price", "no prompt", "any model"],
)
def test_check_says_nothing_of_costs_that_it_cannot_know(loaded: Any, sink: str) -> None:
    assert costs(loaded(sink)) == ""


def test_the_documentations_examples_are_good(loaded: Any) -> None:
    section = DOCS.read_text().split("## `[sink.prompt]`")[1].split("## `[results]`")[0]
    prompt, prices = (part.split("```")[0] for part in section.split("```toml\n")[1:])
    assert warnings(loaded(f"{prompt}{prices}")) == []
    assert tomllib.loads(prices)["prices"]["gpt-4.1-mini"]["input"] == 0.2
