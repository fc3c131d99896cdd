"""What docs/clients.md shows works, and what each client is told is what is billed."""

from collections import Counter
from dataclasses import dataclass

import pytest

from tests.e2e.clients.page import ENVIRONMENT, blocks
from tests.e2e.main.books import rest, settlements, usage
from tollhouse.core.usage import CountSource, UsageKind


@dataclass(frozen=True)
class Program:
    """One block: the operation of each exchange it makes, and what it has to print."""

    operations: tuple[str, ...]
    prints: tuple[str, ...] = ()


PROGRAMS = {
    "openai_chat.py": Program(("chat",), ("['tiny-chat']",)),
    "openai_stream.py": Program(("chat",)),
    "openai_async.py": Program(("chat",) * 3),
    "openai_tools.py": Program(("chat",) * 2, ("tool_calls", "get_toll(wheels=")),
    "openai_parse.py": Program(("chat",), ("Wagon c",)),
    "openai_responses.py": Program(("responses",) * 2),
    "openai_stream.mjs": Program(("chat", "responses"), ("404 model_not_found",)),
    "langchain_chat.py": Program(("chat",) * 2),
    "langchain_tools.py": Program(("chat",) * 3, ("('get_toll', '", "Wagon c")),
    "llm.sh": Program(("chat",) * 2, ('"wheels":',)),
    "anthropic_messages.py": Program(("messages",) * 2, ("404 not_found_error",)),
    "curl_chat.sh": Program(("chat",), ("data: [DONE]",)),
    "triton_stream.py": Program(("infer",), ("1: ", "2: ")),
    "triton_asyncio.py": Program(("infer",)),
    "triton_generate.sh": Program(("infer",), ('"text_output":',)),
}
AT_A_LIMIT = "openai_errors.py"


def test_every_block_of_the_page_is_run():
    """What is not run may be wrong."""
    assert {ENVIRONMENT, AT_A_LIMIT, *PROGRAMS} == blocks().keys()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_works_and_is_billed_for_what_it_was_told(run, name):
    """One record for each exchange, with the operation, the model and the counts."""
    program = PROGRAMS[name]

    ran = run(name, exchanges=len(program.operations))

    assert [] == [it for it in program.prints if it not in ran.output], ran.output
    check(ran, program.operations)


def test_errors_are_the_sdks_own_and_cost_nothing(run, make_key):
    """With a key that may ask once a minute: the second time it is told to wait."""
    key = make_key("hurried", "tight")

    ran = run(AT_A_LIMIT, exchanges=1, tenant="hurried", TOLLHOUSE_KEY=key)

    lines = ran.output.splitlines()
    assert ["401 invalid_api_key", "404 model_not_found", "400 n"] == lines[:3]
    assert "left: 0 requests" == lines[3]
    assert "429 rate_limit_exceeded" == lines[5]
    assert 50 <= int(lines[6].split()[2]) <= 60
    check(ran, ("chat",))


def test_the_bill_is_the_sum_of_all(stack, run):
    """Each exchange, of the programs above too, arrived at billing, once."""
    run("curl_chat.sh", exchanges=1)
    rest(stack)

    for tenant in ("demo", "hurried"):
        ended = settlements(stack.state_dir, tenant).values()
        billed = usage(stack, tenant)
        assert len(ended) == billed["final"]
        assert sum(it.usage.input_tokens for it in ended) == billed["input_tokens"]
        assert sum(it.usage.output_tokens for it in ended) == billed["output_tokens"]


def check(ran, operations):
    assert Counter(operations) == Counter(it.facts.operation for it in ran.exchanges)
    assert {"tiny-chat"} == {it.facts.requested_model for it in ran.exchanges}
    assert {UsageKind.FINAL} == {it.kind for it in ran.exchanges}
    assert {(CountSource.BACKEND, CountSource.BACKEND)} == {
        (it.input_source, it.output_source) for it in ran.exchanges
    }
    counted = [(it.usage.input_tokens, it.usage.output_tokens) for it in ran.exchanges]
    assert sorted(counted) == sorted(ran.told), ran.output
    assert all(min(pair) > 0 for pair in counted)
