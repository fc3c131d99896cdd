"""`make setup` on a machine that lacks something."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "scripts" / "setup.sh"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def run_setup(tmp_path):
    """Return a function that runs a copy of the script, with nothing to install.

    Its interpreter is this one, but fails a program that the glob `lacks` is in.
    """
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(SETUP, tmp_path / "scripts")
    python = tmp_path / "python"

    def run(*arguments, lacks):
        python.write_text(
            "#!/bin/bash\n"
            "program=$2\n"
            "[[ $1 != - ]] || program=$(cat)\n"
            f"[[ $program != *{lacks}* ]] || exit 1\n"
            f'exec {sys.executable} -c "$program"\n'
        )
        python.chmod(0o755)
        return subprocess.run(
            [script, *arguments],
            env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("lacks", "package"),
    [("ensurepip", "python3-venv"), ("ctypes", f"libpython{VERSION}")],
)
def test_missing_package_is_named(run_setup, lacks, package):
    """One line names what is missing and how to install it."""
    result = run_setup(lacks=lacks)

    assert result.returncode == 2
    assert result.stderr == (
        f"setup: missing: {package}. Install with: apt-get install {package}\n"
    )


def test_missing_packages_are_listed(run_setup):
    """CI installs what `--missing` prints."""
    result = run_setup("--missing", lacks="@(ensurepip|ctypes)")

    assert result.returncode == 0
    assert result.stdout.split() == ["python3-venv", f"libpython{VERSION}"]


def test_wrong_python_is_refused(run_setup):
    """A version that Triton's stub can't use is refused before any installation."""
    result = run_setup(lacks="(3, 11)")

    assert result.returncode == 2
    assert "is not 3.11 or 3.12: name one that is with PYTHON=" in result.stderr
