"""Which tests are tried again, and what is told of it."""

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


END_TO_END = """
import pytest
tried = []

def fails_at_first(name):
    tried.append(name)
    assert tried.count(name) == 2, "rare"

def test_passes_in_the_second():
    fails_at_first("one")

def test_never_passes():
    assert False, "broken"

@pytest.mark.parametrize("name", "abc")
def test_passes_in_the_second_too(name):
    fails_at_first(name)

def test_is_one_too_many():
    fails_at_first("last")
"""


def run(folder, capfd, name, tests):
    """Run tests as a file of this name; status, last line, what failed, what again."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(tests)
    options = ["-c", "/dev/null", "--rootdir", str(folder), "-q"]
    for unneeded in ("asyncio", "cacheprovider", "langsmith_plugin"):
        options += ["-p", f"no:{unneeded}"]

    status = pytest.main([*options, "-p", "tests.attempts", str(folder)])

    out = capfd.readouterr().out
    lines = out.splitlines()
    failed, again = (
        [line.rpartition("::")[2].split()[0] for line in lines if line.startswith(word)]
        for word in ("FAILED ", "AGAIN ")
    )
    assert status is pytest.ExitCode.TESTS_FAILED
    return out, lines[-1], failed, again


def test_one_of_three_attempts_must_pass(tmp_path, capfd):
    """And what was tried again is told."""
    out, last, failed, again = run(tmp_path, capfd, "test_it.py", TESTS)

    assert "2 failed, 3 passed" in last
    assert ["test_never_passes", "test_without_the_mark"] == failed
    assert ["test_passes_in_the_third:"] * 2 == again
    assert 2 == out.count("- an earlier attempt -")  # of the one that never passes


def test_end_to_end_one_of_two_attempts_must_pass(tmp_path, capfd):
    """What the first said is told whole; when many fail, once is enough."""
    name = "tests/e2e/test_both_ends.py"  # two modules of one name are none
    out, last, failed, again = run(tmp_path, capfd, name, END_TO_END)

    assert "2 failed, 4 passed" in last
    assert ["test_never_passes", "test_is_one_too_many"] == failed
    assert [
        "test_passes_in_the_second:",
        *(f"test_passes_in_the_second_too[{it}]:" for it in "abc"),
    ] == again
    told = out.count("    assert tried.count(name) == 2")
    assert len([*again, "test_is_one_too_many"]) == told


@pytest.mark.parametrize("folder", ["attacks", "secrets", "chaos"])
def test_what_must_never_happen_is_not_tried_again(tmp_path, capfd, folder):
    """Once is too often."""
    name = f"tests/e2e/{folder}/test_never_{folder}.py"
    _, last, failed, again = run(tmp_path, capfd, name, END_TO_END)

    assert "6 failed" in last
    assert len(failed) == 6
    assert not again
