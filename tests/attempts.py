"""How often a test is tried before it has failed.

Once, but for two kinds whose outcome is not the product's alone; what else runs on the
machine may stall all for longer than any promise of the product:

    timed          measures time, to which a stall only ever adds: one of three attempts
                   must keep the promise; a product that breaks it breaks it in all
    end to end     ten processes, some of them others' (Envoy, Triton, Redis): two; but
                   one where a single breach is too many: attacks, secrets, chaos

Each attempt has fixtures of its own, but for those of a module or the whole run: names
that can be used once have its number (`attempt`). What was tried again is told at the
end of the run, of end-to-end tests with all that the first attempt said: it may be a
rare fault.
"""

import pytest
from _pytest.runner import runtestprotocol

LONGEST_SECONDS = 60.0
"""What takes longer is not tried again: it hangs, or costs too much."""
MOST_END_TO_END = 5
"""When so many were tried again, something is broken: no more of them are."""
_AGAIN = "tried again"
_END_TO_END = "tests/e2e/"
_NEVER_ONCE = tuple(f"{_END_TO_END}{it}/" for it in ("attacks", "secrets", "chaos"))
"""What these find must not happen at all: passing the next time is no excuse."""
_END_TO_END_AGAIN = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Say what the mark means."""
    config.addinivalue_line(
        "markers", "timed: measures time; one of three attempts must pass"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> bool | None:
    """Run a test until it passes, or has failed as often as it may."""
    attempts = _attempts(item)
    if attempts == 1:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports: list[pytest.TestReport] = []
    for left in reversed(range(attempts)):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        # A fixture or a teardown that fails measures nothing.
        if not left or {it.when for it in reports if it.failed} != {"call"}:
            break
        _, called, _ = reports
        if called.duration > LONGEST_SECONDS or not _may_be_tried_again(item):
            break
        item.user_properties.append((_AGAIN, called.longreprtext))
    earlier = [str(said) for name, said in item.user_properties if name == _AGAIN]
    for report in reports:
        if report.failed:
            report.sections += [("an earlier attempt", said) for said in earlier]
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _attempts(item: pytest.Item) -> int:
    if item.get_closest_marker("timed") is not None:
        return 3
    return 2 if _has_two(item.nodeid) else 1


def _has_two(nodeid: str) -> bool:
    return nodeid.startswith(_END_TO_END) and not nodeid.startswith(_NEVER_ONCE)


def _may_be_tried_again(item: pytest.Item) -> bool:
    if not _has_two(item.nodeid):
        return True
    stash = item.config.stash
    before = stash.get(_END_TO_END_AGAIN, 0)
    stash[_END_TO_END_AGAIN] = before + 1
    return before < MOST_END_TO_END


def attempt(item: pytest.Item) -> int:
    """Which attempt runs; for names that can be used once. 0: the first."""
    return sum(name == _AGAIN for name, _ in item.user_properties)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was tried again, and what it said."""
    for report in terminalreporter.stats.get("passed", []):
        for name, said in report.user_properties:
            if name != _AGAIN:
                continue
            lines = said.splitlines()
            if _has_two(report.nodeid):
                for line in lines:
                    terminalreporter.write_line(line)
            last = next((it for it in lines if it.startswith("E ")), "E")
            terminalreporter.write_line(f"AGAIN {report.nodeid}: {last[1:].strip()}")
