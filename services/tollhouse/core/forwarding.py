"""What goes on to the backend of a judged request, and what no model of ours takes."""

import msgspec

from tollhouse.core.catalog import Model, Operation, Provider
from tollhouse.core.openai import Request
from tollhouse.core.refusal import refuse


def fit(request: Request, model: Model) -> None:
    """Refuse what this model can't serve. Raises Problem."""
    if request.operation not in model.operations:
        refuse(f"This model does not serve {request.operation}.", "model")
    cap = request.output_cap
    if cap is not None and cap > model.max_output_tokens:
        refuse(
            f"The largest output of this model is {model.max_output_tokens} tokens.",
            "max_completion_tokens"
            if "max_completion_tokens" in request.fields
            else "max_tokens",
        )
    if request.images and model.provider is Provider.TRITON:
        refuse("This model takes text only.", "messages")


def forwarded(request: Request, model: Model) -> tuple[bytes, bool]:
    """The body for the backend, and whether we put a default cap into it.

    Usage is always asked for; the meter takes the extra event out again where the
    client did not want it.
    """
    fields = dict(request.fields)
    if request.stream:
        options = request.stream_options | {"include_usage": True}
        if model.provider is Provider.OPENAI:
            # Cumulative counts on every event, so that an aborted stream is exact.
            options["continuous_usage_stats"] = True
        fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
    cap = output_cap(request, model)
    if cap is not None:
        name = (
            "max_completion_tokens"
            if request.operation is Operation.CHAT
            and "max_tokens" not in request.fields
            else "max_tokens"
        )
        if {"max_tokens", "max_completion_tokens"} <= fields.keys():
            name = "max_completion_tokens"  # both were given: one value goes on
            del fields["max_tokens"]
        fields[name] = msgspec.Raw(b"%d" % cap)
    injected = request.output_cap is None and cap is not None
    return msgspec.json.encode(fields), injected


def output_cap(request: Request, model: Model) -> int | None:
    """The cap that is forwarded: the client's, or ours; None: the backend's own."""
    if request.output_cap is None and model.inject_default:
        return model.default_output_tokens
    return request.output_cap
