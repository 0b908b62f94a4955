"""A headless Chromium driven over its DevTools pipe: pages at a width and in a theme."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")

_PATIENCE_S = 60.0


@dataclass
class Browser:
    """One tab. `problems` collects console messages, exceptions and failed loads."""

    commands: int  # file descriptors of the pipe
    replies: int
    session: str = ""
    problems: list[str] = field(default_factory=list)
    buffer: bytes = b""
    last_id: int = 0
    num_loaded: int = 0  # pages

    def call(self, method: str, **params: object) -> dict:
        """Send a command and wait for its result."""
        self.last_id += 1
        message: dict[str, object] = {"id": self.last_id, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            reply = self.receive()
            if reply.get("id") == self.last_id:
                assert "error" not in reply, reply
                return reply["result"]

    def receive(self) -> dict:
        """The next message; events that tell of a problem are noted."""
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.replies], [], [], _PATIENCE_S)
            assert ready, f"the browser is silent for {_PATIENCE_S} s"
            data = os.read(self.replies, 1 << 20)
            assert data, "the browser is gone"
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(line)
        if message.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.problems.append(json.dumps(message["params"])[:500])
        elif message.get("method") == "Log.entryAdded":
            self.problems.append(message["params"]["entry"]["text"])
        elif message.get("method") == "Page.loadEventFired":
            self.num_loaded += 1
        return message

    def show(self, path: Path, width: int, theme: str) -> None:
        """Load a file at a width in CSS pixels and in the theme `light` or `dark`."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": theme}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        num_loaded = self.num_loaded
        self.call("Page.navigate", url=path.resolve().as_uri())
        while self.num_loaded == num_loaded:
            self.receive()
        # two frames: the page draws its charts in the first, when it knows its width
        self.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def evaluate(self, script: str) -> object:
        """The value of an expression or promise in the page."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile in `profile`, without a network."""
    assert PROGRAM is not None
    command_read, command_write = os.pipe()
    reply_read, reply_write = os.pipe()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    options += ["--no-first-run", "--disable-extensions", f"--user-data-dir={profile}"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-dev-shm-usage"]
    # the pipe's ends are descriptors 3 and 4 by convention
    redirect = f'exec "$@" 3<&{command_read} 4>&{reply_write}'
    process = subprocess.Popen(
        ["/bin/bash", "-c", redirect, "bash", PROGRAM, *options],
        pass_fds=(command_read, reply_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(command_read)
    os.close(reply_write)
    tab = Browser(command_write, reply_read)
    try:
        target = tab.call("Target.createTarget", url="about:blank")["targetId"]
        tab.session = tab.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            tab.call(f"{domain}.enable")
        yield tab
    finally:
        os.close(command_write)  # the browser ends when its pipe does
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(reply_read)
