"""`sluiced dead-letters redrive`: sends dead letters back, each once, however often it is run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import anyio

from ...config import Config
from ...kafka.scan import existing, reading
from ...redrive import scanning
from ...redrive.memory import remembering
from ...redrive.scanning import dead_letter_topic
from ...redrive.targets import Target
from ...redrive.to_topic import ToTopic, to_topic
from ...redrive.work import UNASKED, Redrive, Report, Rules, group_of
from ..resend import Resender
from ..text import Progress, count, fields, printable, shortened
from .selection import Selection
from .to_sink import ToSink

To = Literal["topic", "sink"]


@dataclass(frozen=True, slots=True)
class Options:
    """`rate` in letters a second, 0 for none; `patience` in seconds. See the command's help."""

    selection: Selection
    to: To = "topic"
    dry_run: bool = False
    keep_timestamps: bool = True
    rate: float = 0.0
    max_redrives: int | None = None  # the configuration's
    group: str = ""
    pass_over: bool = False
    again: bool = False
    patience: float = 300.0


async def redrive(config: Config, options: Options, stop: anyio.Event, report: Report) -> None:
    """Fills in the report, which holds what was done also where this raises SluicedError."""
    group = options.group or group_of(config)
    rules = Rules(
        options.selection.matches,
        options.max_redrives or config.dead_letter.max_redrives,
        options.rate,
        dry_run=options.dry_run,
        pass_over=options.pass_over,
    )
    progress = Progress("redriving")
    async with AsyncExitStack() as stack:
        stack.callback(progress.end)
        # Before anything is begun that a missing topic or cluster would cut short.
        await existing(config.kafka, [dead_letter_topic(config)], "dead_letter.topic")
        target = await stack.enter_async_context(_target(config, options, group, stop, progress))
        if target.warning:
            progress.say(target.warning)
        reader, spans = await stack.enter_async_context(scanning.opened(config))
        originals = await stack.enter_async_context(reading(config.kafka))
        memory = await stack.enter_async_context(
            remembering(config.kafka, group, spans, again=options.again)
        )
        if not options.dry_run:
            await target.remember(memory)  # which fails where a later redrive has shut us out
            if not target.transactional:
                await memory.probe()
        progress.total = sum(map(len, spans.values()))
        work = Redrive(config, rules, target, memory, originals, stop, report, progress.show)
        await work.run(reader, spans)


@asynccontextmanager
async def _target(
    config: Config, options: Options, group: str, stop: anyio.Event, progress: Progress
) -> AsyncIterator[Target]:
    """A dry run gets one that is not connected: starting a producer would end another redrive."""
    if options.to == "sink":
        resender = Resender(config, stop, options.patience)
        opened = nullcontext() if options.dry_run else resender.opened()
        async with _topic(config, options, group) as topic, opened:
            yield ToSink(config, resender, progress.note, topic)
    else:
        async with _topic(config, options, group) as topic:
            yield topic


@asynccontextmanager
async def _topic(config: Config, options: Options, group: str) -> AsyncIterator[ToTopic]:
    keep = options.keep_timestamps
    if options.dry_run:
        yield ToTopic(config, group, None, transactional=True, keep_timestamps=keep)
    else:
        async with to_topic(config, group, keep_timestamps=keep) as topic:
            yield topic


def as_text(report: Report, options: Options, width: int) -> list[str]:
    """What was sent, and what was left and why."""
    sent = report.sent.total()
    verb = "would be sent" if options.dry_run else "sent"
    where = "back to their topics" if options.to == "topic" else "through the sink"
    lines = [f"{count(sent, 'dead letter')} {verb} {where}, of {report.seen:,} looked at"]
    lines += fields([(f"  {topic}", f"{n:,}") for topic, n in sorted(report.sent.items())], width)
    if report.earlier:
        lines.append(f"{report.earlier:,} sent by an earlier run, or given up with --pass-over")
    for why, number in report.left.most_common():
        lines.append(shortened(f"{number:,} left: {why}", width))
        if why not in UNASKED:
            lines += [shortened(f"  {printable(named)}", width) for named in report.named[why]]
            if (more := number - len(report.named[why])) > 0:
                lines.append(f"  and {more:,} more")
    if report.stopped:
        lines.append("Stopped before the end; run it again to go on.")
    return lines
