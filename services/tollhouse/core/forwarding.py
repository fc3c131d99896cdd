"""What goes on to the backend of a judged request, and what no model of ours takes."""

from typing import Any

import msgspec

from tollhouse.core.catalog import Model, Operation, Provider
from tollhouse.core.problems import Kind, Problem
from tollhouse.core.refusal import refuse, shown
from tollhouse.core.request import Request
from tollhouse.core.servers import SERVERS

_CAPS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_USAGE_ON_REQUEST = frozenset({Operation.CHAT, Operation.COMPLETIONS})
"""The others' streams always end with their usage."""


def fit(request: Request, model: Model) -> None:
    """Refuse what this model can't serve. Raises Problem."""
    if request.operation not in model.operations:
        refuse(f"This model does not serve {request.operation}.", "model")
    cap = request.output_cap
    if cap is not None and cap > model.max_output_tokens:
        refuse(
            f"The largest output of this model is {model.max_output_tokens} tokens.",
            next((it for it in _CAPS if it in request.fields), "max_tokens"),
        )
    if model.provider is Provider.OPENAI:
        _fit_server(request, model)
    elif request.images:
        is_response = request.operation is Operation.RESPONSES
        refuse("This model takes text only.", "input" if is_response else "messages")


def _fit_server(request: Request, model: Model) -> None:
    traits = SERVERS[model.server]
    name = traits.refusal(request.operation, request.fields)
    if name is None and traits.single_choice and request.choices > 1:
        name = "n" if "n" in request.fields else "best_of"
    if name is not None:
        name = shown(name)
        raise Problem(
            Kind.UNSUPPORTED, f"`{name}` is not supported by this model.", name
        )


def forwarded(request: Request, model: Model) -> tuple[bytes, bool]:
    """The body for the backend, and whether we put a default cap into it.

    Usage is always asked for; the meter takes the extra event out again where the
    client did not want it.
    """
    is_foreign = model.provider is Provider.OPENAI
    traits = SERVERS[model.server]
    fields = dict(request.fields)
    if is_foreign:
        fields = traits.taken(request.operation, fields)
        if request.operation is Operation.RESPONSES:
            # Kept by default, where no route of ours would ever lead again.
            fields["store"] = _raw(value=False)
    name = model.backend_model or model.name
    if name != request.model:
        fields["model"] = _raw(name)
    if request.stream and request.operation in _USAGE_ON_REQUEST:
        options = request.stream_options | {"include_usage": True}
        # Cumulative counts on every event, so that an aborted stream is exact. Of
        # several choices each event would tell its own choice's alone, also where
        # the client asked for it.
        options.pop("continuous_usage_stats", None)
        if is_foreign and traits.continuous_usage and request.choices == 1:
            options["continuous_usage_stats"] = True
        fields["stream_options"] = _raw(options)
    cap = output_cap(request, model)
    if cap is not None:
        cap_name = _cap_name(request, model)
        for other in _CAPS:
            if other != cap_name:
                fields.pop(other, None)  # both were given: one value goes on
        fields[cap_name] = msgspec.Raw(b"%d" % cap)
    injected = request.output_cap is None and cap is not None
    return msgspec.json.encode(fields), injected


def strips(request: Request) -> bool:
    """Whether the client did not ask for the usage event that its stream will have."""
    return (
        request.stream
        and request.operation in _USAGE_ON_REQUEST
        and not request.wants_usage
    )


def output_cap(request: Request, model: Model) -> int | None:
    """The cap that is forwarded: the client's, or ours; None: the backend's own."""
    if request.operation is Operation.EMBEDDINGS:
        return None  # nothing is generated
    if request.output_cap is None and model.inject_default:
        return model.default_output_tokens
    return request.output_cap


def _cap_name(request: Request, model: Model) -> str:
    if request.operation is Operation.RESPONSES:
        return "max_output_tokens"
    if request.operation is not Operation.CHAT:
        return "max_tokens"
    if model.provider is Provider.OPENAI:
        only = SERVERS[model.server].chat_cap
        if only is not None:
            return only
    both = {"max_tokens", "max_completion_tokens"} <= request.fields.keys()
    if both or "max_tokens" not in request.fields:
        return "max_completion_tokens"
    return "max_tokens"


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
