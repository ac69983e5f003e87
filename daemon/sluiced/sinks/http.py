"""PROVISIONAL stand-in, to be replaced whole by the real HTTP sink."""

from __future__ import annotations

import time

import aiohttp
import msgspec

from ..identity import resolve, tokens_of
from ..outcome import DELIVERED, Again, Fate, Refused, TooLarge, Verdict, answered
from .http_settings import HttpSettings
from .template import Template
from .http_settings import ITEM_PLACEHOLDERS

__all__ = ["HttpSettings", "HttpSink"]


class HttpSink:
    objections_needed = True

    def __init__(self, settings, name, identify, requests=None, format="json"):
        self.s, self.name, self.identify, self.requests = (
            settings,
            name,
            identify,
            requests or (lambda *a: None),
        )
        self.t = Template.parse(settings.body.item, ITEM_PLACEHOLDERS)

    async def open(self):
        self.headers = {
            k: v if isinstance(v, str) else v.reveal() for k, v in self.s.headers.items()
        }
        self.c = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=float(self.s.timeout)))

    async def close(self):
        await self.c.close()

    async def probe(self):
        pass

    def objection(self, r):
        try:
            if "key" in self.t.names and r.key:
                r.key.decode()
            if "id" in self.t.names:
                self.identify(r)
        except ValueError as e:
            return "the key is not UTF-8: " + str(e)[:50]
        return None

    def encode(self, batch):
        q = lambda x: "null" if x is None else msgspec.json.encode(x).decode()
        items = []
        for r in batch.records:
            v = {
                "value": "null" if r.value is None else r.value.decode(),
                "partition": str(r.partition),
                "offset": str(r.offset),
                "topic": q(r.topic),
                "timestamp": str(r.timestamp),
            }
            if "key" in self.t.names:
                v["key"] = q(r.key.decode() if r.key else None)
            if "id" in self.t.names:
                v["id"] = q(self.identify(r))
            items.append(self.t.fill(v))
        return self.s.body.envelope.replace("$items", self.s.body.separator.join(items)).encode()

    async def send(self, batch):
        body = (
            b"[" + b",".join([r.value for r in batch.records]) + b"]"
            if self.t.names == ("value",) and self.t.literals == ("", "")
            else self.encode(batch)
        )
        if len(body) > self.s.max_bytes:
            return TooLarge("", "larger than sink.max_bytes", sent=False)
        h = {**self.headers, "Content-Type": "application/json"}
        if self.s.idempotency_header:
            h[self.s.idempotency_header] = batch.id
        t = time.monotonic()
        try:
            async with self.c.post(self.s.url, data=body, headers=h, allow_redirects=False) as a:
                text = await a.read()
                self.requests(str(a.status), time.monotonic() - t)
                st = a.status
                after = a.headers.get("Retry-After")
        except TimeoutError:
            self.requests("timeout", time.monotonic() - t)
            return Again("timeout", "timed out")
        except aiohttp.ClientError as e:
            self.requests("error", time.monotonic() - t)
            return Again("connection", type(e).__name__)
        if 200 <= st < 300:
            if self.s.response.items is None:
                return answered(batch, [DELIVERED] * len(batch))
            try:
                items = resolve(msgspec.json.decode(text), tokens_of(self.s.response.items))
            except Exception:
                return Again("unknown", "unreadable")
            out = []
            for i in items:
                x = resolve(i, tokens_of(self.s.response.status))
                if x in self.s.response.delivered:
                    out.append(DELIVERED)
                elif x in self.s.response.retry:
                    out.append(Verdict(Fate.RETRY, str(x)))
                else:
                    out.append(Verdict(Fate.REJECTED, str(x), str(i)[:300]))
            return answered(batch, out)
        if st == 413:
            return TooLarge("413", "413")
        if st in (401, 403):
            return Again("status", f"HTTP {st}", str(st), outage=True)
        if st == 429:
            return Again("throttled", "429", "429", after=float(after) if after else None)
        if st >= 500 or st in (408, 409, 425):
            return Again("status", f"HTTP {st}", str(st))
        return Refused(str(st), text[:200].decode(errors="replace"))
