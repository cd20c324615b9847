"""Graphs of all constructs at random, and what their steps give: a function of the key and the input alone."""

import json
import zlib
from dataclasses import dataclass
from random import Random
from typing import Any

from manta.graph import Graph, parse_graph

INPUT = {"list": [1, 2], "flag": True, "text": "red", "n": 3}
_BRANCHES = ("red", "green")


def output_of(key: str, given: Any) -> dict[str, Any]:
    """What an agent makes of its input: lists, flags and texts that steps behind it decide by."""
    number = zlib.crc32(json.dumps([key, given], sort_keys=True).encode())
    return {
        "list": list(range(number % 4)),
        "flag": number // 4 % 2 == 0,
        "text": ("red", "Green ", "blue")[number // 8 % 3],
        "n": number % 100,
    }


def random_graph(dice: Random, steps: int, depth: int, *, may_fail: bool) -> Graph:
    """`steps`: at most, of each graph in it. `may_fail`: with references that do not fit, and errors caught."""
    return parse_graph(_Author(dice, steps, may_fail).graph(depth))


@dataclass
class _Author:
    dice: Random
    steps: int
    may_fail: bool

    def graph(self, depth: int) -> dict[str, Any]:
        steps: list[dict[str, Any]] = []
        for number in range(self.dice.randint((self.steps + 1) // 2, self.steps)):
            steps.append(self.step(f"s{number}", [step["id"] for step in steps], depth))
            if self.rarely():
                steps.append(self.fallback(steps[-1]))
        self.add_branches(steps)
        self.dice.shuffle(steps)
        names = [step["id"] for step in steps]
        output = {"flag": True, "text": self.field(names, "text"), "list": [f"${{steps.{n}}}" for n in names]}
        graph: dict[str, Any] = {"name": "g", "steps": steps}
        return graph | ({} if self.rarely() else {"output": output})

    def step(self, name: str, before: list[str], depth: int) -> dict[str, Any]:
        kinds = [
            "agent",
            "agent",
            "tool",
            "prompt",
            "approval",
            "route",
            *(["graph", "graph"] if depth else []),
        ]
        kind = self.dice.choice(kinds)
        step: dict[str, Any] = {"id": name, "input": {"text": self.field(before, "text")}}
        if kind == "route":
            step["route"] = {"choose": self.field(before, "text"), "branches": {}}
        elif kind == "approval":
            step["approval"] = {"question": self.field(before, "text")}
        else:
            step[kind] = self.graph(depth - 1) if kind == "graph" else "x"
            self.spread(step, before)
        if before and self.rarely():
            step["needs"] = [self.dice.choice(before)]
        if self.rarely():
            step["when"] = self.field(before, "flag")
        if self.may_fail and self.rarely():
            step["on_error"] = "skip"
        return step

    def spread(self, step: dict[str, Any], before: list[str]) -> None:
        """Over items and rounds."""
        given = step["input"] | {"list": self.field(before, "list"), "flag": True}
        if self.rarely():
            items = self.field(before, "list")
            step["for_each"] = items if self.may_fail else items.replace("}", " || `[]`}")
            step["max_parallel"] = self.dice.randint(1, 3)
            given |= {"item": "${item}", "index": "${index}"}
            if self.may_fail and self.rarely():
                step["quorum"] = self.dice.randint(1, 3)
        if self.rarely():
            until = self.dice.choice(["${output.flag}", "${iteration == `2`}"])
            limit = self.dice.choice(["accept", "fail"]) if self.may_fail else "accept"
            step["repeat"] = {"until": until, "max": self.dice.randint(1, 3), "on_limit": limit}
            given |= {"before": "${previous.n}", "round": "${iteration}"}
        step["input"] = given

    def fallback(self, step: dict[str, Any]) -> dict[str, Any]:
        name = f"{step['id']}f"
        step["on_error"] = {"fallback": name}
        fallback: dict[str, Any] = {"id": name, "agent": "x", "input": {"code": "${error.code}"}}
        return fallback | ({"when": "${error.code != 'x'}"} if self.may_fail and self.rarely() else {})

    def add_branches(self, steps: list[dict[str, Any]]) -> None:
        for number, step in enumerate(steps):
            if "route" in step:
                later = [other["id"] for other in steps[number + 1 :] if other["id"] != f"{step['id']}f"]
                step["route"]["branches"] = {name: self.some(later) for name in _BRANCHES}
                if not self.may_fail or not self.rarely():
                    step["route"]["default"] = self.some(later)

    def some(self, names: list[str]) -> list[str]:
        return self.dice.sample(names, self.dice.randint(0, min(2, len(names))))

    def field(self, before: list[str], name: str) -> str:
        if self.may_fail and self.dice.random() < 0.02:
            return "${abs(input.text)}"
        place = f"steps.{self.dice.choice(before)}" if before and self.dice.random() < 0.6 else "input"
        return f"${{{place}.{name}}}"

    def rarely(self) -> bool:
        return self.dice.random() < 0.25
