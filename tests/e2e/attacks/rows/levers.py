"""Fields that make one request cost what many do, or steer the engine behind it."""

from typing import Any

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.row import INVALID, PASSES, UNSUPPORTED, rows
from tests.e2e.attacks.rows.bodies import chat, has, prompt

_LEVER = "extproc refuses it by name"
_BOUND = "extproc bounds it as OpenAI does"
_LEVERS: list[tuple[int, str, dict[str, Any]]] = [
    (1, "beam search", {"use_beam_search": True}),
    (2, "a beam width", {"beam_width": 64}),
    (3, "sequences beside n", {"num_return_sequences": 64}),
    (4, "an answer that may not end", {"ignore_eos": True}),
    (5, "a least length", {"min_tokens": 4096}),
    (6, "probabilities of the whole prompt", {"prompt_logprobs": 20}),
    (7, "an adapter from a path", {"lora_path": "/evil"}),
    (8, "a place at the front of the engine's queue", {"priority": -1000}),
    (9, "a grammar to compile", {"guided_grammar": "root ::= root root"}),
    (10, "a regular expression to compile", {"guided_regex": "(a*)*b"}),
    (11, "a schema to compile, vLLM's way", {"guided_json": {}}),
    (12, "choices to compile", {"guided_choice": ["a"]}),
    (13, "another decoder", {"guided_decoding_backend": "evil"}),
    (14, "a structure to compile", {"structured_outputs": {"regex": "(a*)*b"}}),
    (15, "a chat template of the client's", {"chat_template": "{{ ''.__class__ }}"}),
    (16, "values for the chat template", {"chat_template_kwargs": {"evil": 1}}),
    (17, "a budget of thoughts", {"thinking_token_budget": 100_000}),
    (18, "a prompt of vectors, which no estimate sees", {"prompt_embeds": "AAAA"}),
    (19, "a prompt of tokens, which no estimate sees", {"prompt_token_ids": [1] * 100}),
    (
        20,
        "arguments of the media loader",
        {"media_io_kwargs": {"video": {"num_frames": -1}}},
    ),
    (21, "arguments of the image processor", {"mm_processor_kwargs": {"x": 1}}),
    (
        22,
        "a transfer of the cache",
        {"kv_transfer_params": {"remote_host": "169.254.169.254"}},
    ),
    (23, "arguments of engine extensions", {"vllm_xargs": {"x": 1}}),
    (24, "a peer for the engine to talk to", {"bootstrap_host": "169.254.169.254"}),
    (25, "a processor of logits from a module", {"logits_processors": ["os.system"]}),
    (26, "documents beside the messages", {"documents": [{"text": "x" * 100}]}),
    (27, "another id for the engine", {"request_id": "evil"}),
    (28, "regular expressions, SGLang's way", {"regex": "(a*)*b"}),
    (29, "a grammar, SGLang's way", {"ebnf": "root ::= root root"}),
]

ROWS = [
    *rows(
        "lever",
        [
            (at, what, _LEVER, ask(body=chat(**it)), UNSUPPORTED)
            for at, what, it in _LEVERS
        ],
    ),
    *rows(
        "lever",
        [
            (
                40,
                "echo of the prompt",
                _LEVER,
                ask(words.COMPLETIONS, body=prompt(echo=True)),
                UNSUPPORTED,
            ),
            (
                41,
                "probabilities of every token",
                _BOUND,
                ask(words.COMPLETIONS, body=prompt(logprobs=100_000)),
                INVALID,
            ),
            (
                42,
                "all probabilities (-1)",
                _BOUND,
                ask(words.COMPLETIONS, body=prompt(logprobs=-1)),
                INVALID,
            ),
            (
                43,
                "probabilities of every token, in a chat",
                _BOUND,
                ask(body=chat(logprobs=True, top_logprobs=100_000)),
                INVALID,
            ),
            (
                44,
                "a number where a chat has true",
                _BOUND,
                ask(body=chat(logprobs=100_000)),
                INVALID,
            ),
            (
                45,
                "a bias on every token",
                _BOUND,
                ask(body=chat(logit_bias={str(it): 1 for it in range(2_000)})),
                INVALID,
            ),
            (
                46,
                "a bias that is none",
                _BOUND,
                ask(body=chat(logit_bias=[1])),
                INVALID,
            ),
            (
                47,
                "a thousand stop strings",
                _BOUND,
                ask(body=chat(stop=["a"] * 1_000)),
                INVALID,
            ),
            (
                48,
                "stop token ids without end",
                _BOUND,
                ask(body=chat(stop_token_ids=list(range(2_000)))),
                INVALID,
            ),
            (
                49,
                "many prompts in one",
                "extproc: one prompt",
                ask(words.COMPLETIONS, body=prompt(prompt=["a"] * 1_000)),
                INVALID,
            ),
            (
                50,
                "a prompt of token ids",
                "extproc: one text",
                ask(words.COMPLETIONS, body=prompt(prompt=[1, 2, 3])),
                INVALID,
            ),
            (
                51,
                "no usage, to pay nothing",
                "extproc asks for it, the meter takes it out",
                ask(body=chat(stream=True, stream_options={"include_usage": False})),
                PASSES,
                has(stream_options={"include_usage": True}),
            ),
            (
                52,
                "a lever that is off",
                "null and false ask for nothing",
                ask(body=chat(ignore_eos=False, use_beam_search=None)),
                PASSES,
                has(model="tiny-chat"),
            ),
        ],
    ),
]
