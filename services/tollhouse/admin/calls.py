"""What all calls have in common: who calls, and how what fails is said.

    INVALID_ARGUMENT     ValueError, TermsError, NotImportedError; with the fields
    NOT_FOUND            NotThereError
    ALREADY_EXISTS       TakenError
    FAILED_PRECONDITION  any other KeyringError
    UNAVAILABLE          Unavailable; the log has why
    INTERNAL             anything else: a bug; the log has it

Texts are ours: never Redis' and never a trace.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from tollhouse.adapters.redis.imports import NotImportedError
from tollhouse.adapters.redis.keyring import (
    Keyring,
    KeyringError,
    NotThereError,
    TakenError,
)
from tollhouse.admin import convert
from tollhouse.admin.tokens import Caller, Tokens
from tollhouse.core.key_terms import Fault, TermsError
from tollhouse.core.problems import Unavailable

_TOLD_EVERY_SECONDS = 10.0
_MOST_VIOLATIONS = 100
_LONGEST_WORDS = 400
"""Characters of one text: it may repeat what was sent, and goes in headers."""

Context = grpc.aio.ServicerContext[Any, Any]
_Response = TypeVar("_Response")

_log = structlog.get_logger()


class Calls:
    """Lets callers in and runs what they ask for, in a thread."""

    def __init__(self, ring: Keyring, tokens: Tokens) -> None:
        self._ring = ring
        self._tokens = tokens
        self._strangers = 0
        self._told_at = float("-inf")

    async def read(
        self, context: Context, work: Callable[[Keyring], _Response]
    ) -> _Response:
        """Run what only reads."""
        return await self._run(context, work, writes=False)

    async def write(
        self, context: Context, work: Callable[[Keyring], _Response]
    ) -> _Response:
        """Run what changes something."""
        return await self._run(context, work, writes=True)

    async def _run(
        self, context: Context, work: Callable[[Keyring], _Response], *, writes: bool
    ) -> _Response:
        caller = await self._caller(context)
        if writes and caller.reads_only:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, "this token may only read"
            )
        try:
            return await asyncio.to_thread(work, self._ring.by(caller.who))
        except TermsError as error:
            await _refuse(context, error.faults)
        except NotImportedError as error:
            await _refuse(
                context, [(f"documents[{at}]", text) for at, text in error.faults]
            )
        except ValueError as error:
            text = str(error)[:_LONGEST_WORDS]
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        except NotThereError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, error.what)
        except TakenError as error:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, error.what)
        except KeyringError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.what)
        except Unavailable as error:
            _log.warning("call.failed", who=caller.who, reason=str(error))
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, "the store does not answer"
            )
        except Exception:  # noqa: BLE001 - the boundary: a bug is INTERNAL, and logged
            _log.exception("call.failed", who=caller.who)
            await context.abort(grpc.StatusCode.INTERNAL, "failed; the log has why")

    async def _caller(self, context: Context) -> Caller:
        shown = [
            str(value)
            for name, value in context.invocation_metadata() or ()
            if name == "authorization"
        ]
        caller = self._tokens.caller(shown)
        if caller is None:
            self._note_stranger()
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "call with `authorization: Bearer <token>` and a token that is known",
            )
        return caller

    def _note_stranger(self) -> None:
        """Log at most one line in ten seconds: a flood must not fill the disk."""
        self._strangers += 1
        now = time.monotonic()
        if now - self._told_at >= _TOLD_EVERY_SECONDS:
            _log.warning("caller.refused", count=self._strangers)
            self._strangers, self._told_at = 0, now


async def _refuse(context: Context, faults: Sequence[Fault]) -> NoReturn:
    """End a call with INVALID_ARGUMENT and each field that is wrong."""
    shown = [
        (convert.api_name(field), what[:_LONGEST_WORDS])
        for field, what in faults[:_MOST_VIOLATIONS]
    ]
    text = "; ".join(f"{field}: {what}" for field, what in shown[:3])
    violations = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, description=what)
            for field, what in shown
        ]
    )
    detail = AnyMessage()
    detail.Pack(violations)
    code = grpc.StatusCode.INVALID_ARGUMENT
    status = status_pb2.Status(code=code.value[0], message=text, details=[detail])
    await context.abort(
        code,
        text,
        trailing_metadata=(("grpc-status-details-bin", status.SerializeToString()),),
    )
