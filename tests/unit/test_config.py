"""The configuration file: what is accepted, what is refused, and how a person is told."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from sluiced.config import Config, conflicts, load
from sluiced.config.decode import Decoder
from sluiced.errors import ConfigError
from sluiced.units import Secret, Settings, Size, decode

DOCS = Path(__file__).parents[2] / "docs/configuration.md"

MINIMAL: dict[str, Any] = {
    "name": "pages",
    "kafka": {"bootstrap_servers": ["127.0.0.1:9092"], "group_id": "g", "topics": ["pages"]},
    "sink": {
        "type": "http",
        "url": "https://cms.example.com/bulk",
        "idempotency_header": "Idempotency-Key",
    },
    "dead_letter": {"topic": "pages.dead"},
}

Load = Callable[..., Config]
Refusal = Callable[..., str]


def toml(table: dict[str, Any]) -> str:
    return "".join(f"{_inline(key)} = {_inline(value)}\n" for key, value in table.items())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{k}" = {_inline(v)}' for k, v in value.items()) + " }"
    return msgspec.json.encode(value).decode()


def with_keys(**changes: Any) -> dict[str, Any]:
    """MINIMAL with keys such as window__max_age = "2s" set; None takes one away."""
    table: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(MINIMAL))
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = table
        for parent in parents:
            at = at.setdefault(parent, {})
        if value is None:
            del at[last]
        else:
            at[last] = value
    return table


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    """Loads MINIMAL with changes."""

    def load_with(**changes: Any) -> Config:
        file = tmp_path / "pages.toml"
        file.write_text(toml(with_keys(**changes)))
        return load(file)

    return load_with


@pytest.fixture
def refusal(loaded: Load) -> Refusal:
    """What is said about MINIMAL with changes that make it wrong."""

    def refusal_of(**changes: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            loaded(**changes)
        return str(caught.value)

    return refusal_of


def warnings(config: Config) -> list[str]:
    return [f"{p.key}: {p.text}" for p in conflicts(config) if p.level == "warning"]


# Accepted


def test_the_shortest_file_gets_the_defaults(loaded: Load) -> None:
    config = loaded()
    assert (config.window.max_records, config.window.max_bytes) == (500, 4 * 1024**2)
    assert (config.window.max_age, config.retry.max_delay, config.shutdown.drain) == (2, 60, 30)
    assert config.kafka.isolation_level == "read_committed"
    assert config.admin.listen == "127.0.0.1:9464"
    assert warnings(config) == []


def test_durations_and_sizes_are_read_in_their_units(loaded: Load) -> None:
    config = loaded(window__max_age="1.5s", window__max_bytes="500KB")
    assert (config.window.max_age, config.window.max_bytes) == (1.5, 500_000)


def test_a_pipeline_without_dead_letters_halts_instead(loaded: Load) -> None:
    assert loaded(dead_letter={"on_reject": "halt"}).dead_letter.topic is None


# Not a configuration at all


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file"):
        load(tmp_path / "none.toml")


def test_a_directory_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'name = "a"\nkafka = \n', "not TOML: .*line 2, column 9"),
        (b'name = "\xff"', "not UTF-8: .* at byte 8"),
        (b"a = " + b"[" * 5000, "not TOML: nested too deeply"),
        (b"a = " + b"9" * 5000, "not TOML: "),
    ],
)
def test_a_file_that_cannot_be_read_says_where(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "pages.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load(tmp_path / "pages.toml")


# One key at a time


def test_an_error_names_the_file_the_key_the_value_and_what_to_write(refusal: Refusal) -> None:
    said = refusal(kafka__session_timeout="45")
    assert "pages.toml" in said
    assert 'kafka.session_timeout = "45": expected a duration such as "500ms"' in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"window__max_records": 0}, "window.max_records = 0: expected a whole number >= 1"),
        ({"window__max_records": True}, "window.max_records = true: expected a whole number"),
        ({"window__max_age": 2}, "window.max_age = 2: expected a duration"),
        ({"window__max_age": "0s"}, 'window.max_age = "0s": must be more than 0s'),
        ({"window__collapse": "yes"}, 'window.collapse = "yes": expected true or false'),
        ({"window": 3}, "window = 3: expected a table\n"),
        ({"kafka__topics": []}, "kafka.topics = []: expected a list that is not empty"),
        ({"kafka__topics": ["a", 3]}, "kafka.topics[1]: expected a string"),
        ({"kafka__start_at": "end"}, 'start_at = "end": expected one of "earliest", "latest"'),
        ({"record__id": "slug"}, 'record.id = "slug": expected "$topic-$partition-$offset"'),
        ({"dead_letter__max_ratio": 1.5}, "dead_letter.max_ratio = 1.5: expected a number <= 1"),
        ({"limits__max_in_flight": "all"}, 'expected a whole number >= 1 or "auto"'),
        ({"window__max_records": "all"}, 'expected a whole number >= 1 or "auto"'),
        ({"limits__most_in_flight": 0}, "limits.most_in_flight = 0: expected a whole number >= 1"),
        ({"limits__burst": 2}, "limits.burst = 2: expected a number <= 1"),
        ({"limits__bytes_per_day": 9}, "limits.bytes_per_day = 9: expected a size"),
        ({"limits__bytes_per_day": "0B"}, 'limits.bytes_per_day = "0B": must be at least 1B'),
        ({"limits__tokens": "n"}, 'limits.tokens = "n": a JSON pointer is empty or starts'),
        ({"limits__memory": "1MiB"}, 'limits.memory = "1MiB": must be at least 16MiB'),
        ({"admin__listen": "9464"}, 'admin.listen = "9464": is host:port'),
        ({"name": "a b"}, 'name = "a b": expected 1 to 64 letters'),
        ({"sink__method": "GET"}, 'sink.method = "GET": expected one of "POST"'),
        ({"sink__type": "htp"}, 'sink.type = "htp": there is no such type; write one of "http"'),
        ({"sink__headers": {"X-A": 3}}, "sink.headers.X-A: expected a string or a secret"),
        ({"sink__body": {"item": "x"}}, 'sink.body.item = "x": has no placeholder'),
        ({"kafka__sasl": {"mechanism": "PLAIN"}}, "kafka.sasl: PLAIN takes username and password"),
    ],
)
def test_a_wrong_value_is_refused(changes: dict[str, Any], said: str, refusal: Refusal) -> None:
    assert said in refusal(**changes)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("name", "name"),
        ("kafka__topics", "kafka.topics"),
        ("sink__url", "sink.url"),
        ("sink__type", "sink.type"),
    ],
)
def test_a_key_that_is_required_is_asked_for(path: str, key: str, refusal: Refusal) -> None:
    assert f"{key} is required" in refusal(**{path: None})


def test_of_a_table_that_is_missing_the_keys_are_asked_for(refusal: Refusal) -> None:
    said = refusal(kafka=None, dead_letter=None)
    assert "kafka.group_id is required" in said
    assert 'dead_letter: set topic, or on_reject = "halt"' in said


def test_an_unknown_key_is_refused_with_the_nearest_known_one(refusal: Refusal) -> None:
    said = refusal(kafka__sesion_timeout="45s")
    assert "kafka.sesion_timeout: unknown key; did you mean session_timeout?" in said


def test_an_unknown_key_that_is_near_to_none_is_refused_all_the_same(refusal: Refusal) -> None:
    assert "zzz: unknown key; remove it" in refusal(zzz=1)
    assert "sink.headers.A.zzz: unknown key" in refusal(sink__headers={"A": {"zzz": "b"}})


def test_a_key_that_toml_would_quote_is_quoted_and_cannot_steer_a_terminal(
    refusal: Refusal,
) -> None:
    assert '  "a b": unknown key' in refusal(**{"a b": 1})
    assert '  "\\u001b[2J\\u202e": unknown key' in refusal(**{"\x1b[2J\u202e": 1})


def test_all_problems_are_told_at_once(refusal: Refusal) -> None:
    said = refusal(zzz=1, kafka__start_at="end", window__max_age="0s", log={"level": "loud"})
    for key in ("zzz", "kafka.start_at", "window.max_age", "log.level"):
        assert f"  {key}" in said


def test_a_hundred_problems_fit_on_a_screen(refusal: Refusal) -> None:
    said = refusal(**{f"k{i}": 1 for i in range(100)})
    assert "and 84 more" in said
    assert len(said.splitlines()) < 24


def test_of_a_sink_that_there_is_not_nothing_else_is_complained_about(refusal: Refusal) -> None:
    said = refusal(sink={"type": "htp", "dsn": "later://hunter2@db/x", "table": "pages"})
    assert said.count("sink.") == 1


# Secrets


@pytest.mark.parametrize(
    "changes",
    [
        {"kafka__sasl": {"mechanism": "PLAIN", "username": "u", "password": "hunter2"}},
        {"kafka__sasl": {"mechanism": "PLAIN", "username": "u", "password": {"value": "hunter2"}}},
        {"kafka__sasl": {"mechanism": "PLAIN", "passwrd": "hunter2"}},
        {"kafka__bootstrap_servers": "hunter2@127.0.0.1:9092"},
        {"kafka__bootstrap_servers": ["sasl://u:hunter2@127.0.0.1:9092"]},
        {"sink__headers": {"Authorization": "Bearer hunter2"}},
        {"sink__headers": {"X-Api-Key": ["hunter2"]}},
        {"sink__headers": "Authorization: hunter2"},
        {"sink__url": "https://u:hunter2@cms.example.com/bulk"},
        {"sink__url": "cms.example.com/bulk?key=hunter2"},
        {"sink__url": "ftp://cms.example.com/bulk?token=hunter2"},
        {"sink__url": "https://cms.example.com/bulk?token=hunter2"},
        {"sink": {"type": "postgres", "dsn": "postgres://u:hunter2@db/x"}},
        {"sink": {"type": "openai-batch", "api_key": "hunter2"}},
        {"sink__api_key": "hunter2"},
        {"sink__password": {"hunter": {"x": "hunter2"}}},
        {"results": {"token": "hunter2"}},
        {"admin__listen": "u:hunter2@127.0.0.1:1:2"},
    ],
)
def test_a_secret_that_was_written_out_is_refused_and_never_shown(
    changes: dict[str, Any], refusal: Refusal
) -> None:
    assert "hunter2" not in refusal(**changes)


def test_a_literal_secret_is_answered_with_where_it_may_stand(refusal: Refusal) -> None:
    sasl = {"mechanism": "SCRAM-SHA-512", "username": "u", "password": "hunter2"}
    assert 'kafka.sasl.password: a secret never stands in this file; write { env = "NAME" }' in (
        refusal(kafka__sasl=sasl)
    )


def test_a_literal_in_a_header_for_secrets_is_refused_by_the_headers_name(
    refusal: Refusal,
) -> None:
    said = refusal(sink__headers={"Authorization": "Bearer hunter2"})
    assert "  sink.headers: Authorization is taken for a secret" in said


def test_a_secret_that_is_not_there_is_found_when_the_file_is_loaded(
    refusal: Refusal, loaded: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"sink__headers": {"Authorization": {"env": "CMS_TOKEN"}}}
    said = refusal(**changes)
    assert "sink.headers.Authorization: the environment variable CMS_TOKEN is not set" in said
    monkeypatch.setenv("CMS_TOKEN", "hunter2")
    assert loaded(**changes).sink.headers == {"Authorization": Secret(env="CMS_TOKEN")}


def test_certificates_and_tokens_that_are_not_there_are_found(refusal: Refusal) -> None:
    assert "kafka.tls.ca: there is no file no.pem" in refusal(kafka__tls={"ca": "no.pem"})
    oauth: dict[str, Any] = {"mechanism": "OAUTHBEARER", "token_file": "no.jwt"}
    said = refusal(kafka__tls={}, kafka__sasl=oauth)
    assert "kafka.sasl.token_file: no.jwt cannot be read" in said
    oauth = {"mechanism": "OAUTHBEARER", "token_command": ["no-such-program", "hunter2"]}
    said = refusal(kafka__tls={}, kafka__sasl=oauth)
    assert "kafka.sasl.token_command: there is no program no-such-program" in said
    assert "hunter2" not in said


def test_a_path_that_cannot_be_looked_at_is_told_with_the_reason(refusal: Refusal) -> None:
    path = "n" * 300
    assert f"kafka.tls.ca: {path} cannot be read: File name too long" in refusal(
        kafka__tls={"ca": path}
    )


# What does not go together


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"window__max_records": 1001}, "window.max_records = 1001: more than sink.max_records"),
        ({"window__max_bytes": "11MiB"}, "window.max_bytes = 11MiB: more than sink.max_bytes"),
        (
            {"limits__memory": "16MiB", "limits__max_in_flight": 2},
            "limits.memory = 16MiB: too little for windows of window.max_bytes = 4MiB with "
            "limits.max_in_flight = 2",
        ),
        (
            {"limits__records_per_hour": 499},
            "limits.records_per_hour = 499: less than window.max_records = 500",
        ),
        (
            {"limits__bytes_per_minute": "1MiB"},
            "limits.bytes_per_minute = 1MiB: less than window.max_bytes = 4MiB",
        ),
        (
            {"limits__max_in_flight": "auto", "limits__most_in_flight": 100},
            "windows of window.max_bytes = 4MiB with limits.most_in_flight = 100",
        ),
        ({"kafka__session_timeout": "25d"}, "kafka.session_timeout = 25d: longer than"),
        ({"shutdown__drain": "25d"}, "shutdown.drain = 25d: longer than"),
        ({"dead_letter__topic": "pages"}, 'dead_letter.topic = "pages": also in kafka.topics'),
        ({"dead_letter__topic": "a/b"}, 'dead_letter.topic = "a/b": not a topic'),
        ({"kafka__topics": ["pages.*"]}, 'kafka.topics = "pages.*": not a topic'),
        ({"kafka__topics": [".."]}, 'kafka.topics = "..": not a topic'),
        ({"kafka__bootstrap_servers": ["a:1,b:2"]}, "an entry is one host:port"),
        (
            {"kafka__topics": ["a", "b"], "sink__url": "https://cms.example.com/$topic"},
            "$topic stands in the URL or a header",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes: dict[str, Any], said: str, refusal: Refusal
) -> None:
    assert said in refusal(**changes)


def test_at_the_very_bound_nothing_is_refused(loaded: Load) -> None:
    loaded(window__max_records=1000, window__max_bytes="10MiB", limits__memory="40MiB")


def test_a_topic_in_the_url_is_fine_where_a_window_has_one(loaded: Load) -> None:
    loaded(sink__url="https://cms.example.com/$topic")
    loaded(
        sink__url="https://cms.example.com/$topic",
        kafka__topics=["a", "b"],
        window__span="partition",
    )


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (
            {"dead_letter__retry_after": "15m", "record__id": "$key"},
            "dead_letter.retry_after",
        ),
        (
            {"dead_letter__retry_after": "15m", "kafka__isolation_level": "read_uncommitted"},
            "kafka.isolation_level",
        ),
        ({"limits__records_per_minute": 1200}, "limits.records_per_minute"),
        ({"limits__tokens": "/max_tokens"}, "limits.tokens"),
        ({"limits__most_in_flight": 8}, "limits.most_in_flight"),
        ({"sink__response": {"usage": "/usage"}}, "sink.response.usage"),
        ({"sink__response": {"usage": ["/in", "/out"]}}, "sink.response.usage"),
        ({"window__align": "1d Europe/Berlin", "window__max_age": "23h"}, "window.align"),
        ({"window__collapse": True}, "window.collapse"),
        ({"record__format": "text"}, "record.format"),
        ({"sink__idempotency_header": None}, "sink.idempotency_header"),
    ],
)
def test_what_works_otherwise_than_one_may_think_is_a_warning(
    changes: dict[str, Any], key: str, loaded: Load
) -> None:
    (warning,) = warnings(loaded(**changes))
    assert warning.startswith(f"{key}: ")


def test_what_is_to_be_found_out_is_not_held_against_other_settings(loaded: Load) -> None:
    changes = {"window__max_records": "auto", "limits__max_in_flight": "auto"}
    config = loaded(**changes, limits__records_per_minute=100)
    assert config.limits.slots == 32
    assert warnings(config) == []


def test_a_window_that_would_use_more_of_a_budget_is_told(loaded: Load) -> None:
    (warning,) = warnings(loaded(limits__records_per_minute=1200))
    assert "no more than 2 full windows of window.max_records = 500 fit into it" in warning
    assert "83% of it; window.max_records = 400 would use all" in warning
    assert warnings(loaded(limits__records_per_minute=1200, window__max_records=400)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"record__format": "text", "sink__body": {"item": '{"text":$value_string}'}},
        {"record__format": "text", "sink__body": {"separator": "\n", "envelope": "$items\n"}},
        {"window__collapse": True, "record__id": "/slug"},
        {"window__active": "22:00-06:00 Europe/Berlin"},
        {"freshness__topic": "marks"},
        {"dead_letter__retry_after": "15m"},
        {"record__id": "$key", "kafka__isolation_level": "read_uncommitted"},
        {"sink__idempotency_header": None, "sink__url": "https://cms.example.com/?d=$batch_id"},
        {"sink__idempotency_header": None, "sink__body": {"item": '{"id":$id,"doc":$value}'}},
        {"sink__idempotency_header": None, "record__id": "/slug"},
    ],
)
def test_what_is_as_it_should_be_is_not_warned_about(changes: dict[str, Any], loaded: Load) -> None:
    assert warnings(loaded(**changes)) == []


def test_a_dollar_sign_is_no_placeholder(loaded: Load) -> None:
    config = loaded(
        sink__idempotency_header=None, sink__url="https://cms.example.com/?d=$$batch_id"
    )
    assert warnings(config) != []


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://cms.example.com/bulk", True),
        ("http://127.0.0.1:8080/bulk", False),
        ("http://localhost/bulk", False),
        ("https://cms.example.com/bulk", False),
    ],
)
def test_a_secret_that_the_network_sees_is_warned_about(
    url: str, warned: bool, loaded: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMS_TOKEN", "hunter2")
    config = loaded(sink__url=url, sink__headers={"Authorization": {"env": "CMS_TOKEN"}})
    assert warnings(config) == (
        ["sink.url: a secret goes over the network unencrypted; use https"] if warned else []
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"topic": "pages.dead", "retry_after": "999ms"}, "must be between 1s and 5d"),
        ({"topic": "pages.dead", "retry_after": "6d"}, "must be between 1s and 5d"),
        ({"topic": "pages.dead", "max_redrives": 0}, "dead_letter.max_redrives = 0"),
        ({"on_reject": "halt", "retry_after": "15m"}, "needs topic"),
    ],
)
def test_a_retry_of_dead_letters_that_cannot_be_is_refused(
    settings: dict[str, Any], said: str, refusal: Refusal
) -> None:
    assert said in refusal(dead_letter=settings)


# Anything at all

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.datetimes()
)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3)
)


def paths(kind: type[msgspec.Struct], prefix: str = "") -> list[str]:
    """Every key that a file may have, as a path; a secret and a table of headers are one key."""
    found = []
    for info in fields(kind):
        path = prefix + info.encode_name
        nested = [k for k in (info.type, *getattr(info.type, "__args__", ())) if is_settings(k)]
        found += [p for each in nested for p in paths(each, f"{path}.")] or [path]
    if tag := kind.__struct_config__.tag_field:
        found.append(prefix + tag)
    return found


def is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(paths(Config)), VALUES)
def test_whatever_stands_under_a_key_is_decoded_or_told_as_a_problem(path: str, value: Any) -> None:
    decoder = Decoder()
    config = decoder.decode(with_keys(**{path.replace(".", "__"): value or ""}), Config)
    assert (config is None) == bool(decoder.problems)
    for problem in decoder.problems:
        assert str(problem).isprintable()
    if config is not None:
        conflicts(config)


# The documentation


def documented() -> dict[str, str]:
    """Key to default, as docs/configuration.md has them in its tables under [section] headings."""
    found: dict[str, str] = {}
    section: str | None = None
    for line in DOCS.read_text().splitlines():
        if line.startswith("#"):
            # "## `[window]`", or of a sink other than http "## `[sink]` of type `"file"`"
            heading = re.match(r"##+ `\[([a-z_.]+)\]`(?: of type `\"([a-z-]+)\"`)?", line)
            kind = f":{heading[2]}" if heading and heading[2] else ""
            section = f"{heading[1]}{kind}." if heading else "" if line == "## Top level" else None
        elif section is not None and (row := re.match(r"\| `(\w+)` \| .+? \| (.+?) \| ", line)):
            found[section + row[1]] = row[2]
    return found


def defaults(kind: type[msgspec.Struct], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Path to type and default; the default of what is required is NODEFAULT."""
    found: dict[str, tuple[Any, Any]] = {}
    for info in fields(kind):
        path = prefix + info.encode_name
        nested = [k for k in (info.type, *getattr(info.type, "__args__", ())) if is_settings(k)]
        default = info.default
        if default is msgspec.NODEFAULT and info.default_factory is not msgspec.NODEFAULT:
            default = info.default_factory()
        for each in nested:
            other = each.__struct_config__.tag
            found |= defaults(each, f"{path}." if other in (None, "http") else f"{path}:{other}.")
        if not nested:
            found[path] = (info.type, default)
    if tag := kind.__struct_config__.tag_field:
        found[prefix + tag] = (str, msgspec.NODEFAULT)
    return found


def test_the_documentation_has_every_key_and_no_other() -> None:
    on_error = "sink.response.on_error."
    expected = defaults(Config)
    assert documented().keys() == {key for key in expected if not key.startswith(on_error)}
    # It says of these that they are those of [sink.response].
    for key in expected:
        if key.startswith(on_error):
            assert expected[key] == expected["sink.response." + key.removeprefix(on_error)]


@pytest.mark.parametrize("key", sorted(documented()))
def test_the_documentation_has_the_default_of(key: str) -> None:
    kind, default = defaults(Config)[key]
    text = documented()[key]
    if text == "required":
        assert default is msgspec.NODEFAULT
    elif text == "none":
        assert default is None
    else:
        value = tomllib.loads(f"v = {text.strip('`')}")["v"]
        assert msgspec.convert(value, kind, dec_hook=decode) == default


def test_the_documentations_examples_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMS_TOKEN", "hunter2")
    examples = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    sinks = [tomllib.loads(example)["sink"] for example in examples if "[sink]" in example]
    assert len(sinks) == 5
    (tmp_path / "shortest.toml").write_text(examples[0])
    load(tmp_path / "shortest.toml")
    for sink in sinks:
        (tmp_path / "pages.toml").write_text(toml(MINIMAL | {"sink": sink}))
        load(tmp_path / "pages.toml")


JOBS = {"type": "openai-batch", "api_key": {"env": "LLM_KEY"}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"freshness__topic": "pages"}, 'freshness.topic = "pages": also in kafka.topics'),
        ({"freshness__topic": "pages.dead"}, "also dead_letter.topic"),
        ({"freshness__topic": "answers"}, "also results.topic"),
        ({"results__topic": "pages"}, 'results.topic = "pages": also in kafka.topics'),
        ({"results__topic": "pages.dead"}, "also dead_letter.topic"),
        ({"results__topic": "a/b"}, 'results.topic = "a/b": not a topic\'s name'),
    ],
)
def test_each_topic_has_one_purpose(
    changes: dict[str, Any], said: str, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_KEY", "hunter2")
    assert said in refusal(**{"sink": JOBS, "results__topic": "answers"} | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"limits__max_in_flight": "auto"}, "be submitted at once, such as 1"),
        ({"window__max_records": "auto"}, "at most sink.max_records = 50000"),
    ],
)
def test_nothing_is_found_out_from_jobs(
    changes: dict[str, Any], said: str, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_KEY", "hunter2")
    text = refusal(sink=JOBS, results__topic="answers", **changes)
    [key] = changes
    assert f'{key.replace("__", ".")} = "auto": nothing can be found out from jobs' in text
    assert said in text


@pytest.mark.parametrize(
    ("allowed", "memory"),
    [(None, "256MiB"), (2**30, "256MiB"), (250 * 10**6, "100000000B"), (10**8, "16MiB")],
)
def test_the_default_budget_leaves_room_for_the_process_below_the_kernels_limit(
    allowed: int | None, memory: str, loaded: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluiced.config.reading.memory_limit", lambda: allowed)
    assert loaded().limits.memory == Size.parse(memory)
    assert loaded(limits__memory="64MiB").limits.memory == Size.parse("64MiB")
