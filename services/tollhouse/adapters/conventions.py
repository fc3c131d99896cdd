"""Names of attributes and metrics that others define, and our own beside them.

GenAI names are those of OpenTelemetry's semantic conventions 1.41.1, the last release
that has them in the main repository; they are in development, so this is the one place
to change when they do (https://opentelemetry.io/docs/specs/semconv/gen-ai/).
"""

from collections.abc import Mapping
from typing import Final

from tollhouse.core.catalog import Operation

ERROR_TYPE: Final = "error.type"

OPERATION: Final = "gen_ai.operation.name"
_OPERATION_NAMES: Final[Mapping[str, str]] = {
    Operation.COMPLETIONS: "text_completion",
    Operation.RESPONSES: "chat",
    Operation.MESSAGES: "chat",
}
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
FIRST_CHUNK_SECONDS: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - of a model, not a secret

REQUEST_DURATION: Final = "gen_ai.server.request.duration"
TIME_TO_FIRST_TOKEN: Final = "gen_ai.server.time_to_first_token"  # noqa: S105
TIME_PER_OUTPUT_TOKEN: Final = "gen_ai.server.time_per_output_token"  # noqa: S105
TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105

DB_SYSTEM: Final = "db.system.name"
DB_OPERATION: Final = "db.operation.name"

EXCHANGE: Final = "tollhouse.exchange"
TENANT: Final = "tollhouse.tenant"
KEY_ID: Final = "tollhouse.key_id"
PLAN: Final = "tollhouse.plan"
OUTCOME: Final = "tollhouse.outcome"
DECISION: Final = "tollhouse.decision"
VERDICT: Final = "tollhouse.verdict"
LIMIT: Final = "tollhouse.limit"
RUNG: Final = "tollhouse.rung"
ESTIMATED_INPUT_TOKENS: Final = "tollhouse.estimate.input_tokens"
ESTIMATED_OUTPUT_TOKENS: Final = "tollhouse.estimate.output_tokens"
RESERVED_UNITS: Final = "tollhouse.units.reserved"
USED_UNITS: Final = "tollhouse.units.used"
USAGE_KIND: Final = "tollhouse.usage.kind"
SCRIPT: Final = "tollhouse.script"
SLOT: Final = "tollhouse.slot"
CHUNK: Final = "tollhouse.chunk"
CHUNK_TOKENS: Final = "tollhouse.chunk.tokens"
CHUNK_ATTEMPT: Final = "tollhouse.chunk.attempt"
BILLING_PROVIDER: Final = "tollhouse.billing.provider"
RECORD: Final = "tollhouse.record"
RECORDS: Final = "tollhouse.records"
DUPLICATES: Final = "tollhouse.records.duplicate"
REJECTED: Final = "tollhouse.records.rejected"
REQUESTS: Final = "tollhouse.requests"
PROBLEM: Final = "tollhouse.problem"
HELD_SECONDS: Final = "tollhouse.held_seconds"


def operation_name(operation: str) -> str:
    """`gen_ai.operation.name` of an operation: ours, where they have no other."""
    return _OPERATION_NAMES.get(operation, operation)
