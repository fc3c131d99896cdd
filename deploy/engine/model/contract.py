"""The tensor names of the TensorRT-LLM text contracts, as the engine hears them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Contract:
    """What one flow calls its tensors, and how it sends text."""

    max_tokens: str
    stream: str
    stop_words: str
    exclude_input: str
    seed: str
    end_id: str | None
    min_tokens: str | None
    guide_kind: str | None
    guide: str | None
    counts: bool
    """Sends num_input_tokens and num_output_tokens when asked to."""
    finish_reason: bool
    """Sends finish_reason when asked to."""
    cumulative: bool
    """A stream repeats the text from its beginning in every response."""
    batched: bool
    """Shapes begin with a batch dimension of one."""
    final_apart: bool = False
    """The final flag comes in an empty response of its own."""


_ENSEMBLE = Contract(
    max_tokens="max_tokens",
    stream="stream",
    stop_words="stop_words",
    exclude_input="exclude_input_in_output",
    seed="seed",
    end_id="end_id",
    min_tokens="min_tokens",
    guide_kind="guided_decoding_guide_type",
    guide="guided_decoding_guide",
    counts=True,
    finish_reason=False,
    cumulative=False,
    batched=True,
)

CONTRACTS = {
    "ensemble": _ENSEMBLE,
    "tensorrt_llm_bls": dataclasses.replace(_ENSEMBLE, final_apart=True),
    "llmapi": Contract(
        max_tokens="sampling_param_max_tokens",
        stream="streaming",
        stop_words="sampling_param_stop",
        exclude_input="sampling_param_exclude_input_from_output",
        seed="sampling_param_seed",
        end_id=None,
        min_tokens=None,
        guide_kind=None,
        guide=None,
        counts=False,
        finish_reason=True,
        cumulative=True,
        batched=False,
    ),
}
