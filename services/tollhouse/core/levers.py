"""What of a request would make the engine work past any estimate, or steer it."""

from typing import Any

from tollhouse.core.catalog import Operation
from tollhouse.core.refusal import check_within, flag, refuse, refuse_unsupported

MAX_LOGPROBS = 20
"""Most alternatives per token: OpenAI's bound for chats."""
MAX_BIASES = 1024
MAX_STOPS = 64

# Fields of vLLM, SGLang and TensorRT-LLM that a client must not have, with those of
# a prefix: they make one request cost many, past any estimate; carry a prompt that no
# estimate sees; or steer the engine (its queue, its templates, who it talks to).
_LEVERS = frozenset(
    {
        *("use_beam_search", "beam_width", "num_return_sequences", "echo"),
        *("ignore_eos", "min_tokens", "thinking_token_budget", "prompt_logprobs"),
        *("structured_outputs", "structural_tag", "regex", "ebnf", "json_schema"),
        *("prompt_embeds", "prompt_token_ids", "input_ids", "input_embeds"),
        *("documents", "image_data", "audio_data", "video_data"),
        *("chat_template", "chat_template_kwargs", "media_io_kwargs"),
        *("mm_processor_kwargs", "logits_processors", "custom_logit_processor"),
        *(
            "previous_input_messages",
            "custom_params",
            "vllm_xargs",
            "lora_path",
            "lora_request",
            "priority",
        ),
        *("request_id", "rid", "session_params", "data_parallel_rank"),
        *("kv_transfer_params", "disaggregated_params", "bootstrap_host"),
        *("bootstrap_port", "bootstrap_room"),
    }
)
_LEVER_PREFIX = "guided_"


def refuse_levers(values: dict[str, Any]) -> None:
    """Refuse those there are by name. Raises Problem."""
    for name, value in values.items():
        is_lever = name in _LEVERS or name.startswith(_LEVER_PREFIX)
        if is_lever and value not in (None, False):
            refuse_unsupported(name)


def check_sampling(operation: Operation, values: dict[str, Any]) -> None:
    """Bound what costs the engine time for each token of the output. Raises Problem."""
    if operation is Operation.COMPLETIONS:
        check_within(values, "logprobs", MAX_LOGPROBS)
    else:
        flag(values, "logprobs")
        check_within(values, "top_logprobs", MAX_LOGPROBS)
    biases = values.get("logit_bias")
    if biases is not None and not isinstance(biases, dict):
        refuse("must be an object.", "logit_bias")
    if biases is not None and len(biases) > MAX_BIASES:
        refuse(f"must have at most {MAX_BIASES} tokens.", "logit_bias")
    for name in ("stop", "stop_sequences", "stop_token_ids", "bad_words"):
        listed = values.get(name)
        if isinstance(listed, list) and len(listed) > MAX_STOPS:
            refuse(f"must have at most {MAX_STOPS} items.", name)
