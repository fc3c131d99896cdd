"""Each number in an alert is where it should be: just below silent, just above not.

A table instead of cases by hand: promtool gets two rows for each number, in one run.
"""

import itertools
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.observability import RULE_FILES, alerts, tool

Series = Mapping[str, str]
DAY = 24 * 60
_EDGE = 'envoy_http_conn_manager_prefix="edge"'
_5XX = 'envoy_response_code_class="5"'
_2XX = 'envoy_response_code_class="2"'
_RESERVE = 'tollhouse_script_duration_seconds_bucket{script="reserve",le='
_ENVOYS = "envoy_server_days_until_first_cert_expiring"
_OURS = 'tollhouse_certificate_ends_seconds{certificate="c"}'
_TTFT = "gen_ai_server_time_to_first_token_seconds"


@dataclass(frozen=True, slots=True)
class Row:
    """Series, and whether an alert fires a while later."""

    alert: str
    series: Series
    minute: int
    fires: bool

    @property
    def names(self) -> set[str]:
        """What another row of the same test may not have: the alert, metrics."""
        return {self.alert, *(name.partition("{")[0] for name in self.series)}


# alert, its series with `V` in them, the last value that is well, the first that is
# not. `0+Vx30` is V more each minute: 3 are the 0.05 a second of many alerts.
NUMBERS: Sequence[tuple[str, Series, float, float]] = [
    (
        "AdmissionUnavailable",
        {
            f"envoy_http_downstream_rq_xx{{{_EDGE},{_5XX}}}": "0+Vx30",
            f'envoy_cluster_upstream_rq_xx{{envoy_cluster_name="m",{_5XX}}}': "0+7x30",
        },
        *(9.9, 10.1),
    ),
    ("AuthzErrors", {"envoy_http_ext_authz_error": "0+Vx30"}, 2.9, 3.1),
    ("ExtprocFailures", {"envoy_http_ext_proc_streams_failed": "0+Vx30"}, 2.9, 3.1),
    (
        "ExtprocFailures",
        {
            "envoy_http_ext_proc_streams_failed": "0+1.5x30",
            "envoy_http_ext_proc_message_timeouts": "0+Vx30",
        },
        *(1.4, 1.6),
    ),
    (
        "ChecksUnavailable",
        {'tollhouse_checks_total{verdict="unavailable"}': "0+Vx30"},
        *(2.9, 3.1),
    ),
    (
        "ScriptsSlow",
        {
            f'{_RESERVE}"0.025"}}': "0+Vx30",
            f'{_RESERVE}"0.05"}}': "0+1000x30",
            f'{_RESERVE}"+Inf"}}': "0+1000x30",
        },
        *(991, 989),
    ),
    (
        "HeapPressure",
        {"envoy_overload_envoy_resource_monitors_fixed_heap_pressure": "Vx30"},
        *(70, 71),
    ),
    (
        "Shedding",
        {
            "envoy_overload_envoy_resource_monitors_global_downstream_max_connections"
            "_pressure": "Vx30"
        },
        *(95, 96),
    ),
    (
        "Shedding",
        {
            "envoy_overload_envoy_overload_actions_stop_accepting_requests"
            "_active": "Vx30"
        },
        *(0, 1),
    ),
    (
        "CertificateEnding",
        {_ENVOYS: "Vx90", _OURS: "9e9x90"},
        *(21, 20.9),
    ),
    (
        "CertificateEnding",
        {_ENVOYS: "99x90", _OURS: "Vx90"},
        *(21.1 * 86400, 21 * 86400),
    ),
    (
        "CertificateEndsNow",
        {_ENVOYS: "Vx90", _OURS: "9e9x90"},
        *(3, 2.9),
    ),
    (
        "CertificateEndsNow",
        {_ENVOYS: "99x90", _OURS: "Vx90"},
        *(3.1 * 86400, 3 * 86400),
    ),
    (
        "RedisMemory",
        {
            'tollhouse_redis_memory_used_bytes{server="r"}': "Vx30",
            'tollhouse_redis_memory_limit_bytes{server="r"}': "1000x30",
        },
        *(800, 801),
    ),
    ("RedisTrouble", {"tollhouse_redis_trouble": "Vx30"}, 0, 1),
    ("RedisReplicaLost", {"tollhouse_redis_replicas": "2x5 Vx30"}, 2, 1),
    (
        "SpansLost",
        {'tollhouse_spans_lost_total{job="j"}': "0+Vx90"},
        *(0, 0.01),
    ),
    (
        "BackendUnhealthy",
        {
            'envoy_cluster_membership_healthy{envoy_cluster_name="m"}': "Vx30",
            'envoy_cluster_membership_total{envoy_cluster_name="m"}': "100x30",
        },
        *(51, 50),
    ),
    *(
        row
        for alert, metric, bad, good in (
            (
                "BackendErrors",
                'envoy_cluster_upstream_rq_xx{envoy_cluster_name="m",',
                *(_5XX, _2XX),
            ),
            (
                "ExchangesFailing",
                'tollhouse_exchanges_total{model="m",',
                *('outcome="failed"', 'outcome="completed"'),
            ),
        )
        for row in (
            # Of answers enough...
            (
                alert,
                {f"{metric}{bad}}}": "0+Vx30", f"{metric}{good}}}": "0+95x30"},
                4.9,
                5.1,
            ),
            # ... and all of few.
            (alert, {f"{metric}{bad}}}": "0+Vx30"}, 2.9, 3.1),
        )
    ),
    (
        "EngineQueueGrowing",
        {
            "nv_inference_pending_request_count": "Vx30",
            'nv_trt_llm_request_metrics{request_type="waiting"}': "20x30",
        },
        *(30, 31),
    ),
    (
        "EngineQueueGrowing",
        {"nv_inference_pending_request_count": "Vx30"},
        *(50, 51),
    ),
    (
        "KvCacheFull",
        {'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}': "Vx30"},
        *(0.95, 0.951),
    ),
    ("OutboxOld", {"tollhouse_outbox_age_seconds": "Vx30"}, 120, 121),
    ("LedgerBehind", {"tollhouse_ledger_lag_bytes": "Vx30"}, 16e6, 16e6 + 1),
    ("RecordsRefused", {"tollhouse_outbox_refused": "Vx30"}, 0, 1),
    ("ChunksParked", {"tollhouse_chunks_parked": "Vx30"}, 0, 1),
    ("ProviderBehind", {"tollhouse_chunks_open_age_seconds": "Vx30"}, 10800, 10801),
    ("TenantsUnlinked", {"tollhouse_tenants_unlinked": "Vx30"}, 0, 1),
    ("RowsOverdue", {"tollhouse_rows_overdue": "Vx30"}, 0, 1),
    ("ReconcileDifference", {"tollhouse_reconcile_difference": "Vx30"}, 0, -1),
    (
        "ReconcileNotRun",
        # Two hours before minute 80, in which it is asked, and the ten of its `for`.
        {"tollhouse_reconcile_finished_seconds": "Vx90"},
        *(70 * 60 - 7200, 70 * 60 - 7200 - 60),
    ),
]

EVERY = {"FastBurn": 10, "SlowBurn": 60}
"""Minutes between evaluations of windows of hours and days; asked then."""
# Of an alert on a budget: the ratio that each pair of windows allows, in minutes.
BURNS = [
    (f"{slo}{alert}", unit * limit, long, short)
    for slo, unit in (("ErrorBudget", 0.001), ("FirstToken", 0.05))
    for alert, limit, long, short in (
        ("FastBurn", 14.4, 60, 5),
        ("FastBurn", 6, 360, 30),
        ("SlowBurn", 3, DAY, 120),
        ("SlowBurn", 1, 3 * DAY, 360),
    )
]


def cumulative(*pieces: tuple[int, float]) -> str:
    """What a counter says that grows so much a minute for so many minutes."""
    texts, total = [], 0.0
    for minutes, each in pieces:
        texts.append(f"{total:.6f}+{each:.6f}x{minutes - 1}")
        total += each * minutes
    return " ".join(texts)


def burning(
    alert: str, before: tuple[float, float], last: tuple[float, float], busy: int
) -> Series:
    """`before` and `last`: minutes and the ratio that fails in them.

    Behind them lie `busy` minutes of a hundred times as many answers without a failure,
    so that no longer window says anything.
    """
    each = 1000
    pieces = [
        (busy, 100 * each, 0.0),
        *((int(n), each, of) for n, of in (before, last)),
    ]
    total = cumulative(*((n, many) for n, many, _ in pieces))
    bad = cumulative(*((n, many * of) for n, many, of in pieces))
    good = cumulative(*((n, many * (1 - of)) for n, many, of in pieces))
    if alert.startswith("FirstToken"):
        return {f"{_TTFT}_count": total, f'{_TTFT}_bucket{{le="1"}}': good}
    of_edge = f"envoy_http_downstream_rq_xx{{{_EDGE},"
    return {f"{of_edge}{_5XX}}}": bad, f"{of_edge}{_2XX}}}": good}


def burns() -> Iterator[Row]:
    """Yield three for each pair of windows, two for what is too little."""
    for alert, limit, long, short in BURNS:
        every = EVERY[alert[-8:]]
        # Long enough for the windows, and for a rate of five minutes to forget.
        before, last = long + 4 * every - short, short + 2 * every
        busy = max(20, long // 12)
        busy += -(busy + before + last) % every
        # Of what is recorded in the long window so many are of the last piece: below
        # `least` before it the window says just not enough.
        many, high = long // every + 1, (last - 5) // every + 1
        least = (0.97 * many - 1.2 * high) / (many - high)
        for ratios, fires in (
            ((1.04, 1.04), True),
            ((least, 1.2), False),  # the long window does not say so
            ((1.2, 0.96), False),  # the short one
        ):
            spans = ((before, ratios[0] * limit), (last + 1, ratios[1] * limit))
            series = burning(alert, *spans, busy)
            yield Row(alert, series, busy + before + last, fires)
    for slo, ratio in (("ErrorBudget", 0.5), ("FirstToken", 0.9)):
        for alert, hours in (("FastBurn", 1), ("SlowBurn", 6)):
            # Nearly all fails, of so few that ten in the long window decide.
            for bad, fires in ((9.8, False), (10.2, True)):
                each = bad / (hours * 60)
                series = {
                    name: cumulative((hours * 60 + 130, each * of))
                    for name, of in _few(slo, ratio).items()
                }
                yield Row(f"{slo}{alert}", series, hours * 60 + 120, fires)


def _few(slo: str, ratio: float) -> Mapping[str, float]:
    if slo == "FirstToken":
        good = (1 - ratio) / ratio
        return {f"{_TTFT}_count": 1 / ratio, f'{_TTFT}_bucket{{le="1"}}': good}
    return {f"envoy_http_downstream_rq_xx{{{_EDGE},{_5XX}}}": 1.0}


def rows() -> Iterator[Row]:
    """Yield two for each number."""
    for alert, series, *values in NUMBERS:
        minutes = max(_minutes(of) for of in series.values())
        for value, fires in zip(values, (False, True), strict=True):
            filled = {it: of.replace("V", f"{value:.6f}") for it, of in series.items()}
            # What is compared with the time is asked for then.
            at = 80 if alert == "ReconcileNotRun" else minutes
            yield Row(alert, filled, at, fires)


def _minutes(series: str) -> int:
    return sum(int(it) + 1 for it in re.findall(r"x(\d+)", series)) - 1


def packed(every: Iterable[Row]) -> Sequence[Sequence[Row]]:
    """Put rows that have nothing to do with each other into one test: each is dear."""
    tests: list[list[Row]] = []
    for row in every:
        for test in tests:
            if all(row.names.isdisjoint(it.names) for it in test):
                test.append(row)
                break
        else:
            tests.append([row])
    return tests


def case(test: Sequence[Row]) -> dict[str, Any]:
    """One test of promtool's."""
    return {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": of}
            for row in test
            for name, of in row.series.items()
        ],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="Tollhouse{row.alert}",'
                'alertstate="firing"})',
                "eval_time": f"{row.minute}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if row.fires else [],
            }
            for row in test
        ],
    }


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """What promtool says of both tables: its output, empty when all is well."""
    folder = tmp_path_factory.mktemp("thresholds")
    slo = [it for it in RULE_FILES if it.stem == "slo"]
    tables = [(1, list(rows()), [it for it in RULE_FILES if it not in slo])]
    for alert, every in EVERY.items():
        tables += [(every, [it for it in burns() if it.alert.endswith(alert)], slo)]
    files = []
    for every, table, rules in tables:
        files.append(folder / f"{every}.yaml")
        content = {
            "rule_files": [str(it) for it in rules],
            "evaluation_interval": f"{every}m",
            "tests": [*map(case, packed(table))],
        }
        files[-1].write_text(yaml.safe_dump(content))
    done = subprocess.run(
        [tool("promtool"), "test", "rules", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_numbers_are_where_they_should_be(judged):
    assert "" == judged


def test_every_number_is_in_the_table():
    """Of an alert that compares with one; with 0 a counter is, in cases of its own."""
    rows = {f"Tollhouse{alert}" for alert, *_ in itertools.chain(NUMBERS, BURNS)}
    compares = re.compile(r"(?:[<>]=?|==) (?!0\b)[\d.]")
    numbered = {it["alert"] for it in alerts() if compares.search(it["expr"])}

    assert numbered <= rows
