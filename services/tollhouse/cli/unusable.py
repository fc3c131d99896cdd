"""What a command can't work with."""


class UnusableError(Exception):
    """The command line, a file or the machine is not right: exit status 2.

    The text has one line for each fault, with its remedy, ready to print.
    """
