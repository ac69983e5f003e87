"""What requests of jobs are likely to take and to cost, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from ..config import Config
from ..intake import Intake
from ..kafka.originals import KafkaOriginals
from ..prices import Prices, Usage, added, total
from ..record import Range, TopicPartition
from ..sinks.job_api import JobApi
from ..sinks.job_settings import JobSettings
from ..spending import money
from ..tokens import BYTES_PER_TOKEN

EACH = 1000  # records that `check` says the price of
BROUGHT = 100  # bytes


def as_text(usages: Sequence[Usage], prices: Prices) -> str:
    """Tokens of all together, and what they cost as far as their models have a price."""
    taken, given, without = (
        sum(getattr(u, key) for u in usages) for key in ("input", "output", "open")
    )
    text = f"about {taken:,} tokens in"
    if given or not without:
        text += f", at most {given:,} out"
    if without:
        text += f"; what comes out of {without:,} is not bounded"
    if (cost := total(prices, usages)) is not None:
        text += f"; costs about {money(cost)}"
        if unpriced := sorted({u.model or "none" for u in usages if prices.cost(u) is None}):
            text += f" without {', '.join(unpriced)}"
    return text


async def of_records(
    config: Config, sink: object, spans: Mapping[TopicPartition, Range]
) -> list[Usage]:
    """Of the records of these ranges, read again and taken in as the daemon does; [] where the sink
    cannot say. Raises SourceError."""
    if not isinstance(sink, JobApi):
        return []
    intake = Intake(config.record, sink.objection)
    found: list[Usage] = []
    async for page in KafkaOriginals(config.kafka).read({tp: [s] for tp, s in spans.items()}):
        found = added([*found, *sink.expected(intake.check(page).accepted)])
    return found


def of_template(config: Config) -> str | None:
    """Of a thousand records, before any is seen; None where that depends on the records."""
    sink, prices = config.sink, Prices(config.prices)
    if not isinstance(sink, JobSettings) or (least := sink.least) is None or not sink.model:
        return None
    said = _thousand(prices, replace(least, output=0))
    if said is None:
        return None
    brought = Usage(least.model, input=BROUGHT // BYTES_PER_TOKEN)
    text = f"about {said} for {EACH:,} records by what sink.prompt says"
    if least.open:
        text += ", without their answers, to which it sets no bound"
    elif least.output:
        answers = Usage(least.model, output=least.output)
        text += f", at most {_thousand(prices, answers)} for their answers"
    return (
        f"{text}; each {BROUGHT} bytes that a record brings make {_thousand(prices, brought)} more"
    )


def _thousand(prices: Prices, usage: Usage) -> str | None:
    cost = prices.cost(usage)
    return None if cost is None else money(cost * Decimal(EACH))
