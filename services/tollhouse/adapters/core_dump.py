"""What is in memory stays there: no key and no prompt in a core dump."""

import resource


def leave_no_core() -> None:
    """Have the kernel write no dump of this process, nor of those it starts."""
    # One byte is less than any dump, and the one value that also stops a `|program` in
    # core_pattern, which gets its dump at 0 too (core(5); Linux, fs/coredump.c).
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    size = 1 if most else 0  # nobody may raise it again
    resource.setrlimit(resource.RLIMIT_CORE, (size, size))
