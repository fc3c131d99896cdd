"""The attack table: every row, family by family."""

from tests.e2e.attacks.row import Row
from tests.e2e.attacks.rows import (
    admin,
    authorization,
    documents,
    floods,
    headers,
    hosts,
    levers,
    logs,
    media,
    methods,
    models,
    numbers,
    outages,
    paths,
    smuggling,
    triton,
    uploads,
)

FAMILIES = {
    "header": "Headers that claim to be ours",
    "authorization": "Credentials that are none",
    "path": "Paths",
    "method": "Methods, upgrades, tunnels",
    "host": "Hosts",
    "smuggling": "Request smuggling",
    "body": "Bodies: size, time, coding",
    "json": "JSON",
    "number": "Numbers",
    "lever": "Cost levers",
    "ssrf": "Media a backend would fetch",
    "model": "Models",
    "triton": "Control planes over HTTP",
    "grpc": "Control planes and services over gRPC",
    "admin": "Envoy's admin",
    "log": "Log injection",
    "flood": "HTTP/2 abuse",
    "outage": "Parts of ours away",
}
"""What a family is called, in the table's order."""

TABLE: list[Row] = [
    *headers.ROWS,
    *authorization.ROWS,
    *paths.ROWS,
    *methods.ROWS,
    *hosts.ROWS,
    *smuggling.ROWS,
    *uploads.ROWS,
    *documents.ROWS,
    *numbers.ROWS,
    *levers.ROWS,
    *media.ROWS,
    *models.ROWS,
    *triton.ROWS,
    *admin.ROWS,
    *logs.ROWS,
    *floods.ROWS,
    *outages.ROWS,
]
