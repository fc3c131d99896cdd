"""One Triton request: what it asks for, and how its answer is sent.

Like TensorRT-LLM, the engine takes sampling parameters; being a simulation it heeds
only seed, end_id, min_tokens, max_tokens, the stop words and a guide.
"""

import hashlib
import math
import os
import pathlib
import random
import re
import time
from collections.abc import Callable

import numpy as np
import triton_python_backend_utils as pb_utils
from calls import calls_text
from contract import Contract
from guide import UnfitSchema, guided_text
from text import Detokenizer, StopWords, Trigrams, Vocabulary
from tokenizers import Tokenizer
from truth import TruthLog

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_FAULT = re.compile(r"sim_fault=(reject|midstream|crash|hang):(\w+)")

# As Triton and TensorRT-LLM word them: the text is all that reaches a client.
_REJECTIONS = {
    "length": ("Prompt length (5000) exceeds maximum input length (4096).",),
    "queue": ("Exceeds maximum queue size", "UNAVAILABLE"),
    "unhealthy": ("Stub process 'tiny-chat_0' is not healthy.", "INTERNAL"),
    "internal": ("simulated rejection", "INTERNAL"),
}


class Rejected(Exception):
    """The request can't run; `code` names a pb_utils.TritonError."""

    def __init__(self, message: str, code: str = "INVALID_ARG") -> None:
        super().__init__(message)
        self.code = code


class Engine:
    """What all requests of one model share."""

    def __init__(
        self,
        parameters: dict[str, str],
        contract: Contract,
        observe: Callable[[int, int], None],
    ) -> None:
        self.observe = observe
        file = pathlib.Path(parameters["release_dir"], "tokenizer.json")
        self.contract = contract
        self.tokenizer = Tokenizer.from_file(str(file))
        special = {
            number
            for number, token in self.tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        self.vocabulary = Vocabulary(self.tokenizer.get_vocab(), special)
        self.end = self.tokenizer.token_to_id("<|im_end|>")
        self.trigrams = Trigrams(self._documents(parameters["corpus_file"]))
        self.truth = TruthLog(parameters.get("truth_log", ""))
        self.max_seq_len = int(parameters["max_seq_len"])
        self.tokens_per_block = int(parameters["tokens_per_block"])
        self.natural_end = parameters["natural_end"] == "True"
        self.faults = parameters["faults"] == "True"
        self.decoupled = parameters["decoupled"] == "True"

    def _documents(self, path: str) -> list[list[int]]:
        """Return the corpus as answers: each begins like a turn and ends like one."""
        with pathlib.Path(path).open(encoding="utf-8") as lines:
            turns = [
                f"<|im_start|>assistant\n{line.strip()}<|im_end|>" for line in lines
            ]
        return [encoding.ids for encoding in self.tokenizer.encode_batch(turns)]

    def next_token(self, before: int, last: int, rng: random.Random) -> int:
        """Return the next token; after the end of a text another one begins."""
        token = self.trigrams.next_token(before, last, rng)
        while token == self.end and not self.natural_end:
            token = self.trigrams.next_token(-1, -1, rng)
        return token


class Generation:
    """One request in the engine; a `batcher.Sequence`."""

    def __init__(self, engine: Engine, request: object, sender: object) -> None:
        self._engine = engine
        self._contract = contract = engine.contract
        self._request = request
        self._sender = sender
        self._id = request.request_id()
        self.prompt_tokens = 0
        self.output_tokens = 0
        prompt = self._strings("text_input")
        max_tokens = self._scalar(contract.max_tokens)
        # Triton's core checks only how many inputs came, not which ones.
        if not prompt or max_tokens is None:
            raise Rejected("text_input and max_tokens are required")
        if len(prompt) != 1:
            raise Rejected("the simulator takes one text per request")
        self._prompt = prompt[0]
        tokens = engine.tokenizer.encode(self._prompt, add_special_tokens=False).ids
        self._max_tokens = int(max_tokens)
        if self._max_tokens < 1:
            raise Rejected("max_tokens must be >= 1")
        total = len(tokens) + self._max_tokens
        if total > engine.max_seq_len:
            raise Rejected(f"{total} tokens exceed max_seq_len {engine.max_seq_len}")
        kind, value = self._fault()
        if kind == "reject":
            raise Rejected(*_REJECTIONS[value])
        self.prompt_tokens = len(tokens)
        self.blocks = math.ceil(total / engine.tokens_per_block)
        self._fault_kind = kind
        self._fault_after = int(value)
        self._before, self._last = ([-1, -1, *tokens])[-2:]
        self._stream = bool(self._scalar(contract.stream))
        if self._stream and not engine.decoupled:
            raise Rejected("streaming needs a decoupled model")
        self._exclude_input = bool(self._scalar(contract.exclude_input))
        self._end_id = int(self._scalar(contract.end_id, engine.end))
        self._min_tokens = int(self._scalar(contract.min_tokens, 0))
        seed = f"{int(self._scalar(contract.seed, 0))}:{self._prompt}"
        self._rng = random.Random(hashlib.sha256(seed.encode()).digest())
        self._script = self._scripted()
        self._stops = StopWords(self._strings(contract.stop_words))
        self._detokenizer = Detokenizer(engine.vocabulary)
        self._text = ""
        self._wanted = {
            name
            for name in (
                "num_input_tokens",
                "num_output_tokens",
                "perf_metrics",
                "finish_reason",
            )
            if self._scalar(f"return_{name}")
        }
        self._outputs = frozenset(request.requested_output_names())
        self._arrival_ns = time.time_ns()
        self._scheduled_ns = self._first_ns = 0

    def _tensor(self, name: str | None) -> object:
        if name is None:
            return None
        value = pb_utils.get_input_tensor_by_name(self._request, name)
        return None if value is None else value.as_numpy().reshape(-1)

    def _scalar(self, name: str | None, default: float | None = None) -> object:
        value = self._tensor(name)
        return default if value is None else value[0]

    def _strings(self, name: str | None) -> list[str]:
        value = self._tensor(name)
        return [] if value is None else [item.decode() for item in value]

    def _scripted(self) -> list[int] | None:
        """Return an answer that no random walk finds, last token first."""
        kind = self._strings(self._contract.guide_kind)
        if kind:
            guide = "".join(self._strings(self._contract.guide))
            try:
                text = guided_text(kind[0], guide, self._rng)
            except UnfitSchema as error:
                raise Rejected(f"guided decoding: {error}") from error
        else:
            text = calls_text(self._prompt, self._rng)
        if not text:
            return None
        tokens = self._engine.tokenizer.encode(text, add_special_tokens=False).ids
        return [*tokens, self._engine.end][::-1]

    def _fault(self) -> tuple[str, str]:
        asked = _FAULT.search(self._prompt) if self._engine.faults else None
        return asked.groups() if asked else ("", "0")

    def begin(self) -> None:
        """Note that a slot was given."""
        self._scheduled_ns = time.time_ns()

    def is_cancelled(self) -> bool:
        """Ask the server whether the caller is still there."""
        return self._request.is_cancelled()

    def cancel(self) -> None:
        """Answer that the request was cancelled."""
        self._end("cancelled")
        self._refuse("request cancelled", pb_utils.TritonError.CANCELLED)

    def fail(self, error: Exception) -> None:
        """Answer that the engine broke."""
        self._end("failed")
        self._refuse(str(error), pb_utils.TritonError.INTERNAL)

    def _refuse(self, message: str, code: object) -> None:
        error = pb_utils.TritonError(message, code)
        self._sender.send(pb_utils.InferenceResponse(error=error), flags=_FINAL)

    def _end(self, outcome: str) -> None:
        self._engine.truth.write(
            self._id, self.prompt_tokens, self.output_tokens, outcome
        )

    def step(self) -> bool:
        """Generate one token; True when it was the last."""
        if self._fault_kind and self.output_tokens >= self._fault_after:
            if self._fault_kind == "crash":
                os._exit(1)
            if self._fault_kind == "hang":
                return False
            raise RuntimeError("simulated engine failure in mid-stream")
        if self._script is None:
            token = self._engine.next_token(self._before, self._last, self._rng)
        else:
            token = self._script.pop()
        self._before, self._last = self._last, token
        self.output_tokens += 1
        if not self._first_ns:
            self._first_ns = time.time_ns()
        if self._script is None:
            ended = token == self._end_id and self.output_tokens >= self._min_tokens
        else:
            ended = not self._script
        done = ended or self.output_tokens >= self._max_tokens
        delta = self._detokenizer.feed(token, last=done)
        reason = "stop" if ended else "length"
        cut = self._stops.feed(delta)
        if cut is not None:
            delta, done, reason = delta[:cut], True, "stop"
        self._text += delta
        if self._stream or done:
            self._answer(delta, reason if done else None)
        return done

    def _answer(self, delta: str, reason: str | None) -> None:
        contract = self._contract
        done = reason is not None
        if self._stream and not contract.cumulative:
            text, count = delta, 1
        else:
            text, count = self._text, self.output_tokens
            if not self._stream and not self._exclude_input:
                text = self._prompt + text
        if done:
            self._end("completed")
            self._engine.observe(self.prompt_tokens, self.output_tokens)
        response = pb_utils.InferenceResponse(
            output_tensors=self._tensors(text, count, reason)
        )
        if done and contract.final_apart:
            self._sender.send(response)
            self._sender.send(flags=_FINAL)
        else:
            self._sender.send(response, flags=_FINAL if done else 0)

    def _tensors(self, text: str, count: int, reason: str | None) -> list[object]:
        """Return the tensors that were asked for. `count` is this response's own."""
        values: list[tuple[str, object, object]] = [
            ("text_output", text.encode(), object)
        ]
        if self._contract.counts:
            if "num_input_tokens" in self._wanted:
                values.append(("num_input_tokens", self.prompt_tokens, np.int32))
            if "num_output_tokens" in self._wanted:
                values.append(("num_output_tokens", count, np.int32))
        elif "finish_reason" in self._wanted:
            values.append(("finish_reason", str(reason).encode(), object))
        if "perf_metrics" in self._wanted:
            values += [
                ("arrival_time_ns", self._arrival_ns, np.int64),
                ("first_scheduled_time_ns", self._scheduled_ns, np.int64),
                ("first_token_time_ns", self._first_ns, np.int64),
                ("last_token_time_ns", time.time_ns(), np.int64),
            ]
        shape = (1, 1) if self._contract.batched else (1,)
        return [
            pb_utils.Tensor(name, np.array([value], dtype).reshape(shape))
            for name, value, dtype in values
            if name in self._outputs
        ]
