"""What each server that speaks OpenAI's API takes, and how it differs from the others.

Only what decides about a request is here. How such servers word their errors, all of
them in their own way, is envoy/answers.lua's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import msgspec

from tollhouse.core.catalog import Operation, Server

_NULL, _FALSE = b"null", b"false"
_DESCRIBING = frozenset(
    {
        *("metadata", "prompt_cache_key", "prompt_cache_retention"),
        *("safety_identifier", "service_tier"),
    }
)
"""OpenAI's fields that say who asks, and change no answer."""
_OFF_ANYWAY = frozenset({"store", "echo", "ignore_eos", "use_beam_search"})
"""Switches that are off wherever they are known: `false` of them says nothing."""
_GENERATING = frozenset({Operation.CHAT, Operation.COMPLETIONS})
_EVERY = _GENERATING | {Operation.EMBEDDINGS, Operation.RESPONSES, Operation.MESSAGES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """One server.

    `operations` are those it documents. `health`: a path that answers 200 while it
    can serve, None where none is known.

    `continuous_usage`: with `stream_options.continuous_usage_stats` it tells the counts
    so far on every event. `chat_cap` is the one name of a chat's output cap that counts
    there, None: both do. `single_choice`: `n` and `best_of` must be 1.

    `refused` are fields it answers with an error; of an operation in `known` so it
    does all fields but these, null ones too. It is not told of those that change no
    answer, null ones and switches that are off anyway among them: their clients have
    done nothing wrong.
    """

    operations: frozenset[Operation] = _EVERY
    health: str | None = None
    continuous_usage: bool = False
    chat_cap: str | None = None
    single_choice: bool = False
    refused: frozenset[str] = frozenset()
    known: Mapping[Operation, frozenset[str]] = field(default_factory=dict)

    def refusal(
        self, operation: Operation, fields: Mapping[str, msgspec.Raw]
    ) -> str | None:
        """The first field that the server would refuse, None where it takes all."""
        known = self.known.get(operation)
        for name, value in fields.items():
            text = bytes(value)
            if text == _NULL or (text == _FALSE and name in _OFF_ANYWAY):
                continue
            is_odd = known is not None and name not in known | _DESCRIBING
            if name in self.refused or is_odd:
                return name
        return None

    def taken(
        self, operation: Operation, fields: Mapping[str, msgspec.Raw]
    ) -> dict[str, msgspec.Raw]:
        """The fields, but for those that mean nothing and would be refused."""
        known = self.known.get(operation)
        if known is None:
            return dict(fields)
        return {name: value for name, value in fields.items() if name in known}


# OpenAI's and the samplers' that tensorrt_llm/serve/openai_protocol.py declares; what
# core.levers refuses anyway is left out.
_TRTLLM_SHARED = frozenset(
    {
        *("model", "frequency_penalty", "logit_bias", "logprobs", "n", "seed", "stop"),
        *("presence_penalty", "stream", "stream_options", "temperature", "top_p"),
        *("user", "response_format", "best_of", "top_k", "top_p_min", "min_p"),
        *("repetition_penalty", "length_penalty", "early_stopping", "stop_token_ids"),
        *("include_stop_str_in_output", "skip_special_tokens", "max_tokens"),
        *("spaces_between_special_tokens", "truncate_prompt_tokens"),
        "add_special_tokens",
    }
)

SERVERS: Final[Mapping[Server, Traits]] = MappingProxyType(
    {
        # StreamOptions and OpenAIBaseModel (extra="allow") of vllm/entrypoints/openai;
        # https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
        Server.VLLM: Traits(health="/health", continuous_usage=True),
        # "NIM LLM exposes an OpenAI-compatible inference API backed by vLLM":
        # https://docs.nvidia.com/nim/large-language-models/latest/reference/api-reference.html
        Server.NIM: Traits(health="/v1/health/ready", continuous_usage=True),
        # extra="forbid" but for responses; `suffix` has a validator that refuses it.
        # https://nvidia.github.io/TensorRT-LLM/commands/trtllm-serve/trtllm-serve.html
        Server.TRTLLM_SERVE: Traits(
            operations=_EVERY - {Operation.MESSAGES},
            health="/health",
            continuous_usage=True,
            known=MappingProxyType(
                {
                    Operation.CHAT: _TRTLLM_SHARED
                    | {
                        *("messages", "max_completion_tokens", "top_logprobs", "tools"),
                        *("tool_choice", "parallel_tool_calls", "reasoning_effort"),
                        *("thinking", "cache_salt"),
                    },
                    Operation.COMPLETIONS: _TRTLLM_SHARED | {"prompt"},
                    Operation.EMBEDDINGS: frozenset(
                        {
                            *("model", "input", "encoding_format", "dimensions"),
                            *("user", "add_special_tokens"),
                        }
                    ),
                }
            ),
        ),
        # Its validators (python/openai/openai_frontend/engine/triton_engine.py);
        # `logprobs` depends on the backend behind it, so it says so itself. The cap is
        # `max_tokens` in all its versions: another is ignored, and 16 tokens come.
        Server.TRITON_OPENAI: Traits(
            operations=_GENERATING | {Operation.EMBEDDINGS},
            health="/health/ready",
            chat_cap="max_tokens",
            single_choice=True,
            refused=frozenset({"logit_bias", "suffix"}),
        ),
        # StreamOptions of python/sglang/srt/entrypoints/openai/protocol.py;
        # https://docs.sglang.io/docs/basic_usage/openai_api
        Server.SGLANG: Traits(health="/health", continuous_usage=True),
        # Only what is OpenAI's own: it answers 400 to a stream option it doesn't know.
        Server.OTHER: Traits(),
    }
)
"""Every server that a model's `server` may name."""
