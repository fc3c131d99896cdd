"""Inference requests: what they cost, and what they must not ask for."""

import pytest

from tests.unit.core.test_admission import model
from tollhouse.core.catalog import Operation, Triton
from tollhouse.core.infer import Rewrite, infer_request, rewrite
from tollhouse.core.problems import Kind, Problem, ProtocolError

TEXT = {"text_input": (b"four",)}


def request(**tensors):
    return infer_request("tiny", TEXT | tensors, ())


def refused(*args):
    with pytest.raises(Problem) as caught:
        infer_request(*args)
    return caught.value


def served(**changes):
    triton = Triton("g", "h", "repository-name")
    return model("tiny", Operation.INFER, triton=triton, **changes)


def test_a_text_and_its_cap_are_what_it_costs():
    found = request(max_tokens=(7,))

    assert (Operation.INFER, "tiny", 4, 1, 7) == (
        found.operation,
        found.model,
        found.text_bytes,
        found.choices,
        found.output_cap,
    )


def test_a_batch_costs_all_its_texts():
    """Each has an answer as long as the largest cap."""
    found = infer_request(
        "tiny", {"text_input": (b"four", b"eleven"), "max_tokens": (7, 9)}, ()
    )

    assert (10, 2, 9) == (found.text_bytes, found.choices, found.output_cap)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("beam_width", (2,)),
        ("num_return_sequences", (1, 2)),
        ("num_return_sequences", (-1,)),
        ("sampling_param_best_of", (b"2",)),
        ("min_tokens", (1,)),
        ("lora_weights", (b"unread",)),
        ("lora_path", (b"/etc",)),
        ("image_url_input", (b"http://inside",)),
        ("prompt_embedding_table", (b"unread",)),
        ("return_context_logits", (True,)),
        ("stop", (True,)),
        ("lora_task_id", (3,)),
        ("lora_task_id", (0,)),
        ("input_ids", (0, 0)),
        ("guided_decoding_guide_type", (b"regex",)),
        ("guided_decoding_guide_type", (b"json", b"ebnf_grammar")),
        ("guided_decoding_guide_type", (b"unread",)),
    ],
)
def test_levers_are_refused_by_name(name, values):
    """They make one request cost many, or read what is not the client's."""
    problem = refused("tiny", TEXT | {name: values}, ())

    assert (Kind.UNSUPPORTED, name) == (problem.kind, problem.param)


def test_other_parameters_pass():
    """An empty final response, say."""
    found = infer_request("tiny", TEXT, ("triton_enable_empty_final_response",))

    assert 4 == found.text_bytes


def test_a_lever_that_asks_for_nothing_passes():
    """Clients of TensorRT-LLM send them all."""
    found = request(
        beam_width=(1,),
        min_tokens=(0,),
        return_context_logits=(False,),
        stop_words=(),
        lora_task_id=(),
        guided_decoding_guide_type=(b"json", b"json_schema"),
        embedding_bias_words=(b"x",) * 1024,
    )

    assert 4 == found.text_bytes


@pytest.mark.parametrize(
    ("parameters", "of_tensors", "name"),
    [
        (("priority",), (), "priority"),
        (("timeout",), (), "timeout"),
        ((), ("shared_memory_region",), "shared_memory_region"),
        (("shared_memory_offset",), (), "shared_memory_offset"),
    ],
)
def test_the_engines_queue_and_memory_are_not_the_clients(parameters, of_tensors, name):
    problem = refused("tiny", TEXT, parameters, of_tensors)

    assert (Kind.UNSUPPORTED, name) == (problem.kind, problem.param)


def test_an_output_has_no_parameters():
    """`classification` would make strings of the counts."""
    with pytest.raises(Problem) as caught:
        infer_request("tiny", TEXT, (), of_outputs=("classification",))

    assert (Kind.UNSUPPORTED, "classification") == (
        caught.value.kind,
        caught.value.param,
    )


@pytest.mark.parametrize(
    ("tensors", "param"),
    [
        ({}, "text_input"),
        ({"text_input": ()}, "text_input"),
        ({"text_input": (1,)}, "text_input"),
        ({"text_input": (b"x",) * 17}, "text_input"),
        (TEXT | {"max_tokens": (0,)}, "max_tokens"),
        (TEXT | {"max_tokens": (2**31,)}, "max_tokens"),
        (TEXT | {"max_tokens": (1.5,)}, "max_tokens"),
        (TEXT | {"max_tokens": (True,)}, "max_tokens"),
        (TEXT | {"stop_words": (b"x",) * 65}, "stop_words"),
        (TEXT | {"embedding_bias_words": (b"x",) * 1025}, "embedding_bias_words"),
    ],
)
def test_what_is_wrong_is_named(tensors, param):
    problem = refused("tiny", tensors, ())

    assert (Kind.INVALID_REQUEST, param) == (problem.kind, problem.param)


def test_the_backend_gets_its_own_name_a_cap_and_asks_for_counts():
    found = rewrite(request(), served())

    assert Rewrite("repository-name", 256) == found
    assert [
        ("max_tokens", "INT32", 256),
        ("return_num_input_tokens", "BOOL", 1),
        ("return_num_output_tokens", "BOOL", 1),
    ] == list(found.inputs)


def test_a_clients_own_cap_stays():
    assert None is rewrite(request(max_tokens=(3,)), served()).output_cap


def test_a_model_without_triton_serves_no_inference():
    with pytest.raises(ProtocolError):
        rewrite(request(), model("tiny", Operation.INFER))
