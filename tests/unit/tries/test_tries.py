"""envoy/tries.lua's pure part, run in LuaJIT as Envoy runs it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lupa import luajit21

_SOURCE = Path(__file__).parents[3] / "envoy" / "tries.lua"
HERE, ELSEWHERE = "192.0.2.1", "198.51.100.1"

module: Any = luajit21.LuaRuntime(unpack_returned_tuples=True).execute(
    _SOURCE.read_text()
)
BURST, PER_SECOND = module["BURST"], module["PER_SECOND"]
SAME_SECONDS, PART, DEBT = module["SAME_SECONDS"], module["PART"], module["DEBT"]
_STEPS = st.tuples(
    st.sampled_from(["put", "get", "drop"]), st.integers(0, 4), st.integers(0, 3)
)


class Worker:
    """What one worker knows; credentials are numbers here."""

    def __init__(self) -> None:
        self._tries = module["new"]()

    def _do(self, name: str, *arguments: object) -> object:
        result: object = self._tries[name](self._tries, *arguments)
        return result

    def asks(self, credential: int, now: int = 0, network: str = HERE) -> bool:
        """Whether authz is asked about it."""
        return bool(
            self._do("has_passed", credential) or self._do("may_ask", network, now)
        )

    def is_refused(self, credential: int, now: int = 0, network: str = HERE) -> None:
        self._do("note_refusal", network, credential, now)

    def passes(self, credential: int, now: int = 0, network: str = HERE) -> bool:
        """Send a good credential; whether authz was asked."""
        asked = self.asks(credential, now, network)
        if asked:
            self._do("note_pass", network, credential, now)
        return asked

    def tries(self, credential: int, now: int = 0, network: str = HERE) -> bool:
        """Send a bad credential; whether authz was asked."""
        asked = self.asks(credential, now, network)
        if asked:
            self.is_refused(credential, now, network)
        return asked

    def is_not_judged(self, now: int = 0) -> bool:
        """Send to where authz does not answer."""
        asked = self.asks(-1, now)
        if asked:
            self._do("note_nothing", HERE, now)
        return asked

    def ends(self, credential: int) -> None:
        self._do("note_end", credential)


@pytest.fixture
def worker():
    return Worker()


def test_a_network_has_so_many_tries_and_gets_back_so_many(worker):
    asked = [worker.tries(it) for it in range(BURST + 10)]
    later = [worker.tries(it, now=3) for it in range(1000, 1000 + BURST)]

    assert asked == [True] * BURST + [False] * 10
    assert sum(later) == 3 * PER_SECOND


def test_a_bucket_is_never_fuller_than_full(worker):
    worker.tries(0)

    assert sum(worker.tries(it, now=10_000) for it in range(1, BURST + 10)) == BURST


def test_a_clock_that_is_set_back_gives_no_tries(worker):
    assert all(worker.tries(it, now=1000) for it in range(BURST))
    assert not worker.tries(-1, now=0)
    assert not worker.tries(-1, now=0)
    assert worker.tries(-1, now=1)


def test_who_passed_before_goes_on_beside_who_tries(worker):
    assert worker.passes(-1)
    for it in range(2 * BURST):
        worker.tries(it)

    assert worker.asks(-1)
    assert not worker.asks(-2)


def test_other_networks_have_tries_of_their_own(worker):
    for it in range(2 * BURST):
        worker.tries(it)

    assert not worker.asks(-1)
    assert worker.asks(-1, network=ELSEWHERE)


def test_good_credentials_that_are_new_use_nothing_up(worker):
    """As after a start, when nobody is known."""
    assert all(worker.passes(it) for it in range(100 * BURST))


def test_what_nobody_judged_uses_nothing_up_and_is_not_known_for_it(worker):
    assert all(worker.is_not_judged() for _ in range(100 * BURST))
    for it in range(2 * BURST):
        worker.tries(it)

    assert not worker.asks(-1)


def test_the_same_credential_again_is_a_part_of_a_try(worker):
    assert sum(worker.tries(-1) for _ in range(10_000)) == pytest.approx(
        BURST / PART, abs=2 / PART
    )


def test_the_same_credential_counts_again_after_a_while(worker):
    worker.tries(-1)
    for it in range(BURST - 1):
        worker.tries(it, now=SAME_SECONDS)
    worker.tries(-1, now=SAME_SECONDS)

    assert not worker.asks(-2, now=SAME_SECONDS)


def test_who_does_not_wait_for_the_answer_pays_for_the_question(worker):
    """A client that resets its request; authz works for it all the same."""
    asked = sum(worker.asks(it) for it in range(10_000))

    assert asked == pytest.approx(BURST / PART, abs=2 / PART)


def test_what_is_asked_at_once_is_owed(worker):
    """However many connections: in the long run it is so many a second."""
    at_once = 200
    assert all(worker.asks(it) for it in range(at_once))
    for it in range(at_once):
        worker.is_refused(it)
    until_free = (at_once - BURST) // PER_SECOND

    assert not worker.asks(-1, now=until_free)
    assert worker.asks(-1, now=until_free + 1)


def test_a_debt_has_an_end(worker):
    for it in range(5_000):
        worker.is_refused(it)

    assert not worker.asks(-1, now=DEBT // PER_SECOND)
    assert worker.asks(-1, now=DEBT // PER_SECOND + 1)


def test_a_credential_that_passed_and_was_revoked_is_unknown_again(worker):
    worker.passes(-1)
    worker.ends(-1)
    for it in range(2 * BURST):
        worker.tries(it)

    assert not worker.asks(-1)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7:443", "192.0.2.7"),
        ("[2001:db8:1:2:3:4:5:6]:443", "2001:db8:1:2"),
        ("[2001:db8:1:2::6]:443", "2001:db8:1:2"),
        ("[2001:db8::6]:443", "2001:db8:0:0"),
        ("[2001:db8::2:3:4:5:6]:443", "2001:db8:0:2"),
        ("[::1]:443", "0:0:0:0"),
        ("[fe80::]:443", "fe80:0:0:0"),
        ("/run/edge.sock", "/run/edge.sock"),
    ],
)
def test_a_network_is_an_address_or_its_64_bits(address, network):
    assert network == module["network"](address)


@pytest.mark.parametrize("form", ["Bearer th_{:012}_" + "s" * 43, "Bearer th_{:055}"])
def test_credentials_that_differ_anywhere_are_told_apart(form):
    digests = {module["digest"](form.format(it), 7) for it in range(10_000)}

    assert len(digests) >= 9_998  # 32 bits: two of so many meet once in 86 runs


def test_a_digest_is_a_workers_own():
    assert module["digest"]("Bearer x", 1) != module["digest"]("Bearer x", 2)
    assert module["digest"]("", 1) == module["digest"]("", 1)


def test_memory_forgets_what_is_not_used():
    memory = module["memory"](4)
    for it in range(100):
        memory["put"](memory, it, it)
        assert memory["get"](memory, 0) == 0

    known = [it for it in range(100) if memory["get"](memory, it) is not None]
    assert 0 in known
    assert 4 <= len(known) <= 8
    assert known[-3:] == [97, 98, 99]


def test_what_is_dropped_is_gone_from_both_generations():
    memory = module["memory"](1)
    for name in ("revoked", "other"):
        memory["put"](memory, name, 1)
    memory["drop"](memory, "revoked")

    assert memory["get"](memory, "revoked") is None
    assert memory["get"](memory, "other") == 1


@given(st.lists(_STEPS, max_size=60))
def test_memory_never_holds_more_than_twice_its_size(sequence):
    memory = module["memory"](2)
    put: dict[int, int] = {}
    for step, name, value in sequence:
        if step == "put":
            memory["put"](memory, name, value)
            put[name] = value
        elif step == "drop":
            memory["drop"](memory, name)
            put.pop(name, None)
        else:
            assert memory["get"](memory, name) in (None, put.get(name))

        young, old = dict(memory["young"]), dict(memory["old"])
        assert len(young) == memory["count"] <= 2
        assert len(old) <= 2
        assert {**old, **young}.items() <= put.items()
