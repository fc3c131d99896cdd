"""Terms and documents of keys: all faults at once, and no secret in any of them."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.identity import DEFAULT_SCOPES
from tollhouse.core.key_terms import (
    KeyDocument,
    KeyTerms,
    TermsError,
    check_digest,
    check_labels,
    check_plan,
    check_reason,
    check_terms,
    parse_moment,
    read_document,
    version_of,
)

DIGEST = f"v3:{'0a' * 32}"
GOOD = {"key_id": "abcdefghijk1", "digest": DIGEST, "tenant": "acme"}
SECRET = "aB3" * 14 + "x"
KEY = f"th_abcdefghijk1_{SECRET}"


def faults_of(fields: dict) -> dict[str, str]:
    with pytest.raises(TermsError) as refused:
        read_document(fields)
    return dict(refused.value.faults)


def test_least():
    """Without terms a key may do what the paths there are need, for good."""
    assert check_terms() == KeyTerms(scopes=DEFAULT_SCOPES)
    assert read_document(GOOD) == KeyDocument(
        key_id="abcdefghijk1", digest=DIGEST, tenant="acme", terms=KeyTerms()
    )


def test_whole():
    """Every field, in its stored form."""
    document = read_document(
        {
            **GOOD,
            "scopes": ["chat:write=tiny-*", "models:read"],
            "plan": "gold",
            "expires_at": "2031-01-31T12:00:00+01:00",
            "networks": ["203.0.113.7", "2001:db8::/32"],
            "labels": ["ci", "ci", "eu"],
        }
    )

    assert document.terms == KeyTerms(
        scopes="chat:write=tiny-* models:read",
        plan="gold",
        expires_at=1_927_623_600.0,
        networks="203.0.113.7/32 2001:db8::/32",
        labels=("ci", "eu"),
    )


@pytest.mark.parametrize(
    "value",
    [
        "2031-01-31",
        "2031-01-31T00:00Z",
        "2031-01-31T01:00+01:00",
        date(2031, 1, 31),
        datetime(2031, 1, 31),  # noqa: DTZ001 - YAML's dates have no zone
        datetime(2031, 1, 31, tzinfo=UTC),
        datetime(2031, 1, 31, 1, tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_dates(value: object):
    """As text and as YAML reads them; UTC without a zone."""
    terms = read_document({**GOOD, "expires_at": value}).terms

    assert terms.expires_at == 1_927_584_000.0


@pytest.mark.parametrize("value", ["soon", "", 5, 5.0, ["2031-01-31"], "2031-13-01"])
def test_no_dates(value: object):
    """What is no date is said, not guessed: also a number."""
    assert faults_of({**GOOD, "expires_at": value}) == {
        "expires_at": "write a date, as 2030-01-31 or with a time"
    }


def test_all_faults():
    """Each field has its own, at once."""
    faults = faults_of(
        {
            "key_id": 7,
            "tenant": "Acme",
            "scopes": "chat:wrte",
            "plan": "a b",
            "expires_at": "9999-12-31T23:59",
            "networks": ["10.0.0.1/8"],
            "labels": {"a": 1},
            "note": "x",
            7: "y",
        }
    )

    assert faults["key_id"] == "must be text"
    assert faults["digest"] == "is not given"
    assert faults["expires_at"] == "the expiry: the latest is 9999-12-31"
    assert faults["labels"] == "must be a list of texts"
    assert faults.keys() == {
        *("key_id", "digest", "tenant", "scopes", "plan", "expires_at"),
        *("networks", "labels", "note", "7"),
    }


def test_expiry_of_a_key_to_be_made():
    """It must lie ahead; that of a document need not."""
    assert check_terms(expires_at=5.0, now=4.0).expires_at == 5.0
    with pytest.raises(TermsError, match="not in the future"):
        check_terms(expires_at=5.0, now=5.0)
    assert check_terms(expires_at=5.0).expires_at == 5.0
    with pytest.raises(TermsError, match="the latest is"):
        check_terms(expires_at=-1.0)


@pytest.mark.parametrize(
    "labels",
    [[""], ["a" * 65], ["a\n"], [str(number) for number in range(17)], [KEY], [SECRET]],
)
def test_no_labels(labels: list[str]):
    """Few, short, printable, and no key by mistake."""
    with pytest.raises(ValueError, match="label") as refused:
        check_labels(labels)

    assert SECRET not in str(refused.value)


def test_few():
    """What authz remembers of a key has a bound."""
    nets = [f"10.0.{number}.0/24" for number in range(65)]
    assert check_terms(networks=nets[:64]).networks.count(" ") == 63
    with pytest.raises(TermsError, match="65 of them"):
        check_terms(networks=nets)
    with pytest.raises(TermsError, match="65 of them"):
        check_terms(scopes=[f"chat:write=m{number}" for number in range(65)])


def test_other_checks():
    """A plan, a reason, a digest."""
    assert check_plan("gold.v2_a-b") == "gold.v2_a-b"
    assert check_reason("") == ""
    assert check_reason("späte Zahlung") == "späte Zahlung"
    assert check_digest(DIGEST) == DIGEST
    assert version_of(DIGEST) == "v3"
    assert parse_moment("1970-01-02") == 86_400.0
    for check, text in (
        (check_plan, ""),
        (check_plan, "a\n"),
        (check_reason, "a\x1b"),
        (check_reason, "a" * 257),
        (check_reason, f"th_{'a' * 12}_{'B3' * 21}x leaked"),
        (check_digest, f"v0:{'0' * 64}"),
        (check_digest, f"v1:{'A' * 64}"),
        (check_digest, f"v1:{'0' * 64}\n"),
    ):
        with pytest.raises(ValueError, match=r"^(plan|reason|a digest)"):
            check(text)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([KEY, SECRET, f"x {KEY} y", DIGEST, "acme", "chat:write"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.just(SECRET), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [
        *("key_id", "digest", "tenant", "scopes", "plan", "expires_at", "networks"),
        *("labels", "note", KEY),
    ]
)


@given(st.dictionaries(NAMES | st.text(max_size=4), VALUES, max_size=8))
def test_any_document(fields: dict):
    """Whatever a file says: a document or faults, and a secret in neither."""
    said: object
    try:
        said = read_document(fields)
    except TermsError as error:
        said = (str(error), error.faults)

    assert SECRET not in str(said)
