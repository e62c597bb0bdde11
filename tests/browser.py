"""A headless Chromium, driven over its DevTools pipe with the standard library alone."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-sandbox",  # a container's root has no other choice; only our own files are opened
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# Chromium reads commands from file descriptor 3 and answers on 4, whatever else is open.
LAUNCHER = (
    "import os, sys; read, write = map(int, sys.argv[1:3]); "
    "os.dup2(read, 3); os.dup2(write, 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
TIMEOUT_S = 120.0


def chromium() -> str | None:
    """Path of a Chromium on this machine, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One process; `page` opens a tab."""

    def __init__(self, executable: str, profile: str) -> None:
        # Two pipes, their ends at numbers that the launcher does not overwrite.
        commands, to_browser = os.pipe()
        from_browser, answers = os.pipe()
        handed = [_above_ten(commands), _above_ten(answers)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, *map(str, handed), executable, *ARGUMENTS,
             f"--user-data-dir={profile}"],
            pass_fds=handed,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in handed:
            os.close(end)
        self._to, self._from = to_browser, from_browser
        self._buffer = b""
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come meanwhile are kept."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        _write(self._to, json.dumps(message).encode())
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def settle(self, seconds: float) -> None:
        """Take in the events of some time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._buffer.count(b"\0") or select.select([self._from], [], [], left)[0]:
                self.events.append(self._read())

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("chromium does not answer")
            part = os.read(self._from, 1 << 20)
            if not part:
                raise RuntimeError("chromium has ended")
            self._buffer += part
        text, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        return message

    def close(self) -> None:
        """End the process."""
        os.close(self._to)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)


class Page:
    """A tab with one file open, and all that it said and asked the network for."""

    def __init__(
        self, browser: Browser, file: Path, *, width: int, dark: bool, script: bool, print_: bool
    ) -> None:
        self._browser = browser
        browser.events.clear()
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = str(
            browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        )
        self._target = target
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="print" if print_ else "screen",
                  features=[scheme])  # fmt: skip
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=file.as_uri())
        deadline = time.monotonic() + TIMEOUT_S
        while not self._events("Page.loadEventFired"):
            assert time.monotonic() < deadline, "the page does not load"
            browser.settle(0.1)
        browser.settle(0.2)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to this tab."""
        return self._browser.call(method, self._session, **parameters)

    def run(self, expression: str, *, user: bool = False) -> Any:
        """Evaluate JavaScript and return its JSON value; `user` counts as a user's gesture."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True, userGesture=user)  # fmt: skip
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description"))
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        where = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1],
                      button="left", clickCount=1)  # fmt: skip

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text,
                      windowsVirtualKeyCode=code)  # fmt: skip

    def screenshot(self, file: Path) -> None:
        """Save the whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True,
                           clip={**size, "x": 0, "y": 0, "scale": 1})  # fmt: skip
        file.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self) -> bytes:
        """The page as it prints."""
        answer = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(answer["data"])

    @property
    def said(self) -> list[str]:
        """Everything on the console, and every exception."""
        self._browser.settle(0.1)
        found = [json.dumps(event["params"]) for event in self._events("Runtime.consoleAPICalled")]
        found += [json.dumps(event["params"]) for event in self._events("Runtime.exceptionThrown")]
        return found + [json.dumps(event["params"]) for event in self._events("Log.entryAdded")]

    @property
    def requested(self) -> list[str]:
        """Every address that was asked for."""
        self._browser.settle(0.1)
        events = self._events("Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in events]

    def _events(self, method: str) -> list[dict[str, Any]]:
        return [
            event for event in self._browser.events
            if event.get("method") == method and event.get("sessionId") == self._session
        ]  # fmt: skip

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)


@contextmanager
def started() -> Iterator[Browser]:
    """A running Chromium with a profile of its own."""
    executable = chromium()
    assert executable is not None, "no Chromium on this machine"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(executable, profile)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser,
    file: Path,
    *,
    width: int = 1200,
    dark: bool = False,
    script: bool = True,
    print_: bool = False,
) -> Iterator[Page]:
    """A file in a tab of its own."""
    page = Page(browser, file, width=width, dark=dark, script=script, print_=print_)
    try:
        yield page
    finally:
        page.close()


def _above_ten(descriptor: int) -> int:
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return moved


def _write(descriptor: int, message: bytes) -> None:
    rest = memoryview(message + b"\0")
    while rest:
        rest = rest[os.write(descriptor, rest) :]
