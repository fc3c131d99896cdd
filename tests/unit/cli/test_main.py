"""The command teaches, starts fast, and ends with a meaningful status."""

import argparse
import importlib
import os
import subprocess
import sys

import pytest

from tollhouse.cli.__main__ import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_command_says(name, capsys):
    """Summaries are kept twice so that `--help` needs no imports; they must agree."""
    module, summary = COMMANDS[name]
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    importlib.import_module(f"tollhouse.cli.{module}").add_parser(subparsers)

    parser.print_help()
    assert " ".join(summary.split()) in " ".join(capsys.readouterr().out.split())
    assert name in subparsers.choices


def test_help_shows_commands_and_examples(capsys):
    """The first thing a stranger reads."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])

    said = capsys.readouterr().out
    assert all(name in said for name in COMMANDS)
    assert "tollhouse up --backend" in said


def test_no_command_shows_them_all(capsys):
    """Whoever types the bare name wants to know what there is."""
    assert main([]) == 2

    said = capsys.readouterr()
    assert not said.out
    assert all(name in said.err for name in COMMANDS)


def test_an_interrupt_during_imports_is_no_traceback():
    """Ctrl-C in the first half second, before `up` has handlers of its own."""
    script = (
        "import sys\n"
        "from tollhouse.cli.__main__ import main\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'tollhouse.cli.up': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "sys.exit(main(['up']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("arguments", [["nonsense"], ["up", "--workers", "none"]])
def test_a_wrong_command_line_is_status_2(arguments, capsys):
    """Scripts tell usage from failure."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)

    assert capsys.readouterr().err.startswith("usage: tollhouse")


def test_commands_do_not_pay_for_each_other():
    """The typed Envoy classes alone take most of a second."""
    script = (
        "import sys; from tollhouse.cli.__main__ import main\n"
        "try: main(['tenants', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'envoy_data_plane', 'grpc', 'numpy', 'uvicorn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL
    )


def test_a_reader_that_leaves_is_no_error():
    """`tollhouse usage | head` must not end in a traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    script = (
        "import sys; from tollhouse.cli.__main__ import main\n"
        "sys.exit(main(['check-config']))"
    )
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert done.stderr == b""
