"""Our sinks of jobs against the stand-ins that the official packages have driven."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from fakes import FakeRecord
from providers.anthropic import Anthropic, errored
from providers.anthropic import told as claude_told
from sluiced.batch import Batch, Run
from sluiced.errors import SluicedError
from sluiced.feedback import Allowance, Feedback
from sluiced.outcome import Again, Fate, Refused, TooLarge
from sluiced.ports import BrokenResultsError, JobResult, Progress, Submitted, Undecided
from sluiced.record import TopicPartition
from sluiced.sinks import uploads
from sluiced.sinks.anthropic_batch import AnthropicBatch
from sluiced.sinks.custom_ids import CustomIds
from sluiced.sinks.job_settings import AnthropicBatchSettings, OpenAIBatchSettings
from sluiced.sinks.openai_batch import OpenAIBatch
from sluiced.sinks.settings import Line
from sluiced.tools.demo.openai_api import OpenAI, told
from sluiced.tools.demo.provider import Pace, as_json, served
from sluiced.units import decode

pytestmark = pytest.mark.anyio

TOPIC = "prompts." + "x" * 200
TP = TopicPartition(TOPIC, 3)
PROMPT = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
NAME = "0" * 32 + "-1"


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def batch_of(count: int = 3, value: Any = PROMPT, first: int = 0) -> Batch:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    records = [FakeRecord(TOPIC, 3, n, body, b"k%d" % n) for n in range(first, first + count)]
    return Batch.of("pages", [Run(TP, 1, records)], "records")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "sk-secret")


class Case:
    """An API and the sink for it."""

    api: Any
    sink: Any

    def __init__(self, kind: str, clock: Clock) -> None:
        self.kind = kind
        self.clock = clock
        pace = Pace(working=100, finalizing=20)
        self.api = OpenAI(pace, clock) if kind == "openai" else Anthropic(pace, clock)
        self.results = "content" if kind == "openai" else "results"

    @asynccontextmanager
    async def open(self, **keys: Any) -> AsyncIterator[Any]:
        settings: type[Any] = (
            OpenAIBatchSettings if self.kind == "openai" else AnthropicBatchSettings
        )
        sink: type[Any] = OpenAIBatch if self.kind == "openai" else AnthropicBatch
        async with served(self.api) as url:
            table = {
                "type": f"{self.kind}-batch",
                "api_key": {"env": "API_KEY"},
                "base_url": f"{url}/v1",
                **keys,
            }
            made = msgspec.convert(table, settings, dec_hook=decode)
            self.sink = sink(made, Line("pages", [TOPIC]))
            self.sink.clock = self.clock
            await self.sink.open()
            try:
                yield self.sink
            finally:
                await self.sink.close()

    async def found(self, batch: Batch, known: Sequence[str] = (), name: str = NAME) -> Any:
        """What the sink finds, once it has looked for long enough."""
        found = await self.sink.find(batch, name, known)
        if found == Undecided():
            self.clock.now += self.sink.poll_every
            found = await self.sink.find(batch, name, known)
        return found

    def posts(self, path: str) -> int:
        """How often something was made there."""
        return self.api.requests.count(("POST", path))

    def answers(self, answer: dict[int, tuple[int, str] | None]) -> None:
        """Of these offsets this status and text, or nothing."""

        def said(name: str, body: Any) -> Any:
            offset = int(name.rpartition("-")[2])
            if offset not in answer:
                return (told if self.kind == "openai" else claude_told)(name, body)
            if (found := answer[offset]) is None:
                return None
            status, text = found
            if self.kind == "openai":
                return status, {"error": {"message": text, "type": "x", "code": None}}
            return errored({400: "invalid_request_error", 429: "rate_limit_error"}[status], text)

        self.api.answer = said


@pytest.fixture(params=["openai", "anthropic"])
def case(request: pytest.FixtureRequest, clock: Clock) -> Case:
    return Case(request.param, clock)


async def submitted(sink: Any, batch: Batch | None = None) -> str:
    answer = await sink.submit(batch or batch_of(), NAME)
    assert isinstance(answer, Submitted)
    return answer.job


async def results(sink: Any, job: str) -> dict[Any, JobResult]:
    return {found.where: found async for found in sink.results(job)}


async def test_a_batch_is_submitted_polled_and_its_results_lead_back(case: Case) -> None:
    async with case.open() as sink:
        job = await submitted(sink)
        assert (await sink.poll(job)).state == "working"
        case.clock.now += 200
        progress = await sink.poll(job)
        assert (progress.state, progress.done, progress.total) == ("ended", 3, 3)
        found = await results(sink, job)

    assert set(found) == {(TP, 0), (TP, 1), (TP, 2)}
    result = found[TP, 1]
    assert result.verdict.fate is Fate.DELIVERED
    assert result.model == "m"
    assert (result.input_tokens, result.output_tokens) == (2, 9)
    assert b"heard: hello" in result.body


async def test_what_is_sent_is_the_record_as_it_is(case: Case) -> None:
    async with case.open() as sink:
        await submitted(sink, batch_of(1, b'{"model": "m",\n "max_tokens": 1.50}'))
        [job] = case.api.jobs.values()
        if case.kind == "openai":
            [file] = case.api.files.values()
            assert b'"body":{"model": "m",  "max_tokens": 1.50}}\n' in file.content
            assert file.content.count(b"\n") == 1
        else:
            assert job.requests[0]["params"] == {"model": "m", "max_tokens": 1.5}


async def test_single_requests_fail_in_their_class(case: Case) -> None:
    case.answers({0: (400, "no such model"), 1: (429, "later")})
    async with case.open() as sink:
        job = await submitted(sink)
        case.clock.now += 200
        found = await results(sink, job)

    assert found[TP, 0].verdict.fate is Fate.REJECTED
    assert found[TP, 0].verdict.error == "no such model"
    assert found[TP, 1].verdict.fate is Fate.RETRY
    assert found[TP, 2].verdict.fate is Fate.DELIVERED


async def test_what_a_job_did_not_come_to_goes_again(case: Case) -> None:
    case.api.pace.expires = 50
    async with case.open() as sink:
        job = await submitted(sink)
        case.clock.now += 200
        assert (await sink.poll(job)).state == "ended"
        found = await results(sink, job)

    fates = [found[TP, n].verdict.fate for n in range(3)]
    assert fates == [Fate.DELIVERED, Fate.RETRY, Fate.RETRY]


async def test_a_job_that_is_cancelled_ends_with_what_is_done(case: Case) -> None:
    async with case.open() as sink:
        job = await submitted(sink)
        case.clock.now += 50
        assert await sink.cancel(job) is None
        assert (await sink.poll(job)).state == "working"
        case.clock.now += 20
        assert (await sink.poll(job)).state == "ended"
        found = await results(sink, job)

    done = [where for where, r in found.items() if r.verdict.fate is Fate.DELIVERED]
    assert done == [(TP, 0)]
    assert all(r.verdict.fate is not Fate.REJECTED for r in found.values())


async def test_what_a_job_says_nothing_of_is_not_in_its_results(case: Case) -> None:
    case.answers({1: None})
    async with case.open() as sink:
        job = await submitted(sink)
        case.clock.now += 200
        assert set(await results(sink, job)) == {(TP, 0), (TP, 2)}


async def test_a_download_that_is_cut_says_so(case: Case) -> None:
    case.api.faults[f"{case.results} cut"] = 1
    async with case.open() as sink:
        job = await submitted(sink)
        case.clock.now += 200
        await sink.poll(job)
        with pytest.raises(BrokenResultsError):
            await results(sink, job)
        assert len(await results(sink, job)) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("throttled", "throttled"), ("unavailable", "status"), ("lost", "connection")],
)
async def test_trouble_is_about_the_moment(case: Case, fault: str, reason: str) -> None:
    async with case.open() as sink:
        case.api.faults[f"create {fault}"] = 1
        answer = await sink.submit(batch_of(), NAME)
        assert isinstance(answer, Again)
        assert answer.reason == reason
        if fault == "throttled":
            assert answer.after == 0.02
            assert answer.feedback is not None
            left = {found.what: found.remaining for found in answer.feedback.allowances}
            # Of Anthropic's two kinds of tokens the scarcer one.
            assert left == {"requests": 0, "tokens": 149984 if case.kind == "openai" else 7000}
        case.api.faults[f"poll {fault}"] = 2  # aiohttp asks twice where nothing can come of it
        assert isinstance(await sink.poll("x"), Again)


async def test_a_refused_key_is_an_outage_that_is_told_without_the_key(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with case.open() as sink:
        refuse = case.api.error(401, "authentication_error", "no: sk-secret")
        monkeypatch.setattr(case.api, "throttled", lambda: refuse)
        case.api.faults["create throttled"] = 1
        answer = await sink.submit(batch_of(), NAME)

    assert isinstance(answer, Again)
    assert answer.outage
    assert "sk-secret" not in answer.error
    assert "sink.api_key" in answer.error


async def test_a_job_that_is_not_there_is_missing(case: Case) -> None:
    async with case.open() as sink:
        assert (await sink.poll("nothing")).state == "missing"


async def test_a_batch_over_a_cap_is_never_sent(case: Case) -> None:
    async with case.open(max_records=2, max_bytes="400B") as sink:
        for batch in (batch_of(3), batch_of(1, {"x": "y" * 500})):
            answer = await sink.submit(batch, NAME)
            assert isinstance(answer, TooLarge)
            assert not answer.sent
    assert case.api.jobs == {}


async def test_a_refused_creation_is_told_with_the_apis_words(case: Case) -> None:
    async with case.open() as sink:
        refuse = case.api.error(400, "invalid_request_error", "your account is wrong")
        case.api.throttled = lambda: refuse
        case.api.faults["create throttled"] = 1
        answer = await sink.submit(batch_of(), NAME)

    assert isinstance(answer, Refused)
    assert answer.error == "the API answered 400: your account is wrong"


async def test_what_is_no_object_is_objected_to(case: Case) -> None:
    async with case.open() as sink:
        assert sink.objection(FakeRecord(TOPIC, value=b'{"model":"m"}')) is None
        assert sink.objection(FakeRecord(TOPIC, value=b"[1]")) is not None
        assert sink.objection(FakeRecord(TOPIC, value=None)) is not None


async def test_probing_asks_and_makes_nothing(case: Case) -> None:
    async with case.open() as sink:
        await sink.close()
        await sink.probe()
        case.api.faults["batches unavailable"] = 1
        with pytest.raises(SluicedError):
            await sink.probe()
    assert case.api.jobs == {}


async def test_a_key_that_is_gone_is_missed_under_its_name_in_the_file(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("API_KEY")
    with pytest.raises(SluicedError, match=r"sink\.api_key: the environment variable API_KEY"):
        async with case.open():
            pass


async def test_tools_that_send_at_once_are_told_that_this_cannot_be(case: Case) -> None:
    async with case.open() as sink:
        with pytest.raises(SluicedError):
            await sink.send(batch_of())


async def test_a_preview_is_what_is_sent_and_holds_no_key(case: Case) -> None:
    async with case.open() as sink:
        text = "\n".join(sink.preview(batch_of()))
    assert "hello" in text
    assert "sk-secret" not in text


# --- the limits, and half of a request ----------------------------------------------------------


@pytest.mark.parametrize("fault", ["stalled", "broken"])
async def test_an_upload_that_stops_in_its_middle_ends_and_goes_again_as_one_job(
    case: Case, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "STALL", 2.0)
    large = batch_of(1, {**PROMPT, "metadata": "x" * 12_000_000})  # more than sockets hold
    verb = "upload" if case.kind == "openai" else "create"
    async with case.open() as sink:
        case.api.faults[f"{verb} {fault}"] = 1
        answer = await sink.submit(large, NAME)
        assert isinstance(answer, Again)
        stalled = (answer.reason, "stalled" in answer.error)
        assert stalled == (("timeout", True) if fault == "stalled" else ("connection", False))
        assert await case.found(large) is None
        await submitted(sink, large)
    assert len(case.api.jobs) == 1
    if case.kind == "openai":
        assert len(case.api.files) == 1


async def test_an_answer_that_does_not_come_is_waited_for_as_long_as_the_timeout(
    case: Case,
) -> None:
    async with case.open(timeout="200ms") as sink:
        case.api.faults["create stalled"] = 1
        answer = await sink.submit(batch_of(), NAME)
    assert isinstance(answer, Again)
    assert (answer.reason, answer.error.endswith("within 200ms")) == ("timeout", True)


async def test_a_submission_that_is_carried_out_after_we_have_looked_is_found(case: Case) -> None:
    async with case.open() as sink:
        assert await sink.find(batch_of(), NAME, []) == Undecided()
        late = await submitted(sink)
        case.clock.now += 200
        assert await sink.find(batch_of(), NAME, []) == Submitted(late)


@pytest.mark.parametrize(
    ("status", "kind", "code", "text"),
    [
        (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota"),
        (400, "invalid_request_error", "billing_hard_limit_reached", "Billing hard limit"),
        (400, "invalid_request_error", None, "Your credit balance is too low to access the API."),
        (402, "billing_error", None, "pay"),
    ],
)
async def test_trouble_with_the_account_is_an_outage_and_no_records_fault(
    case: Case, status: int, kind: str, code: str | None, text: str
) -> None:
    async with case.open() as sink:
        body = {"error": {"type": kind, "code": code, "message": text}}
        case.api.throttled = lambda: as_json(body, status)
        case.api.faults["create throttled"] = 1
        answer = await sink.submit(batch_of(), NAME)
    assert isinstance(answer, Again)
    assert answer.outage
    assert answer.error == f"the API answered {status}: {text}; see to the account"


async def test_a_429_that_says_no_more_than_when_the_limit_is_back_is_heeded(case: Case) -> None:
    header = {
        "openai": {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "6m0s"},
        "anthropic": {
            "anthropic_ratelimit_requests_remaining": "0",
            "anthropic_ratelimit_requests_reset": "2999-01-01T00:00:00Z",
        },
    }[case.kind]
    async with case.open() as sink:
        body = {"error": {"type": "rate_limit_error", "message": "too many jobs"}}
        case.api.throttled = lambda: as_json(body, 429, **header)
        case.api.faults["create throttled"] = 1
        answer = await sink.submit(batch_of(), NAME)
    assert isinstance(answer, Again)
    assert answer.reason == "throttled"
    assert answer.after is not None
    assert answer.after == 360 if case.kind == "openai" else answer.after > 1e9


async def test_limits_are_heard_of_whatever_was_asked(case: Case) -> None:
    header = {"openai": "x-ratelimit-remaining-requests"}
    left = Feedback((Allowance("requests", 7.0, refills=True),))
    async with case.open() as sink:
        job = await submitted(sink)
        case.api.headers[header.get(case.kind, "anthropic-ratelimit-requests-remaining")] = "7"
        assert (await sink.poll(job)).feedback == left
        assert (await sink.poll("job_of_nobody")).feedback == left
        at_work = await sink.find(batch_of(), NAME, [])
        assert isinstance(at_work, Submitted if case.kind == "openai" else Undecided)
        assert at_work.feedback == left
        assert await sink.find(batch_of(first=50), "other", [job]) == Undecided(feedback=left)
        case.clock.now += 1000
        assert (await sink.poll(job)).feedback == left
        found = await sink.find(batch_of(), NAME, [])
        assert found == Submitted(job, left)


async def test_a_wish_to_be_left_alone_is_heeded_while_looking_for_a_job(case: Case) -> None:
    async with case.open() as sink:
        case.api.throttled = lambda: as_json({}, 429, Retry_After="20")
        case.api.faults["batches throttled"] = 1
        answer = await sink.find(batch_of(), NAME, [])
    assert isinstance(answer, Again)
    assert (answer.reason, answer.status, answer.after) == ("throttled", "429", 20)


async def test_a_refusal_that_names_a_line_says_which_record_that_is(case: Case) -> None:
    detail = {"type": "invalid_request_error", "message": "requests.1.params: no", "line": 2}
    async with case.open() as sink:
        case.api.throttled = lambda: as_json({"error": detail}, 400)
        case.api.faults["create throttled"] = 1
        answer = await sink.submit(batch_of(), NAME)
    assert isinstance(answer, Refused)
    assert answer.named == (1,)


async def test_a_job_that_somebody_has_cancelled_says_so(case: Case) -> None:
    async with case.open() as sink:
        job = await submitted(sink)
        assert not (await sink.poll(job)).cancelled
        await sink.cancel(job)
        assert (await sink.poll(job)).cancelled
        case.clock.now += 200
        progress = await sink.poll(job)
    assert (progress.state, progress.cancelled) == ("ended", True)


async def test_trouble_while_looking_for_a_job_proves_nothing(case: Case) -> None:
    async with case.open() as sink:
        case.api.faults["batches unavailable"] = 1
        assert isinstance(await sink.find(batch_of(), NAME, []), Again)


# --- OpenAI's own -------------------------------------------------------------------------------


@pytest.fixture
def theirs(clock: Clock) -> Case:
    return Case("openai", clock)


async def test_a_job_is_found_by_its_name_and_not_by_another(theirs: Case) -> None:
    async with theirs.open() as sink:
        theirs.api.faults["create lost"] = 1
        assert isinstance(await sink.submit(batch_of(), NAME), Again)
        for n in range(150):  # more than a page of others
            await sink.submit(batch_of(), f"other-{n}")
        found = await sink.find(batch_of(), NAME, [])
        assert isinstance(found, Submitted)
        assert await theirs.found(batch_of(), [found.job]) is None
        assert await theirs.found(batch_of(), name="another") is None


async def test_a_job_that_has_failed_is_not_found(theirs: Case) -> None:
    theirs.api.most_enqueued = 0
    async with theirs.open() as sink:
        job = await submitted(sink)
        assert (await sink.poll(job)).queue_full
        assert await theirs.found(batch_of()) is None


async def test_a_job_that_is_finalizing_is_at_work_however_long_that_takes(theirs: Case) -> None:
    theirs.api.pace.finalizing = 5000
    async with theirs.open() as sink:
        job = await submitted(sink)
        for seconds in (110, 4900):
            theirs.clock.now += seconds
            progress = await sink.poll(job)
            assert (progress.state, progress.status) == ("working", "finalizing")
        theirs.clock.now += 200
        assert (await sink.poll(job)).state == "ended"


async def test_a_file_that_was_uploaded_and_not_used_is_deleted(theirs: Case) -> None:
    async with theirs.open() as sink:
        theirs.api.faults["upload lost"] = 1
        assert isinstance(await sink.submit(batch_of(), NAME), Again)
        assert len(theirs.api.files) == 1
        assert await theirs.found(batch_of()) is None
        assert theirs.api.files == {}


async def test_a_file_that_cannot_be_deleted_now_is_deleted_before_anything_else_goes_on(
    theirs: Case,
) -> None:
    async with theirs.open() as sink:
        theirs.api.faults["upload lost"] = 1
        await sink.submit(batch_of(), NAME)
        theirs.api.faults["delete unavailable"] = 1
        assert isinstance(await sink.find(batch_of(), NAME, []), Again)
        assert await sink.find(batch_of(), NAME, []) == Undecided()
        assert theirs.api.files == {}
        theirs.clock.now += 60
        assert await sink.find(batch_of(), NAME, []) is None


async def test_a_file_is_found_whoever_has_uploaded_it_and_however_often_that_one_died(
    theirs: Case,
) -> None:
    for _ in range(2):
        async with theirs.open() as sink:
            assert await theirs.found(batch_of()) is None
            assert theirs.api.files == {}
            theirs.api.faults["create unavailable"] = 1
            await sink.submit(batch_of(), NAME)
            assert len(theirs.api.files) == 1
    async with theirs.open() as sink:
        assert await theirs.found(batch_of()) is None
        await submitted(sink)
        assert len(theirs.api.files) == 1


async def test_a_full_queue_costs_no_second_upload(theirs: Case) -> None:
    theirs.api.most_enqueued = 0
    async with theirs.open() as sink:
        assert (await sink.poll(await submitted(sink))).queue_full
        theirs.api.most_enqueued = 10
        job = await submitted(sink)
        theirs.clock.now += 200
        assert (await sink.poll(job)).state == "ended"
    assert theirs.posts("/v1/files") == 1


@pytest.mark.parametrize(("code", "waits"), [("billing_hard_limit_reached", True), ("odd", False)])
async def test_a_job_that_fails_for_no_line_of_its_own_is_told_apart_by_its_code(
    theirs: Case, code: str, waits: bool
) -> None:
    async with theirs.open() as sink:
        job = await submitted(sink)
        error = {"code": code, "message": "no", "line": None, "param": None}
        theirs.api.jobs[job].state |= {"status": "failed", "errors": {"data": [error]}}
        theirs.api.jobs[job].over = True
        progress = await sink.poll(job)
        assert (progress.state, progress.named) == ("failed", False)
        assert progress.queue_full is waits
        # What is of no use any more does not stay there.
        assert len(theirs.api.files) == (1 if waits else 0)


async def test_a_file_whose_job_is_throttled_is_uploaded_once(theirs: Case) -> None:
    async with theirs.open() as sink:
        theirs.api.faults["create throttled"] = 3
        for _ in range(3):
            assert isinstance(await sink.submit(batch_of(), NAME), Again)
        await submitted(sink)
    assert theirs.posts("/v1/files") == 1


async def test_a_file_whose_job_is_refused_is_deleted(theirs: Case) -> None:
    async with theirs.open() as sink:
        refuse = theirs.api.error(400, "invalid_request_error", "no")
        theirs.api.throttled = lambda: refuse
        theirs.api.faults["create throttled"] = 1
        assert isinstance(await sink.submit(batch_of(), NAME), Refused)
    assert theirs.api.files == {}


async def test_a_refusal_is_told_once_its_file_is_deleted(theirs: Case) -> None:
    async with theirs.open() as sink:
        theirs.api.throttled = lambda: theirs.api.error(400, "invalid_request_error", "no")
        theirs.api.faults.update({"create throttled": 2, "delete unavailable": 1})
        assert isinstance(await sink.submit(batch_of(), NAME), Again)
        assert isinstance(await sink.submit(batch_of(), NAME), Refused)
    assert theirs.api.files == {}


async def test_no_job_is_found_before_its_unused_file_is_deleted(theirs: Case) -> None:
    async with theirs.open() as sink:
        theirs.api.faults.update({"upload lost": 1, "delete unavailable": 1})
        assert isinstance(await sink.submit(batch_of(), NAME), Again)
        assert isinstance(await theirs.found(batch_of()), Again)
        assert await theirs.found(batch_of()) is None
    assert theirs.api.files == {}


@asynccontextmanager
async def next_owner(case: Case, meanwhile: Callable[[Any], Any]) -> AsyncIterator[Any]:
    """A sink that is frozen when its file is uploaded, until another one has done something."""
    async with case.open() as sink:
        other = OpenAIBatch(sink.settings, sink.line)
        other.clock = case.clock
        await other.open()

        async def thaw(verb: str) -> None:
            if verb == "upload":
                case.api.answered = None
                await meanwhile(other)

        case.api.answered = thaw
        try:
            yield sink
        finally:
            await other.close()


async def test_a_file_of_which_the_next_owner_has_found_no_job_makes_none_any_more(
    theirs: Case,
) -> None:
    async def looks(other: Any) -> None:
        assert await other.find(batch_of(), NAME, []) == Undecided()
        theirs.clock.now += other.poll_every
        assert await other.find(batch_of(), NAME, []) is None

    async with next_owner(theirs, looks) as sink:
        answer = await sink.submit(batch_of(), NAME)
    assert isinstance(answer, Again), "it is not the records that are to blame"
    assert answer.doubtful, "and so it is looked for"
    assert answer.error.startswith("somebody has deleted the uploaded file")
    assert theirs.api.jobs == theirs.api.files == {}


async def test_a_file_is_deleted_before_its_job_is_looked_for_once_more(theirs: Case) -> None:
    """What is made of it until then is found, and later nothing can be."""
    async with theirs.open() as sink:
        theirs.api.faults["create unavailable"] = 1
        await sink.submit(batch_of(), NAME)
        assert len(theirs.api.files) == 1
        assert await sink.find(batch_of(), NAME, []) == Undecided()
        assert theirs.api.files == {}


async def test_right_before_a_job_is_made_it_is_looked_whether_somebody_was_faster(
    theirs: Case,
) -> None:
    made: list[Submitted] = []

    async def submits(other: Any) -> None:
        made.append(await other.submit(batch_of(), NAME))

    async with next_owner(theirs, submits) as sink:
        assert await sink.submit(batch_of(), NAME) == made[0]
    assert len(theirs.api.jobs) == len(theirs.api.files) == 1


@pytest.mark.parametrize("fault", ["unavailable", "throttled"])
async def test_trouble_with_that_look_leaves_no_doubt_and_costs_no_second_upload(
    theirs: Case, fault: str
) -> None:
    async with theirs.open() as sink:
        theirs.api.faults[f"batches {fault}"] = 1
        answer = await sink.submit(batch_of(), NAME)
        assert isinstance(answer, Again)
        assert not answer.doubtful
        await submitted(sink)
    assert theirs.posts("/v1/files") == theirs.posts("/v1/batches") == 1


async def test_a_job_that_failed_for_some_lines_names_their_records(theirs: Case) -> None:
    good, other = json.dumps(PROMPT).encode(), json.dumps({**PROMPT, "model": "x"}).encode()
    records = [FakeRecord(TOPIC, 3, n, other if n == 1 else good) for n in range(3)]
    batch = Batch.of("pages", [Run(TP, 1, records)], "records")
    async with theirs.open() as sink:
        job = await submitted(sink, batch)
        progress = await sink.poll(job)
        found = await results(sink, job)

    assert progress == Progress(
        "failed", named=True, status="model_mismatch", error="line 2: model mismatch"
    )
    assert list(found) == [(TP, 1)]
    assert found[TP, 1].verdict.fate is Fate.REJECTED
    assert found[TP, 1].verdict.status == "model_mismatch"


async def test_results_told_twice_and_of_nothing_are_passed_on_as_such(theirs: Case) -> None:
    theirs.api.results = {"doubled", "unknown", "unordered"}
    async with theirs.open() as sink:
        job = await submitted(sink)
        theirs.clock.now += 200
        wheres = [found.where async for found in sink.results(job)]
    assert wheres == [(TP, 2), (TP, 1), (TP, 0), (TP, 2), None]


@pytest.mark.parametrize(
    ("endpoint", "prompt", "tokens"),
    [
        ("/v1/embeddings", {"model": "m", "input": "x"}, (1, 0)),
        ("/v1/images/generations", {"model": "m", "prompt": "a cat"}, (2, 1056)),
        ("/v1/responses", {"model": "m", "input": "x"}, (1, 9)),
    ],
)
async def test_other_endpoints_go_the_same_way(
    theirs: Case, endpoint: str, prompt: Any, tokens: tuple[int, int]
) -> None:
    async with theirs.open(endpoint=endpoint) as sink:
        job = await submitted(sink, batch_of(1, prompt))
        theirs.clock.now += 200
        found = await results(sink, job)
    result = found[TP, 0]
    assert (result.input_tokens, result.output_tokens) == tokens


# --- Anthropic's own ----------------------------------------------------------------------------


@pytest.fixture
def claude(clock: Clock) -> Case:
    return Case("anthropic", clock)


async def test_a_job_without_a_name_is_waited_for_and_told_by_its_results(claude: Case) -> None:
    async with claude.open() as sink:
        claude.api.faults["create lost"] = 1
        assert isinstance(await sink.submit(batch_of(), NAME), Again)
        doubt = await sink.find(batch_of(), NAME, [])
        assert isinstance(doubt, Undecided)
        claude.clock.now += 200
        found = await sink.find(batch_of(), NAME, [])
        assert isinstance(found, Submitted)


async def test_a_job_of_other_records_or_another_size_is_not_taken_for_it(claude: Case) -> None:
    async with claude.open() as sink:
        await submitted(sink, batch_of(3, first=100))
        await submitted(sink, batch_of(5))
        claude.clock.now += 200
        assert await claude.found(batch_of()) is None


async def test_one_at_work_is_not_waited_for_where_another_is_it(claude: Case) -> None:
    async with claude.open() as sink:
        mine = await submitted(sink)
        claude.clock.now += 200
        await submitted(sink, batch_of(3, first=100))  # of as many, and at work
        assert await sink.find(batch_of(), NAME, []) == Submitted(mine)


async def test_a_job_made_before_its_records_were_written_is_none_of_theirs(claude: Case) -> None:
    async with claude.open() as sink:
        await submitted(sink)
        claude.clock.now += 200
        records = [
            FakeRecord(TOPIC, 3, n, b"{}", timestamp=int(claude.clock.now + 7200) * 1000)
            for n in range(3)
        ]
        assert await claude.found(Batch.of("pages", [Run(TP, 1, records)], "records")) is None


async def test_a_job_whose_results_are_gone_is_none_that_could_be_adopted(claude: Case) -> None:
    async with claude.open() as sink:
        job = await submitted(sink)
        claude.clock.now += 200
        await sink.poll(job)
        claude.api.jobs[job].state["results_url"] = None
        assert await claude.found(batch_of()) is None


@pytest.mark.parametrize("fault", ["cut", "unavailable"])
async def test_results_that_cannot_be_read_prove_nothing(claude: Case, fault: str) -> None:
    async with claude.open() as sink:
        await submitted(sink, batch_of(1))
        claude.clock.now += 200
        claude.api.faults[f"results {fault}"] = 1
        assert isinstance(await sink.find(batch_of(1), NAME, []), Again)


async def test_a_job_is_found_behind_a_page_of_others(claude: Case) -> None:
    async with claude.open() as sink:
        mine = await submitted(sink)
        for n in range(120):
            await submitted(sink, batch_of(2, first=10 * n))
        claude.clock.now += 200
        assert await sink.find(batch_of(), NAME, []) == Submitted(mine)


async def test_the_job_of_a_batch_that_was_taken_apart_is_found_for_a_part_of_it(
    claude: Case,
) -> None:
    async with claude.open() as sink:
        job = await submitted(sink, batch_of(5))
        part = batch_of(2, first=3)
        assert await claude.found(part) is None
        assert await sink.find(part, NAME, [], whole=False) == Undecided(job)
        claude.clock.now += 200
        assert await sink.find(part, NAME, [], whole=False) == Submitted(job)
        other = batch_of(2, first=7)
        assert await sink.find(other, NAME, [], whole=False) == Undecided()
        claude.clock.now += sink.poll_every
        assert await sink.find(other, NAME, [], whole=False) is None


async def test_a_job_that_is_known_already_is_no_doubt(claude: Case) -> None:
    async with claude.open() as sink:
        job = await submitted(sink)
        assert await claude.found(batch_of(), [job]) is None


async def test_the_versions_header_is_sent(claude: Case) -> None:
    async with claude.open() as sink:
        assert sink.headers()["anthropic-version"] == "2026-10-21"


# --- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("topics", [["a"], ["a.b", "x" * 249, "ümlaut"]])
def test_an_id_is_short_and_plain_and_leads_back_whatever_the_topic_is_called(
    topics: Sequence[str],
) -> None:
    ids = CustomIds("pages", topics)
    for topic in topics:
        record = FakeRecord(topic, 2**31 - 1, 2**63 - 1)
        name = ids.of(record)
        assert len(name) <= 64
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
        assert ids.where(name) == (TopicPartition(topic, 2**31 - 1), 2**63 - 1)


def test_an_id_of_another_pipeline_or_of_nobody_leads_nowhere() -> None:
    ids = CustomIds("pages", ["a"])
    for name in (CustomIds("other", ["a"]).of(FakeRecord("a")), "x", "0-0-0", ""):
        assert ids.where(name) is None


async def test_what_a_sink_is_asked_after_it_was_replaced_is_asked_again_and_is_no_bug(
    case: Case,
) -> None:
    """A reload closes a sink whose results are being downloaded."""
    async with case.open() as sink:
        made = await sink.submit(batch_of(), NAME)
        case.clock.now += 1000
        await sink.close()
        assert isinstance(await sink.poll(made.job), Again)
        with pytest.raises(BrokenResultsError):
            [_ async for _ in sink.results(made.job)]
