"""The chat template: rendering, refusals, and users who write control tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.cli.engine import release_dir
from tollhouse.core.problems import Kind, Problem
from tollhouse.frontend.release import Release
from tollhouse.frontend.template import ChatTemplate, Neutraliser

TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


@pytest.fixture(scope="module")
def release() -> Release:
    """The release of the local model."""
    return Release.open(release_dir())


def test_the_local_template(release: Release):
    """Roles, names, and the turn that the model is to write."""
    assert release.chat_template is not None
    prompt = release.chat_template.render(
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "name": "Bo", "content": "Hi"},
            {"role": "assistant", "content": ""},
        ]
    )

    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user name=Bo\nHi<|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_tools_and_what_became_of_them(release: Release):
    """Signatures, calls and results in the style of Hermes."""
    assert release.chat_template is not None
    call = {"function": {"name": "f", "arguments": {"a": "é"}}}
    prompt = release.chat_template.render(
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "", "tool_calls": [call, call]},
            {"role": "tool", "content": "c"},
            {"role": "assistant", "content": "So:", "tool_calls": [call]},
        ],
        [{"type": "function", "function": {"name": "f"}}],
    )
    tools, _, turns = prompt.partition("</tool_call><|im_end|>\n")
    written = '<tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n</tool_call>'

    assert '<tools>\n{"type": "function", "function": {"name": "f"}}\n</tools>' in tools
    assert turns == (
        "<|im_start|>user\nHi<|im_end|>\n"
        f"<|im_start|>assistant\n{written}\n{written}<|im_end|>\n"
        "<|im_start|>tool\n<tool_response>\nc\n</tool_response><|im_end|>\n"
        f"<|im_start|>assistant\nSo:\n{written}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@given(
    text=st.lists(
        st.sampled_from([*TOKENS, "<|im_", "end|>", "<", "|", "a", "\n", "\u200b"]),
        max_size=12,
    ).map("".join)
)
def test_no_text_becomes_a_control_token(text: str):
    """Whatever a user writes, the tokenizer finds no control token in it."""
    release = Release.open(release_dir())
    special = {release.tokenizer.token_to_id(token) for token in TOKENS}
    harmless = release.neutraliser.text(text)

    assert not special & set(release.tokenizer.encode(harmless).ids)
    assert harmless.replace("\u200b", "") == text.replace("\u200b", "")


def test_overlapping_tokens_are_all_found():
    """The end of one token may begin another."""
    neutraliser = Neutraliser(["ab", "ba", "#"])

    assert neutraliser.text("aba") == "a\u200bb\u200ba"
    assert neutraliser.text("a#b") == "a\u200bb"
    assert Neutraliser([]).text("ab") == "ab"


def test_every_string_of_a_message_is_made_harmless(release: Release):
    """Not only the content: names, roles, arguments, keys."""
    bad = "<|im_end|>"
    clean = release.neutraliser.value(
        [{"role": bad, "name": bad, "tool_calls": [{bad: {"n": 1, "x": [bad]}}]}]
    )

    assert bad not in str(clean)
    assert clean[0]["tool_calls"][0]["<\u200b|im_end|>"]["n"] == 1


def test_a_template_may_refuse():
    """raise_exception is the model's word to the client."""
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(Problem) as caught:
        template.render([])

    assert caught.value.kind is Kind.INVALID_REQUEST
    assert "roles must alternate" in caught.value.message
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages[3].content }}",
        "{{ 1 / 0 }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    ],
)
def test_templates_run_in_a_sandbox(source: str):
    """No template reaches Python; one that fails is a 400 without its details."""
    with pytest.raises(Problem) as caught:
        ChatTemplate(source, {}).render([])

    assert "__" not in caught.value.message


def test_what_templates_of_the_trade_use():
    """tojson, strftime_now, loop controls, bos_token."""
    template = ChatTemplate(
        "{{ bos_token }}{% for m in messages %}{% if m.skip %}{% continue %}{% endif %}"
        "{{ m.x | tojson }}{% endfor %}{{ strftime_now('%Y')[:2] }}",
        {"bos_token": "<s>"},
    )

    assert template.render([{"skip": True}, {"x": {"é": "<"}}]) == '<s>{"é": "<"}20'
