"""check-config tries what envoy.yaml removes with names, however it is worded."""

import pytest
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutation,
    HeaderMutationRemoveOnMatch,
)
from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import (
    v3 as hcm,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import (  # noqa: E501
    v3 as early,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any as PbAny

from tollhouse.cli import edge_managers
from tollhouse.cli.bootstrap import read_bootstrap
from tollhouse.cli.edge_headers import findings, is_removed
from tollhouse.cli.places import default_envoy

((_, OURS),) = edge_managers.every(read_bootstrap(default_envoy()))
CHECKED_ELSEWHERE = ("x-tollhouse-", "x-client-trace-id", "traceparent")
"""By edge_rules and edge_tracing."""


def removing(*mutations):
    config = PbAny.pack(early.HeaderMutation(mutations=list(mutations)))
    extension = TypedExtensionConfig(name="early", typed_config=config)
    return hcm.HttpConnectionManager(early_header_mutation_extensions=[extension])


def matching(**how):
    matcher = StringMatcher(**how)
    return HeaderMutation(
        remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=matcher)
    )


def regex(text):
    return matching(safe_regex=RegexMatcher(regex=text))


def named(mutation):
    if mutation.remove_on_match is None:
        return mutation.remove
    matcher = mutation.remove_on_match.key_matcher
    return matcher.prefix or matcher.safe_regex.regex


def mutations():
    """Those of the repository's file."""
    (extension,) = OURS.early_header_mutation_extensions
    assert extension.typed_config
    config = extension.typed_config.unpack()
    assert isinstance(config, early.HeaderMutation)
    return config.mutations


NAMED = {named(it): it for it in mutations()}


def test_the_repositorys_file_is_fine():
    assert [] == list(findings("m", OURS))


@pytest.mark.parametrize("without", sorted(NAMED.keys() - set(CHECKED_ELSEWHERE)))
def test_each_is_missed(without):
    kept = [it for name, it in NAMED.items() if name != without]

    found = list(findings("m", removing(*kept)))

    assert found
    for line in found:
        assert line.startswith("m.early_header_mutation_extensions: clients' own ")
        assert line.endswith("; remove them, as the repository's envoy.yaml does")


def test_what_is_kept_is_named():
    kept = [it for name, it in NAMED.items() if name not in ("b3", "baggage")]
    others = [regex("b[0-9]"), matching(contains="AGG", ignore_case=True)]

    (line,) = findings("m", removing(*kept))

    assert "clients' own baggage, b3 name a trace" in line
    assert [] == list(findings("m", removing(*kept, *others)))


@pytest.mark.parametrize(
    ("mutation", "is_so"),
    [
        (HeaderMutation(remove="X-User"), True),
        (HeaderMutation(remove="x-users"), False),
        (matching(exact="x-user"), True),
        (matching(exact="X-User"), False),
        (matching(exact="X-User", ignore_case=True), True),
        (matching(prefix="x-us"), True),
        (matching(prefix="user"), False),
        (matching(suffix="-user"), True),
        (matching(suffix="x-"), False),
        (matching(contains="-us"), True),
        (matching(contains="usr"), False),
        (regex("x-(user|tenant)"), True),
        (regex("x-us"), False),
        (regex(r"x-\pL+"), False),
        (HeaderMutation(), False),
    ],
)
def test_what_a_mutation_removes(mutation, is_so):
    """Envoy compares with names in lower case, and a pattern with all of a name."""
    assert is_so == is_removed(removing(mutation), "x-user")
