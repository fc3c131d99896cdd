"""From a judged request to what Triton is asked: prompt, limits, choices."""

import asyncio
import functools
import re
import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tollhouse.adapters.triton import Patience, Triton
from tollhouse.core.problems import Kind, Problem
from tollhouse.frontend.answer import Usage
from tollhouse.frontend.contract import Guide
from tollhouse.frontend.generation import Ask, Choice, Model, fitting_max_tokens
from tollhouse.frontend.request import Request, unsupported
from tollhouse.frontend.tool_parser import ToolReader, tool_reader
from tollhouse.frontend.trail import Trail

_EXCHANGE = re.compile(r"[A-Za-z0-9-]{1,64}")
# In bytes. Rendering and tokenising take a millisecond from here on, and tenths of
# a second for the longest bodies: other streams must not wait for that.
_LONG_BODY = 4096


@dataclass(frozen=True, slots=True)
class Prepared:
    """One request, ready to run."""

    request: Request
    exchange_id: str
    created: int
    """Unix time."""
    choices: Sequence[Choice]

    def usage(self) -> Usage:
        """Return the tokens so far; the prompt counts once."""
        return Usage(
            self.choices[0].input_tokens,
            sum(choice.output_tokens for choice in self.choices),
        )


class Service:
    """The models of one Triton server, and how requests for them are prepared."""

    def __init__(
        self, models: Mapping[str, Model], triton: Triton, patience: Patience
    ) -> None:
        self.models = models
        self.triton = triton
        self.patience = patience

    async def is_ready(self) -> bool:
        """Whether Triton has every model loaded."""
        answers = await asyncio.gather(
            *(
                self.triton.is_ready(model.triton_model)
                for model in self.models.values()
            )
        )
        return all(answers)

    async def prepare(
        self, request: Request, headers: Mapping[bytes, bytes], trail: Trail
    ) -> Prepared:
        """Render, count, and fit a request. Raises Problem."""
        model = self.models.get(request.model)
        if model is None:
            raise Problem(
                Kind.MODEL_NOT_FOUND, "This model does not exist here.", "model"
            )
        guide = _guide(model, request)
        reader = _tool_reader(model, request)
        if request.size < _LONG_BODY:
            prompt, input_tokens = _measure(model, request)
        else:
            prompt, input_tokens = await asyncio.to_thread(_measure, model, request)
        max_tokens = fitting_max_tokens(
            request.max_tokens,
            injected=headers.get(b"x-tollhouse-default-max-tokens") == b"true",
            input_tokens=input_tokens,
            context=model.context,
        )
        exchange_id = headers.get(b"x-tollhouse-exchange", b"").decode("latin-1")
        if not _EXCHANGE.fullmatch(exchange_id):
            exchange_id = str(uuid.uuid4())
        ask = Ask(
            model=model,
            prompt=prompt,
            input_tokens=input_tokens,
            max_tokens=max_tokens,
            stream=request.stream,
            stops=request.stops,
            sampling=_sampling(model, request),
            guide=guide,
            tool_reader=reader,
            request_id=exchange_id,
            trail=trail,
        )
        seed = request.seed
        if seed is None and request.choices > 1:
            # Engines take 0 for a missing seed: all choices would be the same.
            seed = secrets.randbits(62)
        return Prepared(
            request=request,
            exchange_id=exchange_id,
            created=int(time.time()),
            choices=[Choice(ask, index, seed) for index in range(request.choices)],
        )


def _guide(model: Model, request: Request) -> Guide | None:
    """Return what the answer must be: a call that is due goes before all else."""
    guide = request.guide
    if (tools := request.tools) is not None:
        if guide is not None and not tools.forced:
            raise Problem(
                Kind.UNSUPPORTED,
                f"`{guide.param}` would keep this model from calling functions: "
                "leave it out, or choose none.",
                guide.param,
            )
        guide = tools.guide()
    if guide is not None and model.contract.guide is None:
        unsupported(guide.param)
    return guide


def _tool_reader(model: Model, request: Request) -> Callable[[], ToolReader] | None:
    if request.tools is None:
        return None
    if model.tool_parser is None:
        unsupported("tools")
    return functools.partial(tool_reader, request.tools, model.tool_parser)


def _prompt(model: Model, request: Request) -> str:
    """Return what the engine reads; a completion's prompt goes as it is."""
    if request.messages is None:
        return request.prompt
    template = model.release.chat_template
    if template is None:
        raise Problem(
            Kind.INVALID_REQUEST, "This model serves completions, not chat.", "model"
        )
    neutral = model.release.neutraliser.value
    tools = None if request.tools is None else request.tools.described()
    try:
        messages, tools = neutral(list(request.messages)), neutral(tools)
    except RecursionError:
        raise Problem(
            Kind.INVALID_REQUEST, "The body is nested too deeply.", "messages"
        ) from None
    return template.render(messages, tools)


def _measure(model: Model, request: Request) -> tuple[str, int]:
    """Return the prompt and its tokens. Raises Problem; also runs in threads."""
    prompt = _prompt(model, request)
    if model.release.surely_exceeds(len(prompt), model.context):
        raise Problem(
            Kind.CONTEXT_LENGTH,
            f"This model's context is {model.context} tokens; the prompt is longer.",
            "messages",
        )
    return prompt, model.release.count(prompt)


def _sampling(model: Model, request: Request) -> dict[str, int | float]:
    """Return the client's parameters over the model's defaults. Raises Problem."""
    known = model.contract.sampling
    for name in request.sampling:
        if name not in known:
            unsupported(name)
    defaults = {
        name: value for name, value in model.release.defaults.items() if name in known
    }
    # Engines decode greedily where nothing asks for sampling; OpenAI's default is 1.
    sampling: dict[str, int | float] = {"top_p": 1.0} | defaults | request.sampling
    if sampling.get("temperature") == 0:
        # Greedy in every engine, while a temperature of 0 is an error in some.
        del sampling["temperature"]
        sampling["top_k"] = 1
    if "end_id" in known:
        if request.ignore_eos:
            sampling["end_id"] = -1
        elif model.release.end_id is not None:
            sampling["end_id"] = model.release.end_id
    elif request.ignore_eos:
        unsupported("ignore_eos")
    return sampling
