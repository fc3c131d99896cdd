"""Which time zones budgets may follow."""

import pytest

from tollhouse.core.periods import check_zone, is_zone


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "Asia/Kathmandu"])
def test_known(name):
    """IANA's names, as they are written there."""
    assert check_zone(name) == name
    assert is_zone(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Europe/Berln", "did you mean Europe/Berlin?"),
        ("europe/berlin", "did you mean Europe/Berlin?"),
        ("+02:00", "name one as Europe/Berlin"),
        ("localtime", "name one as"),  # another zone on every machine
        ("", "name one as"),
        ("../../etc/passwd", "name one as"),
        ("/etc/localtime", "name one as"),
        ("\0", "name one as"),
    ],
)
def test_unknown(name, hint):
    """Refused with a name that is one."""
    with pytest.raises(ValueError, match="is not known") as raised:
        check_zone(name)

    assert hint in str(raised.value)


@pytest.mark.parametrize(
    "name", ["Europe", "Mars/Olympus", "", "../x", "\0", "a" * 300]
)
def test_no_zone(name):
    """Whatever Redis holds: an answer, not an exception."""
    assert not is_zone(name)
