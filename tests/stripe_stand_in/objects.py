"""Stripe's objects by id, and lists of them in pages."""

from collections.abc import Callable, Iterable
from typing import Any

from tests.stripe_stand_in.journal import Journal
from tests.stripe_stand_in.refusals import malformed, missing

Object = dict[str, Any]
_PREFIXES = {
    "billing.meter": "mtr_test_",
    "customer": "cus_",
    "product": "prod_",
    "price": "price_",
}
_MOST_A_PAGE = 100
_A_PAGE = 10


class Objects:
    """Every meter, customer, product and price, in order of creation."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._objects: dict[str, Object] = {}

    def load(self, made: Object) -> None:
        """Take one from the state file."""
        self._objects[made["id"]] = made

    def save(self, made: Object) -> Object:
        """Keep a new or changed object, on disk too."""
        self._objects[made["id"]] = made
        self._journal.append("object", object=made)
        return made

    def new_id(self, noun: str) -> str:
        """An id nobody has."""
        return f"{_PREFIXES[noun]}{len(self._objects) + 1:08d}"

    def find(self, noun: str, identity: str) -> Object | None:
        """The object of this kind, if there is one."""
        found = self._objects.get(identity)
        return found if found is not None and found["object"] == noun else None

    def get(
        self, noun: str, identity: str, *, param: str = "id", status: int = 404
    ) -> Object:
        """The object of this kind; raises Refusal if there is none."""
        found = self.find(noun, identity)
        if found is None:
            raise missing(noun.removeprefix("billing."), identity, param, status)
        return found

    def all(self, noun: str) -> list[Object]:
        """Those of a kind, oldest first."""
        return [it for it in self._objects.values() if it["object"] == noun]

    def page(
        self,
        noun: str,
        form: dict[str, Any],
        url: str,
        fits: Callable[[Object], bool] = lambda _: True,
    ) -> Object:
        """One page of a kind, newest first."""
        return page(reversed([it for it in self.all(noun) if fits(it)]), form, url)


def page(rows: Iterable[Object], form: dict[str, Any], url: str) -> Object:
    """The page that `limit`, `starting_after` and `ending_before` ask for."""
    limit = int(form.get("limit", _A_PAGE))
    if not 1 <= limit <= _MOST_A_PAGE:
        raise malformed(
            f"Invalid limit: {limit}; it must be from 1 to {_MOST_A_PAGE}",
            "parameter_invalid_integer",
            "limit",
        )
    found = list(rows)
    backwards = "ending_before" in form
    cursor = form.get("ending_before", form.get("starting_after"))
    if cursor is not None:
        places = [number for number, it in enumerate(found) if it["id"] == cursor]
        if not places:
            param = "ending_before" if backwards else "starting_after"
            raise missing("object", cursor, param, 400)
        found = found[: places[0]] if backwards else found[places[0] + 1 :]
    data = found[-limit:] if backwards else found[:limit]
    more = len(found) > limit
    return {"object": "list", "url": url, "has_more": more, "data": data}
