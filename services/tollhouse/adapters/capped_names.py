"""Names that make series, no more than a bound."""

OTHER = "other"
"""What all names beyond the bound are called together."""


class CappedNames:
    """Lets the first names through, as many as there is room for; the rest is OTHER.

    A series costs memory here and wherever it is scraped for as long as the process
    lives, so who creates tenants must not decide how many there are. Sums stay true.
    """

    def __init__(self, most: int = 100) -> None:
        self._most = most
        self._names: set[str] = set()

    def __call__(self, name: str) -> str:
        """The name to count under, the same each time."""
        if name in self._names:
            return name
        if len(self._names) >= self._most:
            return OTHER
        self._names.add(name)
        return name
