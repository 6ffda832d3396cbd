"""Headless Chromium through its DevTools protocol: open a page, look at it, close it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# WebGL by software (no GPU is assumed), and no call home: behind a closed network those calls stall the page.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--mute-audio",
    "--remote-debugging-port=0",
)


def find_chromium() -> str | None:
    """Path of the browser, None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page of one browser with a profile of its own; bounded waits everywhere."""

    def __init__(self, folder: Path, *, size: tuple[int, int] = (1280, 800), timeout: float = 40.0) -> None:
        program = find_chromium()
        assert program is not None, "no Chromium"
        self._timeout = timeout
        self._log = (folder / "chromium.log").open("wb")
        command = [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={size[0]},{size[1]}"]
        self._process = subprocess.Popen([*command, "about:blank"], stdout=self._log, stderr=self._log)
        try:
            self._socket = connect(self._page(folder / "profile" / "DevToolsActivePort"), max_size=None, proxy=None)
        except BaseException:
            self.close()
            raise
        self._count = 0
        self.call(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
        )

    def _page(self, port_file: Path) -> str:
        def address() -> str | None:
            if self._process.poll() is not None:
                raise RuntimeError(f"Chromium ended with {self._process.returncode}; see {self._log.name}")
            try:
                port = int(port_file.read_text().split()[0])
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                pages = json.load(opener.open(f"http://127.0.0.1:{port}/json/list", timeout=5))
            except (OSError, IndexError, ValueError):
                return None
            return next((page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"), None)

        return self.until(address, "Chromium's debugging port")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One DevTools command and its result."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        deadline = time.monotonic() + self._timeout
        while True:
            answer = json.loads(self._socket.recv(timeout=max(deadline - time.monotonic(), 0.0)))
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, url: str) -> None:
        """Navigate."""
        self.call("Page.navigate", url=url)

    def text(self) -> str:
        """The visible text of the page."""
        result = self.call("Runtime.evaluate", expression="document.body ? document.body.innerText : ''")
        return result["result"].get("value", "")

    def dismiss_notices(self) -> None:
        """Close notices that lie over the page, as the one that WebGL is done by software."""
        script = "document.querySelectorAll('.mantine-Notification-closeButton').forEach(button => button.click())"
        self.call("Runtime.evaluate", expression=script)

    def screenshot(self) -> np.ndarray:
        """(height, width, 3) RGB."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Ask until the answer is true; TimeoutError names what never came."""
        deadline = time.monotonic() + self._timeout
        while not (answer := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come within {self._timeout:.0f} s")
            time.sleep(0.1)
        return answer

    def close(self) -> None:
        """End the browser that this object started."""
        if hasattr(self, "_socket"):
            self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._log.close()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
