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
from collections.abc import Callable
from typing import TypeVar

import grpc
import structlog

from tollhouse.adapters.redis.imports import NotImportedError
from tollhouse.adapters.redis.keyring import (
    Keyring,
    KeyringError,
    NotThereError,
    TakenError,
)
from tollhouse.admin import convert
from tollhouse.admin.refusal import Context, refuse, refuse_fields
from tollhouse.admin.tokens import Caller, Tokens
from tollhouse.core.key_terms import TermsError
from tollhouse.core.problems import Unavailable

_TOLD_EVERY_SECONDS = 10.0

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
            faults = [(convert.api_name(field), what) for field, what in error.faults]
            await refuse_fields(context, faults)
        except NotImportedError as error:
            faults = [(f"documents[{at}]", what) for at, what in error.faults]
            await refuse_fields(context, faults)
        except ValueError as error:
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except NotThereError as error:
            await refuse(context, grpc.StatusCode.NOT_FOUND, error.what)
        except TakenError as error:
            await refuse(context, grpc.StatusCode.ALREADY_EXISTS, error.what)
        except KeyringError as error:
            await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, error.what)
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
