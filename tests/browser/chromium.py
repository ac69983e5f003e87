"""A Chromium without a window: pages are opened, read, resized and typed into."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import anyio

from harness.tools import require

_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--remote-debugging-port=0"),
)


class Page:
    """One tab. What it logs, what it throws and what it asks for is collected."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []
        self.requests: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            else:
                self._noted(said["method"], said["params"])

    def _noted(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(params["args"]))

    async def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and what it answers."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        with anyio.fail_after(60):
            said = await answer
        assert "error" not in said, f"{method}: {said}"
        return dict(said["result"])

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression is, as far as JSON can say it."""
        said = await self.tell(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in said, f"{expression}: {said['exceptionDetails']}"
        return said["result"].get("value")

    async def text(self, selector: str) -> str:
        """What can be read there."""
        place = f"document.querySelector({json.dumps(selector)})"
        found = await self.value(
            f"{place}.innerText ?? {place}.textContent"
        )  # SVG has no innerText
        return " ".join(str(found).split())

    async def until(self, expression: str, seconds: float = 60.0) -> None:
        """Returns as soon as a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while not await self.value(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                shown = await self.value("document.body.innerText")
                raise AssertionError(f"waited in vain for {expression}; it shows:\n{shown}")
            await anyio.sleep(0.05)

    async def shows(self, selector: str, text: str, seconds: float = 60.0) -> None:
        """Returns as soon as this text can be read there."""
        place, what = json.dumps(selector), json.dumps(text)
        await self.until(f"document.querySelector({place})?.textContent.includes({what})", seconds)

    async def size(self, width: int, height: int = 900) -> None:
        await self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        await self.tell("Emulation.setScrollbarsHidden", hidden=True)
        await self.until(f"innerWidth === {width}")
        # Whoever is told of another size has been told before the next frame.
        await self.value("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    async def prefers(self, **features: str) -> None:
        """Such as color_scheme="dark", reduced_motion="reduce"."""
        wanted = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value}
            for name, value in features.items()
        ]
        await self.tell("Emulation.setEmulatedMedia", features=wanted)

    async def press(self, key: str) -> None:
        """Tab, Enter and the like, as from a keyboard."""
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        typed = {"key": key, "windowsVirtualKeyCode": code}
        text = {"Enter": "\r", " ": " "}.get(key)
        down = {"text": text} if text else {}
        await self.tell("Input.dispatchKeyEvent", type="keyDown", **typed, **down)
        await self.tell("Input.dispatchKeyEvent", type="keyUp", **typed)

    async def screenshot(self, path: Path) -> None:
        size = (await self.tell("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        taken = await self.tell("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))


class Chromium:
    """The browser, with a profile that starts empty; an async context manager."""

    def __init__(self, directory: Path) -> None:
        self._profile = directory / "chromium"

    async def __aenter__(self) -> Self:
        program = shutil.which("chromium")
        require("chromium", found=program is not None)
        assert program is not None
        self._session = aiohttp.ClientSession()
        self._process = await asyncio.create_subprocess_exec(
            program,
            *_QUIET,
            f"--user-data-dir={self._profile}",
            "about:blank",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        told = self._profile / "DevToolsActivePort"
        with anyio.fail_after(90):
            while not (told.exists() and "\n" in told.read_text()):
                assert self._process.returncode is None, "chromium has ended at once"
                await anyio.sleep(0.05)
        self._port = int(told.read_text().split()[0])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._session.close()
        self._process.terminate()
        await self._process.wait()

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[Page]:
        """A new tab, told to go there; does not wait until it has arrived."""
        base = f"http://127.0.0.1:{self._port}"
        async with self._session.put(f"{base}/json/new?about:blank") as answer:
            target = await answer.json()
        where = target["webSocketDebuggerUrl"]
        async with self._session.ws_connect(where, max_msg_size=0) as socket:
            page = Page(socket)
            listening = asyncio.create_task(page.listen())
            for domain in ("Page", "Runtime", "Log", "Network"):
                await page.tell(f"{domain}.enable")
            # Otherwise the latest tab hides all others, and they ask less often.
            await page.tell("Emulation.setFocusEmulationEnabled", enabled=True)
            await page.tell("Page.navigate", url=url)
            try:
                yield page
            finally:
                async with self._session.get(f"{base}/json/close/{target['id']}"):
                    pass
                await asyncio.wait([listening])  # its socket is closed with the tab
