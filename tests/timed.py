"""Tests that measure time are tried up to three times.

What else runs on the machine only ever adds to a measured time, and may stall all for
longer than any promise in it. So one of three attempts, each with fixtures of its own,
must keep the promise; a product that breaks it breaks it in all three. What was tried
again is told at the end of the run.
"""

import pytest
from _pytest.runner import runtestprotocol

ATTEMPTS = 3
LONGEST_SECONDS = 60.0
"""What takes longer is not tried again: it hangs, or costs too much."""
_AGAIN = "tried again"


def pytest_configure(config: pytest.Config) -> None:
    """Say what the mark means."""
    config.addinivalue_line(
        "markers", "timed: measures time; one of three attempts must pass"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> bool | None:
    """Run a test with the mark until it passes, or has failed three times."""
    if item.get_closest_marker("timed") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports: list[pytest.TestReport] = []
    for left in reversed(range(ATTEMPTS)):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        # A fixture or a teardown that fails measures nothing.
        if not left or {it.when for it in reports if it.failed} != {"call"}:
            break
        _, called, _ = reports
        if called.duration > LONGEST_SECONDS:
            break
        item.user_properties.append((_AGAIN, called.longreprtext))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def attempt(item: pytest.Item) -> int:
    """Which attempt runs; for names that can be used once. 0: the first."""
    return sum(name == _AGAIN for name, _ in item.user_properties)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was tried again, and what it said."""
    for report in terminalreporter.stats.get("passed", []):
        for name, said in report.user_properties:
            if name == _AGAIN:
                last = next(
                    (it for it in said.splitlines() if it.startswith("E ")), "E"
                )
                terminalreporter.write_line(
                    f"AGAIN {report.nodeid}: {last[1:].strip()}"
                )
