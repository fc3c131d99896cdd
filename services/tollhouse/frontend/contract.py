"""The text contracts of TensorRT-LLM's Triton flows, as one table.

`ensemble` and `tensorrt_llm_bls` share their tensors: batched, each response counts
its own tokens, no finish reason, the stop word stays in the text. `llmapi` (PyTorch
engine) has its own names: not batched, no counts, a stream repeats its text from the
beginning, and stop strings do not survive its conversion (it hands the engine bytes
where it wants text), so the frontend alone stops there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import msgspec

from tollhouse.adapters.triton import Tensor
from tollhouse.core.refusal import refuse

Sampling = Mapping[str, int | float]
"""Sampling parameters by their OpenAI or vLLM name."""


@dataclass(frozen=True, slots=True)
class Guide:
    """What an answer must be: `json`, any object, or one of a `json_schema`."""

    kind: str
    schema: str
    """JSON; empty where any object will do."""
    param: str
    """The field that asked for it, by which it is refused."""

    @classmethod
    def of_schema(cls, schema: object, param: str) -> Self:
        """Return the guide of a JSON schema. Raises Problem if it can't be written."""
        try:
            return cls("json_schema", msgspec.json.encode(schema).decode(), param)
        except RecursionError:
            refuse("is nested too deeply.", param)


@dataclass(frozen=True, slots=True)
class Contract:
    """How one flow is asked, and how its answers are read."""

    name: str
    sampling: Mapping[str, tuple[str, str]]
    """Parameter → tensor and datatype; one that is absent is refused."""
    max_tokens: str
    stream: str
    stop_words: str | None
    flags: tuple[str, ...]
    """Always true."""
    counts: bool
    """Responses carry num_input_tokens and num_output_tokens."""
    finish_reason: bool
    """Responses carry finish_reason; else it is inferred."""
    cumulative: bool
    """A stream's text begins at its beginning in every response."""
    batched: bool
    guide: tuple[str, str] | None
    """Tensors of the kind of a guide and of its schema, where decoding is guided."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs asked for."""
        counts = ("num_input_tokens", "num_output_tokens") if self.counts else ()
        reason = ("finish_reason",) if self.finish_reason else ()
        return ("text_output", *counts, *reason)

    def tensors(
        self,
        *,
        prompt: str,
        max_tokens: int,
        stream: bool,
        stops: Sequence[str],
        sampling: Sampling,
        guide: Guide | None = None,
    ) -> list[Tensor]:
        """Return the inputs of one request; `sampling` has known parameters only."""
        inputs = [
            Tensor("text_input", "BYTES", (prompt,)),
            Tensor(self.max_tokens, "INT32", (max_tokens,)),
            Tensor(self.stream, "BOOL", (stream,)),
        ]
        inputs += [Tensor(flag, "BOOL", (True,)) for flag in self.flags]
        for name, value in sampling.items():
            tensor, datatype = self.sampling[name]
            inputs.append(Tensor(tensor, datatype, (value,)))
        if stops and self.stop_words is not None:
            inputs.append(Tensor(self.stop_words, "BYTES", tuple(stops)))
        if guide is not None and self.guide is not None:
            kind, schema = self.guide
            inputs.append(Tensor(kind, "BYTES", (guide.kind,)))
            if guide.schema:
                inputs.append(Tensor(schema, "BYTES", (guide.schema,)))
        return inputs


_SHARED = {
    "temperature": "FP32",
    "top_p": "FP32",
    "top_k": "INT32",
    "frequency_penalty": "FP32",
    "presence_penalty": "FP32",
    "seed": "UINT64",
}
_ENGINE_ONLY = {"repetition_penalty": "FP32", "min_tokens": "INT32", "end_id": "INT32"}


def _engine(name: str) -> Contract:
    return Contract(
        name=name,
        sampling={key: (key, kind) for key, kind in (_SHARED | _ENGINE_ONLY).items()},
        max_tokens="max_tokens",
        stream="stream",
        stop_words="stop_words",
        flags=(
            "exclude_input_in_output",
            "return_num_input_tokens",
            "return_num_output_tokens",
        ),
        counts=True,
        finish_reason=False,
        cumulative=False,
        batched=True,
        guide=("guided_decoding_guide_type", "guided_decoding_guide"),
    )


CONTRACTS: Mapping[str, Contract] = {
    "ensemble": _engine("ensemble"),
    "tensorrt_llm_bls": _engine("tensorrt_llm_bls"),
    "llmapi": Contract(
        name="llmapi",
        sampling={
            key: (f"sampling_param_{key}", kind) for key, kind in _SHARED.items()
        },
        max_tokens="sampling_param_max_tokens",
        stream="streaming",
        stop_words=None,
        flags=("sampling_param_exclude_input_from_output", "return_finish_reason"),
        counts=False,
        finish_reason=True,
        cumulative=True,
        batched=False,
        guide=None,
    ),
}
