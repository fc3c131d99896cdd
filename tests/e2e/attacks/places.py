"""The parts of a bootstrap that may be guards, each by its name; and why some are none.

Clusters are not among them: they say how backends are reached, and no request comes so
far without all of this.
"""

from collections.abc import Iterator

from tests.e2e.attacks.rig import Tree, manager

BUFFER = "envoy.filters.http.buffer"
COMMON = "common_http_protocol_options"
HTTP2 = "http2_protocol_options"

_BOUNDS = "a bound for what a client of ours may do; no single attack shows it"
_ANSWERS = "about answers, and money: tests/e2e/edge/test_meter.py and test_ledger.py"
_OURS = "bounds a service of ours, which is trusted: tests/e2e/edge/test_admission.py"
_TRACES = "tells a trace's id: tests/e2e/edge/test_traces.py"
_NAMES = "a name, an address or a choice without a threat"

NO_GUARD = {
    "bootstrap.node": _NAMES,
    "bootstrap.layered_runtime": "how spans are batched",
    "bootstrap.overload_manager": "memory as a whole: tests/e2e/edge/test_memory.py",
    "listener.name": _NAMES,
    "listener.address": _NAMES,
    "listener.enable_reuse_port": _NAMES,
    "listener.filter_chains": "what is in it is listed by itself",
    "listener.per_connection_buffer_limit_bytes": "check-config compares it with the"
    " buffer's: too small, uploads hang",
    "manager.stat_prefix": _NAMES,
    "manager.always_set_request_id_in_response": "for support",
    "manager.stream_idle_timeout": _BOUNDS,
    "manager.drain_timeout": _NAMES,
    "manager.tracing": "what it tells and keeps: tests/e2e/edge/test_traces.py",
    "manager.access_log": _ANSWERS,
    "manager.access_log_options": _ANSWERS,
    "common_http_protocol_options.idle_timeout": _BOUNDS,
    "filter.lua": _ANSWERS,
    "lua.default_source_code": _ANSWERS,
    "lua.source_codes": _ANSWERS,
    "filter.answers": "what of answers is told: tests/e2e/backends",
    "answers.default_source_code": "what of answers is told: tests/e2e/backends",
    "tries.default_source_code": "the guard `filter.tries`, whose script it is",
    "filter.trace": _TRACES,
    "trace.mutations": _TRACES,
    "filter.router": "without it Envoy does not start",
    "router.suppress_envoy_headers": "a second time: answers.lua passes none of them",
    "ext_authz.grpc_service": "its timeout: tests/e2e/edge/test_admission.py",
    "ext_authz.transport_api_version": "without it Envoy does not start",
    "ext_authz.allowed_headers": _OURS,
    "ext_proc.grpc_service": "its timeout: tests/e2e/edge/test_admission.py",
    "ext_proc.processing_mode.request_trailer_mode": "extproc hangs up before them",
    "ext_proc.processing_mode.response_header_mode": _ANSWERS,
    "ext_proc.processing_mode.response_trailer_mode": _ANSWERS,
    "ext_proc.message_timeout": "tests/e2e/edge/test_admission.py",
    "ext_proc.max_message_timeout": "how long a request may be held",
    "ext_proc.mutation_rules": _OURS,
    "ext_proc.forward_rules": _OURS,
    "ext_proc.metadata_options.receiving_namespaces": _ANSWERS,
    "host.response_headers_to_add": _ANSWERS,
    "host.response_headers_to_remove": "a backend's own: tests/e2e/backends",
    "route.healthz": "an answer, not a refusal",
    "route.unknown": "a second time: Envoy answers 404 where no route matches",
    "private.authorization": "a second time: authz asks for it to be removed, too",
    "private.x-envoy-internal": "a second time: early.x-envoy-; Envoy's own is for"
    " addresses it takes for internal, none here",
    "mapper.own_grpc": "words of refusals in gRPC: tests/e2e/triton",
    "mapper.grpc_too_large": "words of a message too large: tests/e2e/triton",
    "mapper.triton_timeout": "words of a 504, as of other APIs",
    "route.stream": "an answer, not a refusal: tests/e2e/triton",
    "route.grpc": "an answer, not a refusal: tests/e2e/triton",
    "streams.grpc_service": _OURS,
    "streams.message_timeout": "how long a client may take to begin",
    "streams.status_on_error": "ext_proc, which comes first, has its own",
    "streams.processing_mode.request_trailer_mode": "full duplex wants it so",
    "streams.processing_mode.response_header_mode": _ANSWERS,
    "streams.processing_mode.response_trailer_mode": _ANSWERS,
    "streams.forward_rules": _OURS,
    "streams.mutation_rules": _OURS,
    "streams.metadata_options.receiving_namespaces": _ANSWERS,
    "private.x-api-key": "a second time: authz asks for it to be removed, too",
    "mapper.timeout": "words of a 504: tests/e2e/edge/test_admission.py",
    "mapper.anthropic_broken": "words of a 502: tests/e2e/backends",
    "mapper.triton_broken": "words of a 502, as of other APIs",
    "mapper.bad_gateway": "words of a 502: tests/e2e/edge/test_meter.py",
}
"""Why the rest is none. `failure_mode_allow` is off in all filters, and is a second
lock: whom authz did not name extproc refuses, and whoever extproc did not judge meets
the routes before admission, which answer 503. check-config wants both off."""


def places(tree: Tree) -> Iterator[str]:
    """Name every part of a bootstrap that may be a guard."""
    (listener,) = tree["static_resources"]["listeners"]
    yield from (f"bootstrap.{key}" for key in tree.keys() - {"static_resources"})
    yield from (f"listener.{key}" for key in listener)
    edge = manager(tree)
    for key, value in edge.items():
        if key in (COMMON, HTTP2):
            yield from (f"{key}.{name}" for name in value)
        elif key == "early_header_mutation_extensions":
            yield from (f"early.{matched(it)}" for it in mutations(edge))
        elif key == "http_filters":
            yield from _filter_places(value)
        elif key == "local_reply_config":
            yield from (f"mapper.{mapped(it)}" for it in value["mappers"])
        elif key == "route_config":
            yield from _route_places(value["virtual_hosts"])
        elif key not in ("@type", "delayed_close_timeout"):  # the rig's own
            yield f"manager.{key}"


def _filter_places(filters: Tree) -> Iterator[str]:
    for item in filters:
        name = _short(item["name"])
        yield f"filter.{name}"
        yield from (f"{name}.{key}" for key in item.keys() - {"name", "typed_config"})
        for key, value in item["typed_config"].items():
            if key in ("processing_mode", "metadata_options"):
                yield from (f"{name}.{key}.{mode}" for mode in value)
            elif key != "@type":
                yield f"{name}.{key}"


def _route_places(hosts: Tree) -> Iterator[str]:
    (host,) = hosts
    yield from (f"host.{key}" for key in host.keys() - {"name", "routes"})
    for route in host["routes"]:
        yield f"route.{route['name']}"
        yield from (
            f"private.{it}" for it in route.get("request_headers_to_remove", ())
        )
        if "path" in route["match"]:
            yield f"exact.{route['match']['path']}"
        if "route" in route:
            yield f"proof.{route['name']}"
            if "safe_regex" in route["match"]:
                yield f"exact.{route['name']}"
        if BUFFER in route.get("typed_per_filter_config", {}):
            yield f"unbuffered.{route['name']}"


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def mutations(edge: Tree) -> list[Tree]:
    (extension,) = edge["early_header_mutation_extensions"]
    found: list[Tree] = extension["typed_config"]["mutations"]
    return found


def matched(mutation: Tree) -> str:
    if "remove" in mutation:
        return str(mutation["remove"])
    matcher = mutation["remove_on_match"]["key_matcher"]
    if "prefix" in matcher:
        return str(matcher["prefix"])
    return str(matcher["safe_regex"]["regex"]).partition("|")[0]


def mapped(mapper: Tree) -> str:
    """The first runtime key in it; that of gRPC's plain answers has none."""
    match mapper:
        case {"runtime_key": str() as key}:
            return key.removeprefix("local_reply.")
        case dict():
            found = (mapped(it) for it in mapper.values())
        case list():
            found = (mapped(it) for it in mapper)
        case _:
            return "grpc"
    return next((it for it in found if it != "grpc"), "grpc")
