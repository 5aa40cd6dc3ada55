"""Tests the chat page in a headless Chromium.

    python3 crates/server/web/tests/browser_test.py [NAME …]

against the mock server beside this file, or with `--url` against a server that
runs, leaving out what only the mock can do. `--screenshots DIR` keeps pictures.
Needs Python 3.9 and Chromium (on Debian: apt install chromium; elsewhere CHROMIUM
names it), nothing else.
"""
import argparse
import pathlib
import sys
import tempfile
import time
import traceback

import devtools
import page_cases
from harness import TESTS, Chat
from mock_server import MockServer


def complaints(browser, session):
    """What went wrong in a page: exceptions, and breaches of the policy."""
    found = []
    while not browser.events.empty():
        event = browser.events.get()
        if event.get("sessionId") != session:
            continue
        if event["method"] == "Runtime.exceptionThrown":
            details = event["params"]["exceptionDetails"]
            found.append(details.get("exception", {}).get("description", details["text"]))
        if event["method"] == "Log.entryAdded":
            entry = event["params"]["entry"]
            # A refused request is logged as such; those are wanted here.
            if entry["level"] == "error" and entry["source"] != "network":
                found.append(entry["text"])
    return found


def run(browser, function, url, shots):
    """Runs one test in a fresh tab; returns the trace of its failure, if any."""
    mock = None if url else MockServer().start()
    page = browser.page()
    try:
        function(Chat(page, url or mock.url, mock, shots))
        found = complaints(browser, page.session)
        assert not found, "\n".join(found)
    except Exception:
        page.screenshot(shots / f"failed-{function.__name__}.png")
        return traceback.format_exc()
    finally:
        page.close()
        if mock:
            mock.shutdown()
            mock.server_close()
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="run only the tests with these words in their names")
    parser.add_argument("--url", help="of a server that runs; without it a mock server is started")
    parser.add_argument("--screenshots", type=pathlib.Path, help="a folder for pictures")
    options = parser.parse_args()
    path = devtools.find()
    if path is None:
        sys.exit("no Chromium: install one (Debian: apt install chromium), or name it in CHROMIUM")
    shots = options.screenshots or pathlib.Path(tempfile.mkdtemp(prefix="quarrel-shots-"))
    shots.mkdir(parents=True, exist_ok=True)
    browser = devtools.Browser(path)
    passed = failed = skipped = 0
    for function, needs_mock in TESTS:
        if options.names and not any(name in function.__name__ for name in options.names):
            continue
        if needs_mock and options.url:
            skipped += 1
            continue
        started = time.monotonic()
        trace = run(browser, function, options.url and options.url.rstrip("/"), shots)
        print(f"{'FAILED' if trace else 'ok    '} {function.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
        if trace:
            failed += 1
            print(trace)
        else:
            passed += 1
    browser.close()
    if failed:
        print(f"pictures of what failed are in {shots}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
