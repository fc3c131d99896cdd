"""What is too large, broken or not ours passes as it came."""

import pytest

from tests.unit.meter import corpus
from tests.unit.meter.lua_meter import lua, metered, metered_json, module

_USAGE = corpus.joined([corpus.event(corpus.usage_only(2)), corpus.event("[DONE]")])


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 999, 65_000, 1_000_000])
def test_event_over_the_bound(size, newline, strip):
    """An event of any size passes unbroken; the next one is read again."""
    large = newline.join([b"id: 1", b"data: {" + b"x" * 200_000, b"data: }"])
    stream = large + newline * 2 + _USAGE
    pieces = [stream[i : i + size] for i in range(0, len(stream), size)]

    got = metered(pieces, strip=strip)

    done = corpus.joined([corpus.event("[DONE]")])
    assert got.forwarded == (large + newline * 2 + done if strip else stream)
    assert got.usage == (
        f"sse,2,0,1,412,2,128,3,0,0,DF{'O' if size < len(large) else ''},0"
    )


def test_held_bytes_are_bounded():
    """Bytes of an endless line are not collected."""
    meter = module[b"new"](b"sse", True)
    forwarded = 0
    for _ in range(10_000):
        replacement = module[b"feed"](meter, b"x" * 1000)
        forwarded += 1000 if replacement is None else len(replacement)

    assert forwarded >= 10_000_000 - 65_536


def test_memory_is_flat():
    """A stream of 100,000 events costs no memory that stays."""
    heap = lua.eval(b'function() collectgarbage() return collectgarbage("count") end')
    meter = module[b"new"](b"sse", True)
    event = b": usage 412,%d,128\ndata: "
    event += b'{"choices":[{"index":0,"delta":{"content":"t%d"}}]}\n\n'
    module[b"feed"](meter, event % (0, 0))
    before = heap()

    for number in range(100_000):
        module[b"feed"](meter, event % (number, number))

    usage = b"sse,100001,100001,100001,412,99999,128,-,0,0,,0"
    assert module[b"pack"](meter, False) == usage
    assert heap() - before < 256  # KiB


def test_shapes_that_keep_changing_are_not_collected():
    """A backend with a new shape for each event fills no table."""
    heap = lua.eval(b'function() collectgarbage() return collectgarbage("count") end')
    meter = module[b"new"](b"sse", True)
    before = heap()

    for number in range(20_000):
        payload = b'{"id":%d,"choices":[{"text":"t"}],"created":%d}' % (number, number)
        module[b"feed"](meter, b"data: " + payload + b"\n\n")

    assert module[b"pack"](meter, False).startswith(b"sse,20000,20000,")
    assert heap() - before < 512  # KiB


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"{}}}}}",
        b'{"choices":[{"delta":{"content":"',
        b'{"choices":[{"delta":{"content":"\\',
        b'{"choices":[{"index":"x","delta":{}}]',
        b'{"choices":{},"usage":[]}',
        b'{"usage":{"prompt_tokens":-1}}',
        b'{"choices"',
        b"{\xff\xfe\x00",
    ],
)
def test_broken_payload(payload):
    """A payload that is not what it should be passes, and ends with its event."""
    stream = b"data: " + payload + b"\n\n" + _USAGE

    got = metered([stream], strip=True)

    assert got.forwarded == b"data: " + payload + b"\n\ndata: [DONE]\n\n"
    assert got.usage.startswith("sse,2,")
    assert got.usage.endswith(",412,2,128,3,0,0,DF,0")


@pytest.mark.parametrize(
    "document",
    [
        b"", b"null", b"[]", b"{", b"}}}}", b'"', b"\\",
        b'{"usage":null}', b'{"usage":5}',
        b'{"usage":[{"prompt_tokens":1}]}', b'[{"usage":{"prompt_tokens":1}}]',
        b'{"a":"usage","b":{"prompt_tokens":1}}', b'{"error":null}',
    ],
)  # fmt: skip
def test_document_without_usage(document):
    """A JSON answer that names no usage has none, whatever it holds."""
    assert metered_json([document]) == "json,0,0,0,-,-,-,-,0,0,F,0"


def test_usage_object_over_the_bound():
    """A usage object that never ends is not collected."""
    document = b'{"usage":{"prompt_tokens":1,"x":[' + b"1," * 5000 + b"1]}}"
    pieces = [document[i : i + 700] for i in range(0, len(document), 700)]

    assert metered_json(pieces) == "json,0,0,0,-,-,-,-,0,0,FO,0"


def test_choice_over_the_bound():
    """A choice index out of reason does not grow the counts, and says so."""
    stream = corpus.joined([corpus.event(corpus.chunk("a", index=10**9))])

    got = metered([stream]).usage

    assert got == f"sse,1,{':'.join(['0'] * 127 + ['1'])},0,-,-,-,-,0,0,FO,0"


def test_byte_order_mark():
    """A byte order mark before the first field is no part of it."""
    stream = b"\xef\xbb\xbf" + corpus.joined([corpus.event(corpus.chunk("a"))])

    got = metered([stream])

    assert (got.forwarded, got.usage[:8]) == (stream, "sse,1,1,")


@pytest.mark.parametrize("place", range(1, 40, 3))
def test_rescue_after_an_error(place):
    """If the script fails, the client still gets every byte."""
    stream = corpus.joined([corpus.event(corpus.chunk("a")), *corpus.commented()])
    first, second = stream[:place], stream[place:]
    meter = module[b"new"](b"sse", True)
    forwarded = module[b"feed"](meter, first)
    forwarded = first if forwarded is None else forwarded
    meter[b"counts"] = None  # any error will do

    failed = lua.eval(b"function(f, m, s) return not pcall(f, m, s) end")(
        module[b"feed"], meter, second
    )

    assert failed
    assert forwarded + module[b"rescue"](meter, second) == stream
    assert module[b"pack"](
        lua.table_from({**dict(meter.items()), b"counts": lua.table()}), False
    ).endswith(b"E,0")
