"""What clients learn without making a model work: no exchange, and free."""

from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from tollhouse.core.catalog import Catalog, Model, Triton
from tollhouse.core.identity import Principal, covers
from tollhouse.core.model_list import model_entry, model_list
from tollhouse.core.problems import Kind, Problem
from tollhouse.core.surface import PERMISSIONS

NAME: Final = "tollhouse"
VERSION: Final = "1"
"""Of what the gateway's server speaks for, as Triton's clients are told."""


class Pass(msgspec.Struct, frozen=True):
    """Answer the last message: forward to `cluster`, then hang up with OK.

    `path` and `body` take the place of the client's, where they are given.
    """

    cluster: str
    path: str = ""
    body: bytes | None = None


class Naming(Protocol):
    """A request's body that names a model and nothing else, not read yet."""

    def model(self) -> str:
        """The name. Raises Problem where there is none."""
        ...

    def renamed(self, name: str) -> bytes:
        """The body with this name in place of it."""
        ...


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What one caller may know of a catalog: models that one of its scopes covers."""

    catalog: Catalog
    principal: Principal

    def models(self) -> bytes:
        """All of them, as OpenAI's API lists them."""
        models = self.catalog.models.values()
        return model_list({it.name: it.created for it in models if self._knows(it)})

    def entry(self, name: str) -> bytes:
        """One, as OpenAI's API tells of it. Raises Problem."""
        model = self._model(name)
        return model_entry(model.name, model.created)

    def triton(self, name: str) -> Triton:
        """Who can tell of one in Triton's protocols. Raises Problem."""
        triton = self._model(name).triton
        if triton is None:
            raise unknown_model()
        return triton

    def _model(self, name: str) -> Model:
        model = self.catalog.models.get(name)
        if model is None or not self._knows(model):
            raise unknown_model()
        return model

    def _knows(self, model: Model) -> bool:
        return any(
            covers(self.principal, PERMISSIONS[it], model.name)
            for it in model.operations
        )


def server(path: str) -> bytes:
    """What Triton's HTTP API tells of the server; nothing of its health but a 200."""
    if path != "/v2":
        return b""
    metadata = {"name": NAME, "version": VERSION, "extensions": []}
    return msgspec.json.encode(metadata)


def unknown_model(param: str | None = None) -> Problem:
    """Not there, or not for this key: alike, so that nobody learns which."""
    return Problem(
        Kind.MODEL_NOT_FOUND,
        "The model does not exist or you do not have access to it.",
        param,
    )
