"""What goes into the headers of a failed gRPC call."""

from urllib.parse import unquote

import pytest

from tollhouse.adapters.grpc_status import to_message_header


@pytest.mark.parametrize(
    ("message", "header"),
    [
        ("`id` must have at most 128 bytes.", "`id` must have at most 128 bytes."),
        ("a\r\nb\0c", "a%0D%0Ab%00c"),
        ("%41", "%2541"),
        ("\x7fé", "%7F%C3%A9"),
    ],
)
def test_a_message_is_one_header(message, header):
    """Only printable ASCII goes as it is, and what is read is what was meant."""
    assert header == to_message_header(message)
    assert message == unquote(header)
