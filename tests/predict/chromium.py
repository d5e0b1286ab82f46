"""A headless Chromium that tests drive: real mouse and keys, by the DevTools protocol over a pair of pipes."""

import base64
import fcntl
import io
import itertools
import json
import os
import select
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --hide-scrollbars --force-device-scale-factor=1 "
    "--force-prefers-reduced-motion --window-size=900,700"
).split()
PATIENCE = 60  # seconds for an answer, or for something to happen
in_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")


class Chromium:
    """A browser with one page. It is a context manager, and `errors` are the page's errors so far."""

    def __init__(self, folder, url):
        self.errors, self._numbers, self._rest, self._session = [], itertools.count(1), b"", {}
        theirs, self._in = os.pipe()
        self._out, answers = os.pipe()
        # Chromium reads from 3 and writes to 4, so ours must be other numbers.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (theirs, answers)]
        actions = [(os.POSIX_SPAWN_DUP2, end, number) for end, number in zip(ends, (3, 4))]
        actions.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
        command = [BROWSER, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "--remote-debugging-pipe", "about:blank"]
        self._process = os.posix_spawn(BROWSER, command, os.environ, file_actions=actions)
        for end in (theirs, answers, *ends):
            os.close(end)
        pages = [target for target in self.call("Target.getTargets")["targetInfos"] if target["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")
        self.resize(900, 700)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.kill(self._process, signal.SIGTERM)
        os.waitpid(self._process, 0)
        os.close(self._in)
        os.close(self._out)

    def call(self, method, **params):
        """The result of a command; raises RuntimeError if there is none."""
        message = {"id": next(self._numbers), "method": method, "params": params, **self._session}
        os.write(self._in, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            warning = answer.get("params", {}).get("entry", {}).get("level") == "warning"  # of what tests do
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded") and not warning:
                self.errors.append(answer)
            if answer.get("id") == message["id"]:
                if "error" in answer or "exceptionDetails" in answer["result"]:
                    raise RuntimeError(f"{params}: {answer}")
                return answer["result"]

    def _read(self):
        while b"\0" not in self._rest:
            if not select.select([self._out], [], [], PATIENCE)[0]:
                raise TimeoutError("Chromium does not answer")
            more = os.read(self._out, 1 << 20)
            if not more:
                raise EOFError("Chromium ended")
            self._rest += more
        answer, self._rest = self._rest.split(b"\0", 1)
        return json.loads(answer)

    def value(self, expression):
        """What an expression of JavaScript is worth in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression):
        """Returns when an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression} stays false")
            time.sleep(0.02)

    def box(self, selector):
        """Left, top, right and bottom of an element."""
        box = self.value(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")
        return [box[side] for side in ("left", "top", "right", "bottom")]

    def move(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, place, across=0.5, hold="true"):
        """Clicks at `(x, y)`, or into the element of a selector at a share of its width; holds until `hold` is true."""
        if isinstance(place, str):
            left, top, right, bottom = self.box(place)
            place = left + across * (right - left), (top + bottom) / 2
        x, y = place
        self.move(x, y)
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
        self.wait(hold)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)

    def press(self, key):
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key if len(key) == 1 else "")
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def resize(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.wait(f"width === {width} && height === {height}")

    def screenshot(self):
        """`[H, W, 3]`, after all that was asked for is drawn."""
        self.call(
            "Runtime.evaluate",
            expression="new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))",
            awaitPromise=True,
        )
        png = base64.b64decode(self.call("Page.captureScreenshot")["data"])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
