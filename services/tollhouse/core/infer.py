"""Inference requests in Triton's own terms, for a model that takes text.

Tensors by name, as TensorRT-LLM's `ensemble` and `tensorrt_llm_bls` have them; those of
`llmapi`, which says no counts, are known only to be refused. What a protocol's reader
found in a request becomes the same `Request` as that of any other API: judged,
estimated and reserved alike.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from tollhouse.core.catalog import Model, Operation
from tollhouse.core.levers import MAX_STOPS
from tollhouse.core.problems import Kind, Problem, ProtocolError
from tollhouse.core.refusal import refuse, refuse_unsupported
from tollhouse.core.request import MAX_CHOICES, Request
from tollhouse.core.tensor_data import Values

TEXT: Final = "text_input"
COUNTS: Final = ("num_input_tokens", "num_output_tokens")
"""Outputs that tell what was used; `return_` before the name is the input that asks."""
CAP: Final = "max_tokens"
# They carry a prompt that no estimate sees, read what is not the client's (files, URLs,
# another's request), or make one token cost a vocabulary of numbers.
_NEVER = frozenset(
    {
        *("lora_weights", "lora_config", "lora_path", "lora_name"),
        *("lora_id", "lora_task_id"),
        *("prompt_embedding_table", "prompt_vocab_size", "prompt_table_extra_id"),
        *("decoder_text_input", "image_input", "image_bytes_input"),
        *("image_url_input", "image_url", "video_bytes_input"),
        *("num_draft_tokens", "use_draft_logits", "draft_input_ids"),
        *("return_context_logits", "return_generation_logits"),
        *("input_ids", "decoder_input_ids", "stop", "ignore_eos"),
    }
)
# Among those, what 0 says as much with as any other number.
_IDS = frozenset(
    {
        *("lora_id", "lora_task_id", "prompt_table_extra_id"),
        *("input_ids", "decoder_input_ids", "draft_input_ids"),
    }
)
_ONE = frozenset({"beam_width", "num_return_sequences", "sampling_param_best_of"})
_NONE = frozenset({"min_tokens", "min_length", "sampling_param_min_tokens"})
_MOST_ITEMS: Mapping[str, int] = MappingProxyType(
    {
        "stop_words": MAX_STOPS,
        "bad_words": MAX_STOPS,
        "sampling_param_stop": MAX_STOPS,
        "embedding_bias_words": 1024,
    }
)
# A schema's states are bounded; a regular expression's or a grammar's are not.
_GUIDE = "guided_decoding_guide_type"
_GUIDES = (b"json", b"json_schema")
_NOT_PARAMETERS = frozenset({"priority", "timeout"})
_SHARED_MEMORY = "shared_memory_"
READ: Final = (
    frozenset({TEXT, _GUIDE, CAP}) | _NEVER | _ONE | _NONE | _MOST_ITEMS.keys()
)
"""The tensors that decide; of others it does not matter what they hold."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What the backend gets to read of a judged request.

    `model`: the name in its repository. `output_cap`: ours; None: the client named one.
    """

    model: str
    output_cap: int | None

    @property
    def inputs(self) -> Sequence[tuple[str, str, int]]:
        """Name, datatype and value of the tensors that are put in, for each text."""
        cap = self.output_cap
        caps = () if cap is None else ((CAP, "INT32", cap),)
        return (*caps, *((f"return_{it}", "BOOL", 1) for it in COUNTS))

    def outputs(self, asked: Sequence[str]) -> Sequence[str]:
        """Those that take the place of its own; one that asks for none gets all."""
        return COUNTS if asked else ()


class Document(Protocol):
    """A request's body in one of Triton's forms, not read yet."""

    @property
    def content_type(self) -> str:
        """Of the body that is written."""
        ...

    @property
    def head_bytes(self) -> int | None:
        """Of the body that is written: where binary values begin, if it says."""
        ...

    def request(self) -> Request:
        """What it asks for. Raises Problem with what is wrong."""
        ...

    def rewritten(self, rewrite: Rewrite) -> bytes:
        """The body as the backend gets it, once it was judged."""
        ...


def infer_request(
    model: str,
    tensors: Mapping[str, Values],
    parameters: Sequence[str],
    of_inputs: Iterable[str] = (),
    of_outputs: Iterable[str] = (),
) -> Request:
    """Judge a request for a text model by its tensors.

    `parameters` are the names of the request's own, `of_inputs` and `of_outputs` those
    of its tensors. An output may have none: `classification` would make strings of the
    counts. Raises Problem with the tensor or parameter that is wrong.
    """
    for name in sorted((*parameters, *of_inputs)):
        if name in _NOT_PARAMETERS or name.startswith(_SHARED_MEMORY):
            refuse_unsupported(name)
    for name in sorted(of_outputs):
        refuse_unsupported(name)
    for name, values in tensors.items():
        _refuse_lever(name, values)
    texts = tensors.get(TEXT)
    if not texts or not all(isinstance(it, bytes) for it in texts):
        refuse("must have text.", TEXT)
    if len(texts) > MAX_CHOICES:
        refuse(f"must be at most {MAX_CHOICES} texts.", TEXT)
    return Request(
        operation=Operation.INFER,
        model=model,
        stream=False,
        wants_usage=True,
        choices=len(texts),
        output_cap=_output_cap(tensors),
        messages=0,
        text_bytes=sum(len(it) for it in texts if isinstance(it, bytes)),
        images=0,
        stream_options={},
        fields={},
    )


def rewrite(request: Request, model: Model) -> Rewrite:
    """What `model` must be given of a request that it serves."""
    triton = model.triton
    if triton is None:
        raise ProtocolError("a model without Triton serves `infer`")
    injects = request.output_cap is None and model.inject_default
    return Rewrite(
        model=triton.model,
        output_cap=model.default_output_tokens if injects else None,
    )


def _refuse_lever(name: str, values: Values) -> None:
    if name in _NEVER and (any(values) or (name in _IDS and values)):
        refuse_unsupported(name)
    most = 1 if name in _ONE else 0 if name in _NONE else None
    if most is not None and any(
        not isinstance(it, int) or it > most or it < 0 for it in values
    ):
        raise Problem(Kind.UNSUPPORTED, f"`{name}` must be {most}.", name)
    if name == _GUIDE and any(it not in _GUIDES for it in values):
        raise Problem(Kind.UNSUPPORTED, f"`{name}` must be json or json_schema.", name)
    if name in _MOST_ITEMS and len(values) > _MOST_ITEMS[name]:
        refuse(f"must have at most {_MOST_ITEMS[name]} items.", name)


def _output_cap(tensors: Mapping[str, Values]) -> int | None:
    caps = tensors.get(CAP, ())
    for cap in caps:
        if type(cap) is not int or not 1 <= cap < 2**31:
            refuse("must be a whole number of at least 1.", CAP)
    return max((it for it in caps if isinstance(it, int)), default=None)
