"""Customers at Stripe: whether one can be billed, and a new one for a tenant."""

from hashlib import blake2b

from stripe.params import CustomerCreateParams

from tollhouse.adapters.stripe.client import Client
from tollhouse.adapters.stripe.outcome import UNREADABLE, CallError, reading
from tollhouse.core.chunk import Verdict

_ATTEMPTS = 3
_NOT_FOUND = 404
_SERVER_ERRORS = 500


class Customers:
    """The customers of one Stripe account."""

    def __init__(self, client: Client) -> None:
        self._sdk = client.sdk

    async def exists(self, customer: str) -> bool:
        """Whether there is such a customer, not deleted. Raises Unavailable."""
        try:
            with reading():
                found = await self._sdk.v1.customers.retrieve_async(customer)
                return not getattr(found, "deleted", False)
        except CallError as error:
            if error.status == _NOT_FOUND:
                return False
            failure = error.unavailable()
        raise failure

    async def create(self, tenant: str, email: str = "") -> str:
        """Create a tenant's customer; returns its id. Raises Unavailable.

        For a day it is the same customer, however often it is asked for. A failure of
        Stripe's is repeated for that long too: then the next key is tried, in the same
        order each time.
        """
        params: CustomerCreateParams = {
            "name": tenant,
            "metadata": {"tollhouse_tenant": tenant},
        }
        if email:
            params["email"] = email
        content = blake2b(f"{tenant}|{email}".encode(), digest_size=20).hexdigest()
        failed = CallError(Verdict.UNKNOWN, UNREADABLE)
        for number in range(1, _ATTEMPTS + 1):
            key = f"tollhouse-customer-{content}@{number}"
            try:
                with reading():
                    created = await self._sdk.v1.customers.create_async(
                        params, {"idempotency_key": key}
                    )
                    return created.id
            except CallError as error:
                failed = error
            if failed.status < _SERVER_ERRORS:
                break
        raise failed.unavailable()
