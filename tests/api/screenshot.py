"""A headless Chromium over its DevTools protocol, and pictures of pages.

    python -m tests.api.screenshot URL FILE.png [WIDTH HEIGHT [dark]]

`Browser` is what the dashboard's tests drive; `shoot` is what the README's picture is made with.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


def chromium() -> str:
    """The path of Chromium, installed from Debian's packages where it is missing."""
    found = shutil.which("chromium")
    if found is None:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends"]
        subprocess.run([*install, "chromium", "fonts-dejavu-core"], check=True)
        found = shutil.which("chromium")
    assert found is not None, "apt-get installed chromium, and it is not on the path"
    return found


class Page:
    """One tab: evaluates scripts, remembers errors, takes pictures."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events in between are looked through."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return dict(message["result"])
            self._look(message)

    def _look(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        if event["method"] == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning"}:
            self.errors.append(json.dumps(params["args"]))
        if event["method"] == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.errors.append(json.dumps(params["entry"]))

    def open(self, url: str, *, width: int, height: int, scheme: str = "light") -> None:
        """Go to `url` in a window of this size and colour scheme."""
        size = {"width": width, "height": height}
        self.call("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=url)
        self.wait("document.readyState == 'complete'")

    def value(self, script: str) -> Any:
        """What a script gives, as JSON."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str, *, timeout_s: float = 30) -> Any:
        """The value of a script once it is truthy; fails with the page's text after the time."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if found := self.value(script):
                return found
            time.sleep(0.05)
        raise AssertionError(f"{script} stayed false; errors: {self.errors}")

    def text(self) -> str:
        """The text that is shown."""
        return str(self.value("document.body.innerText"))

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser() -> Iterator[Page]:
    """A tab of a Chromium of one's own, with an empty profile; ended afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        child = subprocess.Popen(
            [chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with connect(
                _address(Path(profile), child), max_size=None, ping_interval=None
            ) as socket:
                yield _tab(socket)
        finally:
            child.terminate()
            child.wait(10)


def _address(profile: Path, child: subprocess.Popen[bytes]) -> str:
    """Where the browser's DevTools listen: it writes that into its profile."""
    for _ in range(400):
        assert child.poll() is None, "Chromium ended at once"
        lines = (profile / "DevToolsActivePort").read_text().split() if _has_port(profile) else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise AssertionError("Chromium did not listen within 20 s")


def _has_port(profile: Path) -> bool:
    return (profile / "DevToolsActivePort").exists()


def _tab(socket: ClientConnection) -> Page:
    port = socket.remote_address[1]
    socket.send(json.dumps({"id": 0, "method": "Target.getTargets"}))
    targets = json.loads(socket.recv(timeout=60))["result"]["targetInfos"]
    page = next(target["targetId"] for target in targets if target["type"] == "page")
    return Page(
        connect(
            f"ws://127.0.0.1:{port}/devtools/page/{page}", max_size=None, ping_interval=None
        ).__enter__()
    )


def shoot(
    url: str,
    path: Path,
    width: int = 1200,
    height: int = 900,
    *,
    scheme: str = "light",
    until: str = "document.querySelector('.plot .line')",
) -> None:
    """A picture of the dashboard at `url`, taken once the script `until` is truthy."""
    with browser() as page:
        page.open(url, width=width, height=height, scheme=scheme)
        page.wait(f"Boolean({until})")
        time.sleep(0.6)  # the split's bar glides to its place
        page.picture(path)
        assert page.errors == [], page.errors


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[3:5]]
    shoot(
        sys.argv[1], Path(sys.argv[2]), *numbers, scheme="dark" if "dark" in sys.argv else "light"
    )
