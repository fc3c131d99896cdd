"""What docs/security.md says is what the rows say; quick, without an Envoy."""

from tritonclient.grpc import service_pb2

from tests.e2e.attacks.document import DOCUMENT, written
from tests.e2e.attacks.rows.triton import RPCS
from tests.e2e.attacks.table import FAMILIES, TABLE


def test_the_table_in_the_document_is_that_of_the_rows():
    """After an edit of a row: make attacks."""
    text = DOCUMENT.read_text()

    assert text == written(text)


def test_every_rpc_of_triton_is_a_row():
    """A newer Triton's new RPC gets a row of its own."""
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    assert {it.name for it in service.methods} == set(RPCS)


def test_ids_are_unique_and_families_named():
    """An id names one row for ever; docs/security.md has its family."""
    assert len({row.id for row in TABLE}) == len(TABLE) >= 150
    assert {row.family for row in TABLE} == FAMILIES.keys()
