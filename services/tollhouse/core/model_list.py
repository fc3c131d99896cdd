"""Models as OpenAI's API tells of them."""

from collections.abc import Mapping

import msgspec


def model_list(created: Mapping[str, int]) -> bytes:
    """The answer to GET /v1/models: name → Unix seconds the model was made at."""
    models = [_model(name, seconds) for name, seconds in created.items()]
    return msgspec.json.encode({"object": "list", "data": models})


def model_entry(name: str, created: int) -> bytes:
    """The answer to GET /v1/models/{model}."""
    return msgspec.json.encode(_model(name, created))


def _model(name: str, created: int) -> dict[str, object]:
    return {"id": name, "object": "model", "created": created, "owned_by": "tollhouse"}
