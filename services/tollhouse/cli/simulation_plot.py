"""Draws what policies made of a workload: charges against the limit, and the figures.

The same results give the same file, byte for byte (with the same matplotlib).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tollhouse.cli.simulation import Reserving, Result
from tollhouse.core.setting import Setting
from tollhouse.core.trial import WINDOW_MS, Charge, windows

# Okabe and Ito's palette: told apart with any colour vision, and in grey.
_COLOURS = {
    Reserving.CHARGE_AFTER: "#D55E00",
    Reserving.RESERVE_MAX: "#E69F00",
    Reserving.LEARNED: "#0072B2",
}
_GREY = "#555555"
_POINTS = 300
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.0,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "tollhouse",  # ids that do not change from run to run
}
_BARS = (
    ("utilisation", "used ÷ limit"),
    ("overshoot", "worst 60 s beyond burst + limit, ÷ limit"),
    ("false_refusals", "falsely refused ÷ offered"),
)


def draw(path: Path, setting: Setting, results: Sequence[Result]) -> None:
    """Write the picture; its format is the suffix'. Raises OSError."""
    with mpl.rc_context(rc=_STYLE):
        picture = Figure(figsize=(9, 5.2), layout="constrained")
        rows = picture.add_gridspec(2, 1, height_ratios=(3, 2))
        above, below = (picture.add_subfigure(rows[row]) for row in (0, 1))
        panels = above.subplots(1, len(results), sharey=True, squeeze=False)[0]
        for panel, result in zip(panels, results, strict=True):
            _draw_charges(panel, setting, result)
        panels[0].set_ylabel("charged in the last 60 s ÷ limit")
        bars = below.subplots(1, len(_BARS), sharey=True)
        for panel, (figure, what) in zip(bars, _BARS, strict=True):
            _draw_bars(panel, results, figure, what)
        # Without a date it is the same file every time.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        picture.savefig(path, dpi=150, metadata=metadata)


def _draw_charges(panel: Axes, setting: Setting, result: Result) -> None:
    limit = setting.units_per_minute
    most = 1 + setting.burst_seconds * 1000 / WINDOW_MS
    step = max(1, setting.run_ms // _POINTS)
    ends = range(0, setting.run_ms + 1, step)
    busiest = _busiest(result.charges, ends)
    panel.plot(
        [end / 60_000 for end in ends],
        [units / limit for units in busiest],
        color=_COLOURS[result.policy],
        linewidth=1.4,
    )
    for height, name in ((1.0, "limit"), (most, "burst + limit")):
        panel.axhline(height, color=_GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        panel.annotate(
            name,
            (1.0, height),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            color=_GREY,
            fontsize=8,
        )
    panel.set_title(result.policy.value, weight="bold")
    panel.set_xlabel("minutes")
    panel.set_xlim(0, setting.run_ms / 60_000)
    panel.set_ylim(bottom=0)


def _busiest(charges: Sequence[Sequence[Charge]], ends: range) -> list[int]:
    """Units charged in the 60 s up to each moment, of the limit with most of them."""
    starts = [end - WINDOW_MS for end in ends]
    each = [windows(of_limit, starts) for of_limit in charges]
    return [max(moment) for moment in zip(*each, strict=True)]


def _draw_bars(panel: Axes, results: Sequence[Result], figure: str, what: str) -> None:
    names = [result.policy.value for result in results]
    values = [getattr(result.figures, figure) for result in results]
    bars = panel.barh(
        names, values, color=[_COLOURS[result.policy] for result in results]
    )
    panel.bar_label(bars, labels=[f"{value:.1%}" for value in values], padding=3)
    panel.set_title(figure.replace("_", " "))
    panel.set_xlabel(what)
    panel.set_xlim(0, max(1.0, *values) * 1.15)
    panel.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    panel.invert_yaxis()
