"""A headless Chromium, told what to do through its debugging port: no package is needed for it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import urlopen

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0 --window-size=1200,1900"
)
# finds the control that a label names, or the smallest element that shows a text
_FIND = """
(want) => {
  const seen = e => e && e.getClientRects().length > 0;
  const words = e => (e.innerText || '').trim();
  const label = [...document.querySelectorAll('label')].find(e => seen(e) && words(e).startsWith(want));
  const named = label && document.getElementById(label.htmlFor);
  const roles = '[role=tab],[role=option],[role=menuitem],button,a';
  const found = named || [...document.querySelectorAll(roles)].find(e => seen(e) && words(e) === want);
  if (!found) return null;
  found.scrollIntoView({block: 'center'});
  const box = found.getBoundingClientRect();
  return {x: box.x + box.width / 2, y: box.y + box.height / 2};
}
"""


class Browser:
    """One page in one browser.

    Args:
        profile: An empty folder for the browser's state.
    """

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        self._process = subprocess.Popen(
            [CHROMIUM, *_FLAGS.split(), f"--user-data-dir={profile}", "about:blank"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if match := re.search(r"DevTools listening on ws://(\S+?)/", line):
                break
        else:
            raise RuntimeError("Chromium did not start")
        pages = json.load(urlopen(f"http://{match[1]}/json"))
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        self._socket = connect(address, max_size=None)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.communicate(timeout=30)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer: dict[str, Any] = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, address: str) -> None:
        """Goes to a page."""
        self._call("Page.navigate", url=address)

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.evaluate("(document.body || {}).innerText || ''"))

    def wait_for(self, words: str, seconds: float = 60) -> None:
        """Waits until words can be read on the page."""
        deadline = time.monotonic() + seconds
        while words not in self.text():
            assert time.monotonic() < deadline, f"{words!r} is not on the page:\n{self.text()}"
            time.sleep(0.2)

    def click(self, what: str, seconds: float = 30) -> None:
        """Presses the control with this label or text."""
        deadline = time.monotonic() + seconds
        while (place := self.evaluate(f"({_FIND})({json.dumps(what)})")) is None:
            assert time.monotonic() < deadline, f"there is nothing to press called {what!r}:\n{self.text()}"
            time.sleep(0.2)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
        time.sleep(0.2)

    def type(self, text: str) -> None:
        """Replaces what is in the focused field."""
        self.evaluate("document.activeElement.select()")
        self._call("Input.insertText", text=text)
        time.sleep(0.1)

    def fill(self, label: str, text: str) -> None:
        """Types into the field with this label."""
        self.click(label)
        self.type(text)

    def screenshot(self, path: Path) -> None:
        """Writes what the page looks like."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))
