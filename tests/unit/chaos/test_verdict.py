"""The crash proof's rules: each lets a sound run pass, and notices what breaks it."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.ledgers import Generated, Ledgers, Line, Window, typed
from tests.chaos.load import View, Wish
from tests.chaos.redis_log import Record, RedisLog
from tests.chaos.verdict import judge
from tests.e2e.main.load import Seen

WHOLE, LEFT, DEAD = (f"0000000186a0-7000-8000-00000000000{it}" for it in (1, 2, 3))
WHOLE, LEFT, DEAD = (f"{it[:8]}-{it[8:]}" for it in (WHOLE, LEFT, DEAD))
BEGAN_AT = 100.0
"""What the ids say: 0x186a0 ms."""
WISH = Wish("acme", "small", True, 10, 4, 20, 1.0, None)
HOUR = 7


def record(id_, kind, output, **changes):
    plain = Record(id_, kind, "acme", "small", 10, 4, output, 1, HOUR * 3_600_000, "")
    return replace(plain, **changes)


class Run:
    """A sound run of three exchanges: read whole, left early, dead with its Envoy."""

    def __init__(self):
        self.engine = {
            WHOLE: [Generated("acme", "small", (10, 4, 20), True, BEGAN_AT + 1)],
            LEFT: [Generated("acme", "small", (10, 4, 9), False, BEGAN_AT + 1)],
            DEAD: [Generated("acme", "small", (10, 4, 15), False, BEGAN_AT + 7)],
        }
        self.log = RedisLog(
            records=[record(WHOLE, 1, 20), record(LEFT, 2, 8), record(DEAD, 3, 12)],
            reserved={WHOLE, LEFT, DEAD},
            beats={DEAD: (10, 4, 12)},
        )
        self.views = [
            View(WISH, BEGAN_AT, Seen(True, "complete", 200, WHOLE, letters=20)),
            View(WISH, BEGAN_AT, Seen(True, "aborted", 200, LEFT, letters=7)),
            View(WISH, BEGAN_AT, Seen(True, "cut", 200, DEAD, letters=14)),
        ]
        self.killed_at = [BEGAN_AT + 7]
        self.window_changes: dict[str, Any] = {}
        self.provider_changes: Counter[str] = Counter()
        self.exchanges = Counter(final=1, partial=1, abandoned=1)

    def findings(self):
        total: Counter[str] = Counter()
        for it in self.log.records:
            total.update(dict(typed((it.input, it.cached, it.output))))
        lines = {it: Line("acme", "small", it, HOUR) for it in total}
        windows = {
            lines[it]: replace(
                Window(value, value, value, 0, is_open=False), **self.window_changes
            )
            for it, value in total.items()
        }
        provider = {
            lines[it]: value + self.provider_changes[it] for it, value in total.items()
        }
        ledgers = Ledgers(
            engine=self.engine,
            log=self.log,
            windows=windows,
            exchanges={("acme", "small", HOUR): self.exchanges},
            provider=provider,
        )
        return judge(ledgers, self.views, self.killed_at).findings


@pytest.fixture
def run():
    return Run()


def test_a_sound_run_has_no_findings(run):
    assert [] == run.findings()


def lose_a_record(run):
    run.log.records.pop(0)


def double_a_record(run):
    run.log.records.append(run.log.records[0])


def invent_a_record(run):
    run.log.records.append(record("01", 1, 5))


def run_it_twice(run):
    run.engine[WHOLE] *= 2


def give_back_what_ran(run):
    run.log.released.add(LEFT)


def bill_less_than_was_read_whole(run):
    run.log.records[0] = record(WHOLE, 1, 19)


def bill_less_than_a_client_read(run):
    run.log.records[1] = record(LEFT, 2, 6)


def bill_more_than_was_generated(run):
    run.log.records[1] = record(LEFT, 2, 10)


def bill_less_than_the_last_beat(run):
    run.log.records[2] = record(DEAD, 3, 11)


def lose_an_end_without_a_crash(run):
    run.log.records[0] = record(WHOLE, 3, 20, input=8)


def leave_a_window_open(run):
    run.window_changes["is_open"] = True


def leave_a_window_unsealed(run):
    run.window_changes["sealed"] = 0


def park_a_part(run):
    run.window_changes["parked"] = 3


def provider_has_more(run):
    run.provider_changes["output"] += 1


def provider_has_less(run):
    run.provider_changes["cached_input"] -= 1


def count_an_exchange_twice(run):
    run.exchanges["final"] += 1


def a_client_is_blamed(run):
    run.views.append(View(WISH, BEGAN_AT, Seen(True, "refused", 400)))


def answered_by_nobody(run):
    id_ = WHOLE.replace("8000", "9000")
    run.views.append(View(WISH, BEGAN_AT, Seen(True, "complete", 200, id_)))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lose_a_record, "has 0 records"),
        (double_a_record, "has 2 records"),
        (invent_a_record, "was not admitted"),
        (run_it_twice, "ran 2 times"),
        (give_back_what_ran, "ran although it was given back"),
        (bill_less_than_was_read_whole, "read to its end was"),
        (bill_less_than_a_client_read, "must be (0, 0, 7)"),
        (bill_more_than_was_generated, "to (10, 4, 9)"),
        (bill_less_than_the_last_beat, "must be (10, 4, 12)"),
        (lose_an_end_without_a_crash, "read to its end was"),
        (leave_a_window_open, "open True"),
        (leave_a_window_unsealed, "sealed 0"),
        (park_a_part, "parked 3"),
        (provider_has_more, "provider 41"),
        (provider_has_less, "provider 11"),
        (count_an_exchange_twice, "counted"),
        (a_client_is_blamed, "status 400"),
        (answered_by_nobody, "was answered by nobody"),
    ],
)
def test_what_breaks_a_rule_is_found(run, damage, told):
    damage(run)

    assert any(told in finding for finding in run.findings())


def test_an_end_that_died_with_envoy_is_billed_to_its_last_beat(run):
    """Rule 2's exception: within a second of the kill, and only then."""
    run.log.records[0] = record(WHOLE, 3, 18)
    run.log.beats[WHOLE] = (10, 4, 18)
    run.exchanges = Counter(partial=1, abandoned=2)

    assert run.findings()
    run.killed_at.append(BEGAN_AT + 1.5)
    assert [] == run.findings()


def test_what_two_crashes_took_is_a_finding(run):
    """Admitted without Redis, and Envoy died before its first line: it was noted."""
    run.log.records.pop(2)
    run.log.reserved.discard(DEAD)
    run.exchanges = Counter(final=1, partial=1)
    run.killed_at = [BEGAN_AT + 4]

    assert ["has 0 records"] == [it.split(": ")[1] for it in run.findings()][:1]


def test_an_adjusted_record_is_billed_as_settled(run):
    """Abandoned first, its end found later: the sum counts."""
    run.log.records[0] = record(WHOLE, 3, 5)
    run.log.records.append(
        record(f"{WHOLE}#adj", 4, 15, input=0, cached=0, corrects=WHOLE)
    )
    run.exchanges = Counter(partial=1, abandoned=2)

    assert [] == run.findings()


def test_an_estimated_input_says_so(run):
    """Nobody told it: neither more nor less than the engine's is wrong."""
    run.log.records[1] = record(LEFT, 2, 0, input=77, cached=0, input_source=3)
    run.views[1].seen = None

    assert [] == run.findings()
