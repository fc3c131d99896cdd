"""What a request will cost, said before the model runs."""

import math
from dataclasses import dataclass

from tollhouse.core.catalog import Model, Weights
from tollhouse.core.openai import Request

MESSAGE_TOKENS = 4
"""What a chat template adds around one message; ChatML's is 3 to 5 tokens."""
IMAGE_TOKENS = 1024
"""Assumed for an image part until a model says better."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Predicted tokens; the prompt counts once, the output once per choice."""

    input_tokens: int
    output_tokens: int

    def units(self, weights: Weights) -> int:
        """What is reserved; nothing is assumed to be cached."""
        return self.input_tokens * weights.input + self.output_tokens * weights.output


def estimate(request: Request, model: Model) -> Estimate:
    """Predict the tokens of a judged request that fits the model.

    A cap above the model's default output is no prediction: clients name thousands
    and get hundreds. The default stands; what exceeds it is charged as it happens,
    by beats and by the settlement.
    """
    text = math.ceil(request.text_bytes / model.bytes_per_token)
    framing = request.messages * MESSAGE_TOKENS + request.images * IMAGE_TOKENS
    output = model.default_output_tokens
    if request.output_cap is not None:
        output = min(output, request.output_cap)
    return Estimate(min(text + framing, model.context), output * request.choices)
