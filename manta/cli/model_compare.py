"""How a comparison of versions is shown: each metric with its interval, and a verdict in words."""

from collections.abc import Sequence

from rich.table import Column, Table
from rich.text import Text

from manta.cli.common import say, say_table
from manta.wire import Comparison
from manta.wire.model_comparison import ComparedVersion, Difference

WORDS = {
    "failures": "failed calls",
    "first_s": "first piece",
    "total_s": "whole answer",
    "cost": "cost of an answer",
    "rating": "rating of runs",
}


def say_comparison(found: Comparison) -> None:
    say(_headline(found))
    say_table(_figures(found.arms))
    for arm in found.arms:
        if arm.version != found.baseline:
            own = [difference for difference in found.differences if difference.version == arm.version]
            say("")
            say(f"version {arm.version} against version {found.baseline}", style="bold")
            say_table(_differences(own))
            say(conclusion(arm.version, own))


def conclusion(version: int, differences: Sequence[Difference]) -> str:
    """What can be said of a version, in a sentence or two."""
    better = [WORDS[each.metric] for each in differences if each.significant and each.better]
    worse = [WORDS[each.metric] for each in differences if each.significant and not each.better]
    open_ = [WORDS[each.metric] for each in differences if not each.enough]
    parts = []
    if better:
        parts.append(f"version {version} is significantly better in: {', '.join(better)}.")
    if worse:
        parts.append(f"version {version} is significantly worse in: {', '.join(worse)}.")
    if len(open_) == len(differences):
        return "There are not observations enough yet to say anything."
    if not parts:
        parts.append("No significant difference is seen: what there is may be chance.")
    if open_:
        parts.append(f"Not observations enough yet for: {', '.join(open_)}.")
    return " ".join(part[0].upper() + part[1:] for part in parts)


def verdict(found: Difference) -> str:
    if not found.enough:
        return f"too early: {found.shortfall}"
    if found.adjusted_p is None:
        # Nothing varies: there is no test to be made.
        return "no difference"
    if not found.significant:
        return "no significant difference"
    return "significantly better" if found.better else "significantly worse"


def change(found: Difference) -> str:
    """The difference and its 95 % interval, in the metric's own unit or in per cent."""
    if found.change is None or found.low is None or found.high is None:
        return "-"
    told, low, high = (_amount(found, value) for value in (found.change, found.low, found.high))
    return f"{told} [{low}, {high}]" + _unit(found)


def _amount(found: Difference, value: float) -> str:
    if found.is_factor:
        return f"{min(100 * (value - 1), 1e6):+.3g}"
    return f"{100 * value if found.metric == 'failures' else value:+.3g}"


def _unit(found: Difference) -> str:
    if found.is_factor:
        return " %"
    return " points" if found.metric == "failures" else ""


def _headline(found: Comparison) -> str:
    stick = f"sticky by {found.sticky}" if found.sticky != "none" else "not sticky"
    served = "" if found.since is None else f" since {found.since.astimezone():%Y-%m-%d %H:%M}"
    until = "" if found.until is None else f" until {found.until.astimezone():%Y-%m-%d %H:%M}"
    return f"{found.model}, route {found.revision} ({found.state}), {stick},{served}{until}".rstrip(",")


def _figures(arms: Sequence[ComparedVersion]) -> Table:
    headings = [Column(f"version {arm.version}", justify="right") for arm in arms]
    table = Table(Column("", no_wrap=True), *headings, box=None, pad_edge=False)
    table.add_row("share", *(f"{100 * arm.share:.4g} %" for arm in arms))
    table.add_row("calls", *(f"{arm.calls:,}" for arm in arms))
    for place, words in enumerate(WORDS.items()):
        metric, told = words
        table.add_row(told, *(_figure(metric, arm, place) for arm in arms))
    return table


def _figure(metric: str, arm: ComparedVersion, place: int) -> str:
    figure = arm.figures[place]
    if figure.value is None:
        return "-"
    if metric == "failures":
        return f"{100 * figure.value:.3g} %"
    if metric == "rating":
        return f"{figure.value:.3g} of {figure.n:,} runs"
    return f"{figure.value:.3g}" + (" s" if metric.endswith("_s") else "")


def _differences(differences: Sequence[Difference]) -> Table:
    table = Table("", "difference [95 %]", "p", "", box=None, pad_edge=False)
    for found in differences:
        style = "" if found.better is None else "green" if found.better else "red"
        p = _probability(found.adjusted_p)
        table.add_row(WORDS[found.metric], change(found), p, Text(verdict(found), style=style))
    return table


def _probability(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"
