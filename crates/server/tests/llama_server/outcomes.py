"""A plugin of pytest that prints a line of JSON for each test, for who counts them."""
import json


def pytest_runtest_logreport(report):
    if report.when != "call" and report.outcome == "passed":
        return
    reason = ""
    if report.outcome == "skipped":
        reason = str(report.longrepr[-1])
    elif report.outcome == "failed":
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = crash.message if crash else str(report.longrepr)
    line = {"test": report.nodeid, "outcome": report.outcome, "reason": reason.strip().split("\n")[0][:300]}
    print("\nOUTCOME " + json.dumps(line), flush=True)
