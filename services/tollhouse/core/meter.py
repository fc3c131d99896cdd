"""Meters: under which name the provider counts a model's tokens, and what they cost.

One meter per deployment, model and billed token type: Stripe's meters have no
dimensions. What a customer has of a meter in a minute is all that tells whether a chunk
arrived, so gateways that share an account never share a meter.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b

from tollhouse.core.catalog import Catalog, Model, Prices
from tollhouse.core.limits import MONEY
from tollhouse.core.windows import BILLED, TokenType

DEPLOYMENT = "tollhouse"
"""Of a gateway that was given no name."""
DEPLOYMENT_NAME = "^[a-z0-9][a-z0-9-]{0,62}$"
"""No dot: what precedes the first one in a meter's name is the deployment."""

LONGEST_NAME = 100
"""Characters that Stripe takes for an event's name."""

_MILLION = 1_000_000
_LONGEST_MODEL = 64
_LONGEST_TYPE = max(map(len, TokenType))
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
    deployment: str = DEPLOYMENT


def event_name(model: str, token_type: TokenType, deployment: str = DEPLOYMENT) -> str:
    """The meter's name at the provider, at most 100 characters of `[A-Za-z0-9._-]`.

    Models have longer names and odder ones, and a long deployment leaves them less
    room: what is lost of a name comes back as a digest, so that no two models share a
    meter.
    """
    room = LONGEST_NAME - len(f"{deployment}..") - _LONGEST_TYPE
    plain = shortened(model, _ODD.sub("_", model), room)
    return f"{deployment}.{plain}.{token_type.value}"


def shortened(name: str, plain: str, room: int) -> str:
    """`plain`, what may be written of a name, in at most `room` characters.

    With a digest of the name where that is not all of it.
    """
    digest = "-" + blake2b(name.encode(), digest_size=4).hexdigest()
    longest = min(_LONGEST_MODEL, room - len(digest))
    if plain == name and len(plain) <= longest:
        return plain
    return plain[:longest] + digest


def meters(catalog: Catalog, deployment: str = DEPLOYMENT) -> list[Meter]:
    """List every meter of the catalog, by model."""
    return [
        Meter(
            model.name,
            token_type,
            event_name(model.name, token_type, deployment),
            price,
            deployment,
        )
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
