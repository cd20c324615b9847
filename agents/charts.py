"""Charts for reports, drawn with matplotlib into PNG files.

No import of ours: the analyst copies this file into the sandbox beside the data, where the code it writes imports
it as `manta_charts`.
"""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

_INK, _SOFT, _GRID = "#1f2933", "#52606d", "#d9dee4"
_FILL, _EDGE = "#2f6f9f", "#1d4d73"
MAX_BARS = 20


def bars(
    path: str,
    title: str,
    labels: Sequence[str],
    lows: Sequence[float],
    highs: Sequence[float] | None = None,
    *,
    axis: str,
    prefix: str = "",
) -> None:
    """Horizontal bars, longest name first to read; with `highs` each bar spans a range.

    Args:
        axis: what the value axis shows, with its unit.
        prefix: stands before each value, such as a currency sign.
    """
    labels, lows = labels[:MAX_BARS], lows[:MAX_BARS]
    ends = list(highs[:MAX_BARS]) if highs is not None else list(lows)
    figure, axes = _canvas(0.52 * len(labels) + 1.7)
    starts = lows if highs is not None else [0.0] * len(labels)
    places = range(len(labels))
    widths = [end - start for start, end in zip(starts, ends, strict=True)]
    axes.barh(places, widths, left=starts, height=0.56, color=_FILL, edgecolor=_EDGE, linewidth=0.8, zorder=3)
    extent = max([*ends, 0.0]) - min([*starts, *ends, 0.0]) or 1.0
    for place, low, end in zip(places, lows, ends, strict=True):
        text = _value(low, prefix) if low == end else f"{_value(low, prefix)}–{_value(end, prefix)}"
        axes.text(
            max(end, 0.0) + 0.015 * extent, place, text, va="center", ha="left", color=_INK, fontsize=9.5
        )
    axes.set_yticks(list(places), [fill(label, 28) for label in labels])
    axes.invert_yaxis()
    axes.set_xlim(min([*starts, *ends, 0.0]) * 1.15, max([*ends, 0.0]) + 0.22 * extent)
    axes.set_xlabel(axis, color=_SOFT)
    axes.grid(axis="x", color=_GRID, linewidth=0.8, zorder=0)
    _save(figure, axes, title, path)


def line(path: str, title: str, dates: Sequence[str], values: Sequence[float], *, axis: str) -> None:
    """A line over ISO dates in order, its last point marked with the value."""
    from matplotlib import dates as calendar

    # Untyped in matplotlib's own annotations.
    untyped: Any = calendar

    figure, axes = _canvas(3.6)
    days = [float(day) for day in untyped.datestr2num(list(dates))]
    axes.plot(
        days, values, color=_FILL, linewidth=2, marker="o", markersize=4 if len(days) < 40 else 0, zorder=3
    )
    axes.annotate(
        _value(values[-1], ""),
        (days[-1], values[-1]),
        (6, 4),
        textcoords="offset points",
        color=_INK,
        fontsize=9.5,
    )
    locator = untyped.AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(untyped.ConciseDateFormatter(locator))
    axes.set_ylabel(fill(axis, 30), color=_SOFT)
    axes.margins(x=0.08)
    axes.grid(axis="y", color=_GRID, linewidth=0.8, zorder=0)
    _save(figure, axes, title, path)


def scatter(
    path: str, title: str, xs: Sequence[float], ys: Sequence[float], *, x_axis: str, y_axis: str
) -> None:
    figure, axes = _canvas(4.2)
    axes.scatter(xs, ys, color=_FILL, edgecolor=_EDGE, s=34, alpha=0.85, zorder=3)
    axes.set_xlabel(x_axis, color=_SOFT)
    axes.set_ylabel(fill(y_axis, 36), color=_SOFT)
    axes.grid(color=_GRID, linewidth=0.8, zorder=0)
    _save(figure, axes, title, path)


def _canvas(height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")  # There is no screen in the sandbox.
    from matplotlib import pyplot

    pyplot.rcParams["font.size"] = 10
    figure, axes = pyplot.subplots(figsize=(8.0, min(height, 12.0)), layout="constrained")
    return figure, axes


def _save(figure: Any, axes: Any, title: str, path: str) -> None:
    # Column names and labels are data: a dollar sign in them must not start a formula.
    for text in [
        axes.xaxis.label,
        axes.yaxis.label,
        *axes.texts,
        *axes.get_xticklabels(),
        *axes.get_yticklabels(),
    ]:
        text.set_parse_math(False)
    axes.set_title(fill(title, 76), loc="left", fontsize=12, color=_INK, pad=12).set_parse_math(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRID)
    axes.tick_params(length=0, labelcolor=_INK)
    figure.savefig(path, dpi=150, facecolor="white")
    from matplotlib import pyplot

    pyplot.close(figure)


def _value(number: float, prefix: str) -> str:
    sign = "-" if number < 0 else ""
    size = abs(number)
    text = (
        f"{size:,.0f}"
        if size >= 1000 or size == int(size)
        else f"{size:,.2f}"
        if size >= 1
        else f"{size:.3g}"
    )
    return f"{sign}{prefix}{text}"
