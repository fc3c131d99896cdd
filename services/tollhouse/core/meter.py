"""Meters: under which name the provider counts a model's tokens, and what they cost.

One meter per model and billed token type: Stripe's meters have no dimensions.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b

from tollhouse.core.catalog import Catalog, Model, Prices
from tollhouse.core.limits import MONEY
from tollhouse.core.windows import BILLED, TokenType

PREFIX = "tollhouse"

_MILLION = 1_000_000
_LONGEST_MODEL = 64
_ODD = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class Meter:
    """What one token type of one model is counted and priced by.

    `price`: of the currency per million tokens; 0 is free.
    """

    model: str
    token_type: TokenType
    event_name: str
    price: Decimal


def event_name(model: str, token_type: TokenType) -> str:
    """The meter's name at the provider, at most 100 characters of `[A-Za-z0-9._-]`.

    Models have longer names and odder ones: what is lost of a name comes back as a
    digest, so that no two models share a meter.
    """
    plain = _ODD.sub("_", model)
    if plain != model or len(plain) > _LONGEST_MODEL:
        digest = blake2b(model.encode(), digest_size=4).hexdigest()
        plain = f"{plain[:_LONGEST_MODEL]}-{digest}"
    return f"{PREFIX}.{plain}.{token_type.value}"


def meters(catalog: Catalog) -> list[Meter]:
    """List every meter of the catalog, by model."""
    return [
        Meter(model.name, token_type, event_name(model.name, token_type), price)
        for model in catalog.models.values()
        for token_type, price in prices(model).items()
    ]


def prices(model: Model) -> dict[TokenType, Decimal]:
    """What a million tokens of each billed type cost, in the catalog's currency."""
    return {it: per_million(model.prices, it) for it in BILLED}


def per_million(priced: Prices, token_type: TokenType) -> Decimal:
    """Price of a million tokens of a billed type; exact."""
    per_token = {
        TokenType.UNCACHED_INPUT: priced.input,
        TokenType.CACHED_INPUT: priced.cached_input,
        TokenType.OUTPUT: priced.output,
    }[token_type]
    return Decimal(per_token) * _MILLION / MONEY
