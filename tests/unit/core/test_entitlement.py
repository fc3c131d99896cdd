"""What a caller may use: the plan, laid over with overrides, flattened."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.catalog import (
    Catalog,
    Model,
    Operation,
    Plan,
    Policy,
    Provider,
    RedisDown,
    Weights,
)
from tollhouse.core.entitlement import (
    AS_PLANNED,
    UTC,
    Entitlement,
    Override,
    Overrides,
    combined,
    decode_overrides,
    entitlement,
)
from tollhouse.core.identity import Principal
from tollhouse.core.limits import Allowance, Limit, Measure, Scope
from tollhouse.core.problems import ProtocolError

BERLIN = "Europe/Berlin"


def model(name="m", **changes) -> Model:
    settings = {
        "name": name,
        "cluster": "c",
        "provider": Provider.TRITON,
        "operations": frozenset({Operation.CHAT}),
        "context": 100,
        "default_output_tokens": 10,
        "max_output_tokens": 50,
        "weights": Weights(),
        "bytes_per_token": 4.0,
        "inject_default": True,
        "created": 0,
    }
    return Model(**(settings | changes))


NOTHING = Overrides()
UNLIMITED = Allowance()


def entitled(
    plan: Plan, overrides: Overrides = NOTHING, it=None, limits=UNLIMITED
) -> Entitlement:
    it = it or model()
    catalog = Catalog({it.name: it}, {plan.name: plan}, limits)
    principal = Principal("acme", "k" * 12, plan.name, (), overrides.encode())
    found = entitlement(catalog, principal, it)
    assert found is not None
    return found


def test_all_scopes_in_one_tuple():
    """The tenant's budgets follow its time zone, those of all tenants UTC."""
    plan = Plan(
        "gold",
        key=Allowance(requests_per_minute=1, burst_seconds=5),
        tenant=Allowance(units_per_day=2, money_per_month=3),
        tenant_model=Allowance(concurrent=4, shadow=True),
        policy=Policy.STRICT,
        redis_down=RedisDown.DENY,
        priority=7,
    )
    found = entitled(
        plan,
        Overrides(zone=BERLIN),
        model(limits=Allowance(units_per_month=5), capacity=6),
        Allowance(money_per_day=8),
    )

    assert found == Entitlement(
        limits=(
            Limit(Scope.KEY, Measure.REQUESTS, 1, burst=5, zone=BERLIN),
            Limit(Scope.TENANT, Measure.UNITS_PER_DAY, 2, zone=BERLIN),
            Limit(Scope.TENANT, Measure.MONEY_PER_MONTH, 3, zone=BERLIN),
            Limit(Scope.TENANT_MODEL, Measure.CONCURRENT, 4, zone=BERLIN, shadow=True),
            Limit(Scope.MODEL, Measure.UNITS_PER_MONTH, 5),
            Limit(Scope.MODEL, Measure.CAPACITY, 6, weight=7),
            Limit(Scope.GLOBAL, Measure.MONEY_PER_DAY, 8),
        ),
        policy=Policy.STRICT,
        redis_down=RedisDown.DENY,
        priority=7,
    )


def test_a_plan_without_limits_has_none():
    """What is not named does not exist."""
    assert entitled(Plan("free")).limits == ()


def test_overrides_replace_field_by_field():
    """Each in its own place; what they don't name stays the plan's."""
    plan = Plan(
        "gold",
        key=Allowance(requests_per_minute=10, units_per_minute=20),
        tenant=Allowance(requests_per_minute=30),
        tenant_model=Allowance(concurrent=40),
    )
    overrides = Overrides(
        key=Override(requests_per_minute=11, burst_seconds=3),
        tenant=Override(requests_per_minute="unlimited", units_per_day=31),
        models={
            "m": Override(concurrent=41, shadow=True),
            "another": Override(concurrent=99),
        },
    )

    assert entitled(plan, overrides).limits == (
        Limit(Scope.KEY, Measure.REQUESTS, 11, burst=3),
        Limit(Scope.KEY, Measure.UNITS, 20, burst=3),
        Limit(Scope.TENANT, Measure.UNITS_PER_DAY, 31),
        Limit(Scope.TENANT_MODEL, Measure.CONCURRENT, 41, shadow=True),
    )


def test_an_override_takes_a_plan_out_of_shadow():
    """False is a value, not the absence of one."""
    plan = Plan("gold", tenant=Allowance(concurrent=1, shadow=True))
    (limit,) = entitled(plan, Overrides(tenant=Override(shadow=False))).limits

    assert not limit.shadow


def test_unknown_plan():
    """Nothing is entitled by a plan that is not there."""
    it = model()
    principal = Principal("acme", "k" * 12, "gone", ())

    assert entitlement(Catalog({"m": it}, {}), principal, it) is None


def test_a_new_catalog_counts_at_once():
    """What was worked out for one catalog is never used for another."""
    principal, it = Principal("acme", "k" * 12, "gold", ()), model()
    values = []
    for value in (1, 2):
        plan = Plan("gold", key=Allowance(concurrent=value))
        found = entitlement(Catalog({"m": it}, {"gold": plan}), principal, it)
        assert found is not None
        values.append(found.limits[0].value)

    assert values == [1, 2]


def test_worked_out_once():
    """A request gets the very object the last one got."""
    catalog, it = Catalog({"m": model()}, {"gold": Plan("gold")}), model()
    principal = Principal("acme", "k" * 12, "gold", ())

    assert entitlement(catalog, principal, it) is entitlement(catalog, principal, it)


amounts = st.none() | st.just("unlimited") | st.integers(1, 2**53)
overriding = st.builds(
    Override,
    requests_per_minute=amounts,
    units_per_minute=amounts,
    concurrent=amounts,
    units_per_day=amounts,
    units_per_month=amounts,
    money_per_day=amounts,
    money_per_month=amounts,
    burst_seconds=st.none() | st.floats(0.5, 3600),
    shadow=st.none() | st.booleans(),
)


@given(overriding, overriding, overriding, st.sampled_from([UTC, BERLIN]))
def test_overrides_survive(key, tenant, of_model, zone):
    """From key and tenant over the principal to extproc, nothing added or lost."""
    stored_key = Overrides(key=key).encode()
    models = {} if of_model == AS_PLANNED else {"m": of_model}
    stored_tenant = Overrides(tenant=tenant, models=models, zone=zone).encode()

    assert decode_overrides(combined(stored_key, stored_tenant)) == Overrides(
        key=key, tenant=tenant, models=models, zone=zone
    )


@given(
    overriding,
    st.builds(Allowance, concurrent=st.none() | st.integers(1), shadow=st.booleans()),
)
def test_over_is_field_by_field(override, allowance):
    """By the definition, one field at a time."""
    laid = override.over(allowance)
    for field in Override.__struct_fields__:
        value = getattr(override, field)
        planned = getattr(allowance, field)
        expected = planned if value is None else None if value == "unlimited" else value

        assert expected == getattr(laid, field)


def test_nothing_differs():
    """No overrides are no bytes: most requests carry none."""
    plain = Overrides(
        key=Override(), tenant=Override(), models={"m": Override()}, zone="".join("UTC")
    )

    assert plain.encode() == ""
    assert combined("", "") == ""
    assert combined('{"key":{}}', '{"zone":"UTC"}') == ""


def test_compact():
    """Only what differs is written."""
    overrides = Overrides(tenant=Override(shadow=False, concurrent="unlimited"))

    assert overrides.encode() == '{"tenant":{"concurrent":"unlimited","shadow":false}}'


def test_each_speaks_for_itself():
    """A key's record can't change its tenant's limits, nor the other way round."""
    key = Overrides(tenant=Override(concurrent=1), zone=BERLIN).encode()
    tenant = Overrides(key=Override(concurrent=2)).encode()

    assert combined(key, tenant) == ""


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[]",
        '{"keys":{}}',
        '{"key":{"requests_per_hour":1}}',
        '{"key":{"concurrent":0}}',
        '{"key":{"concurrent":"none"}}',
        '{"key":{"burst_seconds":0}}',
        '{"tenant":{"units_per_day":1.5}}',
    ],
)
def test_unreadable(text):
    """What can't be read is no reason to admit without limits."""
    with pytest.raises(ProtocolError, match="not overrides"):
        decode_overrides(text)
    with pytest.raises(ProtocolError):
        combined("", text)


def test_unknown_time_zone():
    """Budgets can't follow it: said where the key is looked up."""
    with pytest.raises(ProtocolError, match="not a time zone: 'Mars/Olympus'"):
        combined("", '{"zone":"Mars/Olympus"}')
