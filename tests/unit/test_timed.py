"""What the mark `timed` does."""

import pytest

TESTS = """
import pytest
tried = []

@pytest.fixture(autouse=True)
def fresh(request):
    tried.append(request.node.name)

@pytest.mark.timed
def test_passes_in_the_third():
    assert tried.count("test_passes_in_the_third") == 3, "slow"

@pytest.mark.timed
def test_passes():
    pass

@pytest.mark.timed
def test_never_passes():
    assert False, "broken"

def test_without_the_mark():
    assert False

def test_each_has_fixtures_of_its_own():
    assert [tried.count(it) for it in dict.fromkeys(tried)] == [3, 1, 3, 1, 1]
"""


def test_one_of_three_attempts_must_pass(tmp_path, capfd):
    """And what was tried again is told."""
    (tmp_path / "test_it.py").write_text(TESTS)
    options = ["-c", "/dev/null", "--rootdir", str(tmp_path), "-q", "-p", "tests.timed"]
    for unneeded in ("asyncio", "cacheprovider", "langsmith_plugin"):
        options += ["-p", f"no:{unneeded}"]

    status = pytest.main([*options, str(tmp_path)])

    lines = capfd.readouterr().out.splitlines()
    failed, again = (
        [line.rpartition("::")[2].split()[0] for line in lines if line.startswith(word)]
        for word in ("FAILED ", "AGAIN ")
    )
    assert status is pytest.ExitCode.TESTS_FAILED
    assert "2 failed, 3 passed" in lines[-1]
    assert ["test_never_passes", "test_without_the_mark"] == failed
    assert ["test_passes_in_the_third:"] * 2 == again
