"""Stop strings: cut out of a stream of text, however the text is split."""

from collections.abc import Sequence


class StopTrim:
    """Passes text on up to the first stop string; holds back what may become one.

    TensorRT-LLM leaves the stop string in its output, OpenAI never returns it. The
    string that is complete first wins (of two that end together, the longer): it is
    the only rule that gives the same cut for every split.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.matched: str | None = None

    @property
    def hit(self) -> bool:
        """Whether a stop string has come."""
        return self.matched is not None

    def feed(self, text: str) -> str:
        """Return the text that can be passed on."""
        if not self._stops:
            return text
        if self.hit:
            return ""
        held = self._held + text
        matches = [
            (start + len(stop), start)
            for stop in self._stops
            if (start := held.find(stop)) >= 0
        ]
        if matches:
            end, start = min(matches)
            self._held, self.matched = "", held[start:end]
            return held[:start]
        keep = max(
            (
                size
                for stop in self._stops
                for size in range(1, min(len(stop), len(held) + 1))
                if held.endswith(stop[:size])
            ),
            default=0,
        )
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """Return what was held back, once no more text can come."""
        ready, self._held = self._held, ""
        return ready
