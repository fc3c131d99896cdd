"""What a request will cost, said before the model runs."""

import math
from dataclasses import dataclass

from tollhouse.core.catalog import Model, Operation, Policy, Weights
from tollhouse.core.experience import Experience
from tollhouse.core.forwarding import output_cap
from tollhouse.core.request import Request

MESSAGE_TOKENS = 4
"""What a chat template adds around one message; ChatML's is 3 to 5 tokens."""
IMAGE_TOKENS = 1024
"""Assumed for an image part until a model says better."""
LEARNED_MARGIN = 1.1
"""What is reserved of the mean a model's texts have taught: half of all texts are above
it. Where nobody counts the input the mean is billed, so that no tenant pays more."""
FARTHEST = 4
"""What others teach moves a tenant that is new no farther from the catalog's output
than this factor upwards, and texts, whosever, no ratio farther either way: one tenant
may send most of a model's requests."""
LEAST_LEARNED_OUTPUT = 32
"""However short recent answers were: nobody teaches that a long one costs nothing."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Predicted tokens; the prompt counts once, the output once per choice.

    `framing` is the part of the input that is not text: chat template and images.
    `margin` is reserved beside the input.
    """

    input_tokens: int
    output_tokens: int
    framing: int
    margin: int = 0

    def units(self, weights: Weights) -> int:
        """What is reserved; nothing is assumed to be cached."""
        input_tokens = self.input_tokens + self.margin
        return input_tokens * weights.input + self.output_tokens * weights.output


def estimate(
    request: Request,
    model: Model,
    tenant: str,
    policy: Policy,
    experience: Experience,
    *,
    counted: int | None = None,
) -> Estimate:
    """Predict the tokens of a judged request that fits the model.

    `counted` is what an exact tokenizer made of the text.

    A cap far above what a model usually answers is no prediction: clients name
    thousands and get hundreds. LEARNED takes what recent answers say; what exceeds it
    is charged as it happens, by beats and by the settlement. STRICT takes all that the
    forwarded body may produce.
    """
    if counted is None:
        text, reserved = _text_tokens(request, model, tenant, experience)
    else:
        text = reserved = counted
    framing = request.messages * MESSAGE_TOKENS + request.images * IMAGE_TOKENS
    known, longest = request.prompt_tokens + framing, model.context
    if request.operation is Operation.EMBEDDINGS:
        longest *= request.messages  # each input has the context to itself
    input_tokens = min(text + known, longest)
    margin = min(reserved + known, longest) - input_tokens
    if request.operation is Operation.EMBEDDINGS:
        return Estimate(input_tokens, 0, framing, margin)
    cap = output_cap(request, model)
    output = min(model.max_output_tokens if cap is None else cap, model.context)
    if policy is Policy.LEARNED:
        most = FARTHEST * model.default_output_tokens
        learned = experience.output(tenant, model.name, most_of_others=most)
        if learned is None:
            output = min(output, model.default_output_tokens)
        else:
            output = min(output, max(learned, LEAST_LEARNED_OUTPUT))
    return Estimate(
        input_tokens=input_tokens,
        output_tokens=output * request.choices,
        framing=framing,
        margin=margin,
    )


def _text_tokens(
    request: Request, model: Model, tenant: str, experience: Experience
) -> tuple[int, int]:
    """What the text is expected to be, and what is reserved for it."""
    given = model.bytes_per_token
    learned = experience.bytes_per_token(tenant, model.name)
    if learned is None:
        tokens = math.ceil(request.text_bytes / given)
        return tokens, tokens
    ratio = min(max(learned, given / FARTHEST), given * FARTHEST)
    mean = request.text_bytes / ratio
    return math.ceil(mean), math.ceil(mean * LEARNED_MARGIN)
