"""The `tollhouse` command, run within this process.

Another process would import for most of a second each time. That the command works as
one is tested where it is started: unit/cli/test_main, e2e/up, e2e/deploy.
"""

import contextlib
import io
from concurrent.futures import ThreadPoolExecutor
from subprocess import CompletedProcess

from tollhouse.cli.__main__ import main

Done = CompletedProcess[str]


def tollhouse(*arguments: object) -> Done:
    """Run a command to its end, in a thread: the caller's may have an event loop."""
    given = [str(it) for it in arguments]
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        ThreadPoolExecutor(1) as thread,
    ):
        status = thread.submit(_status, given).result()
    return Done(given, status, out.getvalue(), err.getvalue())


def _status(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as ended:  # argparse's, for help and what it can't read
        return int(ended.code or 0)
