"""A headless Chromium, driven by its DevTools protocol over a pipe: nothing but
Python's standard library, and no port."""
import base64
import fcntl
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time

NAMES = ["chromium", "chromium-browser", "google-chrome", "chrome"]


def find():
    """The path of a Chromium, or None."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A browser with a profile of its own, gone with it."""

    def __init__(self, path):
        self.profile = tempfile.TemporaryDirectory(prefix="quarrel-browser-", ignore_cleanup_errors=True)
        to_read, self.write_end = os.pipe()
        self.read_end, to_write = os.pipe()

        def descriptors():
            # The browser reads commands from 3 and writes to 4. Moved out of
            # the way first, since a pipe may already have these numbers.
            source, sink = (fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (to_read, to_write))
            os.dup2(source, 3)
            os.dup2(sink, 4)

        flags = [
            "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self.profile.name}", "--no-first-run",
            "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-background-networking",
            "--force-color-profile=srgb", "--lang=en-US",
            # A mouse, which a machine without a screen may not have.
            "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            flags.append("--no-sandbox")
        self.process = subprocess.Popen(
            [path, *flags, "about:blank"], close_fds=False, preexec_fn=descriptors,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self.count = 0
        self.answers = {}
        self.arrived = threading.Condition()
        self.events = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with os.fdopen(self.read_end, "rb") as pipe:
            rest = b""
            while part := pipe.read1(1 << 16):
                *messages, rest = (rest + part).split(b"\0")
                for message in map(json.loads, messages):
                    if "id" in message:
                        with self.arrived:
                            self.answers[message["id"]] = message
                            self.arrived.notify_all()
                    else:
                        self.events.put(message)

    def call(self, method, session=None, **parameters):
        """Sends a command and waits for its result."""
        self.count += 1
        number = self.count
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        with self.arrived:
            if not self.arrived.wait_for(lambda: number in self.answers, timeout=60):
                raise TimeoutError(f"{method}: the browser does not answer")
            answer = self.answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def page(self):
        """A new tab whose storage nobody shares."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        return Page(self, context, target)

    def close(self):
        try:
            self.call("Browser.close")
        except (OSError, RuntimeError, TimeoutError):
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.profile.cleanup()


KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowUp": 38, "ArrowDown": 40, "Home": 36, "End": 35, " ": 32}
ALT, CONTROL, META, SHIFT = 1, 2, 4, 8


class Page:
    """A tab."""

    def __init__(self, browser, context, target):
        self.browser, self.context, self.target = browser, context, target
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        # Tabs in the background get no frames and no focus.
        self.call("Page.bringToFront")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.size(1280, 800)

    def call(self, method, **parameters):
        return self.browser.call(method, session=self.session, **parameters)

    def close(self):
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)

    def size(self, width, height, touch=False, scale=1):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)

    def media(self, **features):
        """Emulates media features, `_` standing for `-`."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=named)

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def reload(self):
        self.js("window.isOld = true")
        self.call("Page.reload")
        self.wait("!window.isOld && document.readyState === 'complete'")

    def js(self, expression):
        """The value of a JavaScript expression, awaited if it is a promise."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description") or details["text"])
        return result["result"].get("value")

    def wait(self, expression, seconds=15):
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while True:
            try:
                if self.js(f"Boolean({expression})"):
                    return
            except RuntimeError as error:
                # A page that is being left has no context for a moment.
                if "context" not in str(error).lower():
                    raise
            if time.monotonic() > end:
                raise AssertionError(f"never came true: {expression}")
            time.sleep(0.02)

    def click(self, selector):
        """Clicks with the mouse in the middle of what a selector finds."""
        spot = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            "e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2, r.width]; })()"
        )
        assert spot and spot[2] > 0, f"nothing to click: {selector}"
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=spot[0], y=spot[1], button="left", clickCount=1)

    def key(self, key, modifiers=0):
        code = KEYS.get(key) or ord(key.upper())
        text = {"Enter": "\r", " ": " "}.get(key, "" if len(key) > 1 else key)
        text = {} if modifiers & (CONTROL | META) or not text else {"text": text}
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def screenshot(self, path):
        shot = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))
