"""The analyst on real sandboxes: numbers are computed anew here, by other code than the analyst's."""

import csv
import json
import math
import statistics
import struct
from pathlib import Path
from typing import Any

import pytest

from agents.analyst import Analyst, unbacked
from agents.base import AgentSetup
from agents.context import LocalArtifacts, LocalCallLog, TaskContext
from agents.run_python import HELPERS
from agents.scripted import ScriptedModel, ScriptedStep
from agents.table_profile import ColumnProfile, horizon_in, load_in, price_of, throughput_of
from agents.tables import NotATable, parse_cell, parse_date, read_table
from manta.errors import InvalidInput, UnreadableData
from manta.ids import RunId, StepKey
from manta.messages import ArtifactRef, CallScope, Passage, Task, ToolCall, from_json, to_json
from tools.python_sandbox import probe

DEMO = Path(__file__).parents[2] / "examples" / "data" / "gpu_options.csv"
QUESTION = "How does Ray Serve scale, and what does serving 50 requests/s on each GPU option cost per hour?"


class NoDocuments:
    async def search(self, collection: str, query: str, limit: int = 8) -> list[Passage]:
        raise AssertionError("the analyst searches nothing")


@pytest.fixture(scope="module", autouse=True)
def _needs_a_sandbox() -> None:
    report = probe()
    if report.best is None:
        pytest.skip(f"no sandbox works here: {report.backends}")


class Lab:
    def __init__(self, folder: Path) -> None:
        self.artifacts = LocalArtifacts(folder / "artifacts")
        self.log = LocalCallLog()
        self._folder = folder
        self._tries = 0

    async def analyse(
        self, question: str, files: list[Path], model: ScriptedModel | None = None
    ) -> list[dict[str, Any]]:
        refs = [to_json(await self.artifacts.put(path, path.name, "text/csv")) for path in files]
        self._tries += 1
        workdir = self._folder / f"work{self._tries}"
        workdir.mkdir()
        task = Task(
            CallScope(RunId("r"), StepKey("analyse")), "analyst", {"question": question, "data": refs}
        )
        context = TaskContext(
            task,
            model=model or ScriptedModel([]),
            documents=NoDocuments(),
            artifacts=self.artifacts,
            call_log=self.log,
            workdir=workdir,
        )
        output = await Analyst(AgentSetup("analyst")).run(context)
        results: list[dict[str, Any]] = output["results"]
        return results

    async def png_size(self, ref: dict[str, Any]) -> tuple[int, int]:
        data = await self.artifacts.get(from_json(ArtifactRef, ref))
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", data[16:24])
        return width, height


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def ends(cell: str) -> tuple[float, float]:
    low, _, high = cell.partition("-")
    return float(low), float(high)


async def test_the_demo_question_gets_cost_and_instances_for_each_option(lab: Lab) -> None:
    results = await lab.analyse(QUESTION, [DEMO])
    printed = json.loads(results[0]["output"])
    with DEMO.open(newline="") as file:
        options = list(csv.DictReader(file))
    assert len(printed["rows"]) == len(options) == 3
    for row, option in zip(printed["rows"], options, strict=True):
        price, speed = ends(option["usd_per_1000_inferences"]), ends(option["requests_per_second"])
        assert row["label"].startswith(option["gpu"])
        assert row["cost_low"] == pytest.approx(50 * 3600 / 1000 * price[0])
        assert row["cost_high"] == pytest.approx(50 * 3600 / 1000 * price[1])
        assert (row["instances_low"], row["instances_high"]) == (
            math.ceil(50 / speed[1]),
            math.ceil(50 / speed[0]),
        )
    told = " ".join(s["text"] for s in results[0]["statements"])
    for fragment in (
        "$9.00–$18.00",
        "$27.00–$45.00",
        "$90.00–$180.00",
        "2 to 3 instances",
        "10 to 25 instances",
    ):
        assert fragment in told
    width, height = await lab.png_size(results[0]["charts"][0])
    assert width > 600
    assert height > 200


async def test_every_number_of_every_statement_was_printed(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "yields.csv"
    file.write_text(
        "Field;Soil;Crop;Harvest date;Yield (t/ha)\nA1;clay;rye;2023-08-02;5,1\nA2;clay;oats;2023-08-09;4,4\n"
        "B1;sand;rye;2023-07-28;3,9\nB2;sand;oats;2023-08-01;3,2\nC1;loam;rye;2023-08-11;6,3\n"
    )
    results = await lab.analyse(
        "Which soil gives the highest yield, and how did it develop over time?", [file]
    )
    assert len(results) >= 3
    for result in results:
        assert result["statements"], result["title"]
        assert result["code"]
        assert all(not unbacked(s["text"], result["output"]) for s in result["statements"])
        assert all(s["origin"] == "computed" for s in result["statements"])
    groups = next(json.loads(r["output"])["groups"] for r in results if "by Soil" in r["title"])
    means = {"clay": [5.1, 4.4], "sand": [3.9, 3.2], "loam": [6.3]}
    assert {g["label"]: g["mean"] for g in groups} == {
        k: round(statistics.mean(v), 2) for k, v in means.items()
    }
    assert groups[0]["label"] == "loam"


async def test_unseen_columns_with_units_gaps_and_hostile_names(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "kettles.csv"
    file.write_text(
        '\ufeffkettle\'s "model"\tboil time\tprice\n'
        "Alpha's\t3 min\t€25.00\nBeta\t2.5 min\t€39.90\nGamma\tn/a\t€18.50\n{x}\t4 min\t€12\n"
    )
    results = await lab.analyse("Which kettle is cheapest?", [file])
    printed = json.loads(results[0]["output"])
    assert [row["label"] for row in printed["rows"]] == ["{x}", "Gamma", "Alpha's", "Beta"]
    assert results[0]["statements"][0]["text"].startswith("{x} has the lowest price (€12.00)")


async def test_prices_by_the_hour_are_paid_for_each_instance(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "hosts.csv"
    file.write_text("host,throughput_rps,hourly_price_usd\nsmall,40,0.40\nlarge,300,2.10\n")
    results = await lab.analyse("What does it cost per day to serve 500 requests per second?", [file])
    rows = {row["label"]: row for row in json.loads(results[0]["output"])["rows"]}
    assert rows["small"]["instances_low"] == 13
    assert rows["small"]["cost_low"] == pytest.approx(13 * 0.40 * 24)
    assert rows["large"]["cost_high"] == pytest.approx(2 * 2.10 * 24)


async def test_a_relation_is_measured_and_drawn(lab: Lab, tmp_path: Path) -> None:
    xs, ys = [1, 2, 3, 4, 5, 6], [2.1, 3.9, 6.2, 8.1, 9.8, 12.2]
    file = tmp_path / "doses.csv"
    file.write_text("dose_mg,response\n" + "".join(f"{x},{y}\n" for x, y in zip(xs, ys, strict=True)))
    results = await lab.analyse("How does the response depend on the dose?", [file])
    result = next(r for r in results if "against" in r["title"])
    assert json.loads(result["output"])["r"] == round(statistics.correlation(xs, ys), 2)
    await lab.png_size(result["charts"][0])


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("photo.csv", b"\x89PNG\r\n\x1a\n\x00\x00\x00", "binary"),
        ("page.csv", b"<html><body>no</body></html>", "HTML"),
        ("empty.csv", b"  \n", "empty"),
        (
            "letter.csv",
            b"Dear reader,\nthis is a letter.\nIt has lines, commas, and no columns.\n",
            "columns",
        ),
        ("head.csv", b"a,b,c\n", "no row"),
    ],
)
async def test_a_file_that_is_no_table_is_named_with_cause_and_fix(
    lab: Lab, tmp_path: Path, name: str, content: bytes, cause: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UnreadableData) as caught:
        await lab.analyse("What is in it?", [file])
    assert cause in caught.value.message
    assert name in caught.value.message
    assert "CSV" in caught.value.fix


async def test_without_data_or_question_it_refuses(lab: Lab) -> None:
    with pytest.raises(InvalidInput):
        await lab.analyse("What is in it?", [])
    with pytest.raises(InvalidInput):
        await lab.analyse(" ", [DEMO])


async def test_a_second_try_replays_the_code_and_gives_the_same_charts(lab: Lab) -> None:
    first = await lab.analyse(QUESTION, [DEMO])
    calls = len(lab.log.calls(CallScope(RunId("r"), StepKey("analyse"))))
    assert await lab.analyse(QUESTION, [DEMO]) == first
    assert len(lab.log.calls(CallScope(RunId("r"), StepKey("analyse")))) == calls


async def test_a_model_that_calls_tools_is_held_to_what_its_code_printed(lab: Lab) -> None:
    code = (
        "from manta_tables import read_table\n"
        "table = read_table('gpu_options.csv')\n"
        "print({'cheapest_usd': min(v.low for v in table['usd_per_1000_inferences']) * 180})\n"
    )
    answer = "The cheapest option costs 9 dollars an hour. The dearest costs 4,711 dollars. That is a lot."
    model = ScriptedModel(
        [
            ScriptedStep(None, "", (ToolCall("c1", "run_python", {"code": code}),)),
            ScriptedStep(None, answer),
        ],
        abilities=("tools",),
    )
    results = await lab.analyse(QUESTION, [DEMO], model)
    model.assert_complete()
    assert [s["text"] for s in results[0]["statements"]] == ["The cheapest option costs 9 dollars an hour."]
    assert results[0]["code"].strip() == code.strip()
    assert "9.0" in results[0]["output"]


async def test_a_model_that_ran_nothing_is_replaced_by_the_pipeline(lab: Lab) -> None:
    model = ScriptedModel([ScriptedStep(None, "It costs about 12 dollars.")], abilities=("tools",))
    results = await lab.analyse(QUESTION, [DEMO], model)
    assert json.loads(results[0]["output"])["units"] == 180000


@pytest.mark.parametrize(
    ("cell", "low", "high"),
    [("$0.05-0.10", 0.05, 0.1), ("20-30", 20, 30), ("1,200", 1200, 1200), ("12,5", 12.5, 12.5), ("45 %", 45, 45),
     ("-3", -3, -3), ("2 GB", 2, 2), ("1.5k", 1500, 1500), ("10 to 15 requests/s", 10, 15)],
)  # fmt: skip
def test_cells_are_read_as_numbers_and_ranges(cell: str, low: float, high: float) -> None:
    value = parse_cell(cell)
    assert value is not None
    assert (value.low, value.high) == (low, high)


@pytest.mark.parametrize("cell", ["2x A100 80G", "T4/A10G", "under 7B", "2024-05-01", "", "30-20"])
def test_what_is_no_number_stays_text(cell: str) -> None:
    assert parse_cell(cell) is None


def test_dates_in_common_notations() -> None:
    assert parse_date("2024-05-01T10:00:00") == "2024-05-01"
    assert parse_date("3.4.2024") == "2024-04-03"
    assert parse_date("twice") is None


def test_loads_horizons_prices_and_throughputs_by_pattern() -> None:
    load = load_in("serving 1.5k messages per minute")
    assert load is not None
    assert load.per_second == 25
    assert horizon_in("what does 50 requests/s cost per month?") == ("month", 30 * 86_400)
    assert horizon_in("what do 50 requests/s cost?") == ("hour", 3600)
    assert load_in("how many replicas?") is None
    price = price_of(ColumnProfile("cost_per_1k_tokens", "number"))
    assert price is not None
    assert (price.amount, price.work) == (1000, "token")
    assert price_of(ColumnProfile("requests_per_second", "number")) is None
    speed = throughput_of(ColumnProfile("Requests/s", "range"))
    assert speed is not None
    assert throughput_of(ColumnProfile("usd_per_1000_inferences", "range")) is None


def test_the_helpers_that_go_into_the_sandbox_import_nothing_of_ours() -> None:
    for path in HELPERS.values():
        lines = path.read_text().splitlines()
        assert not [
            line for line in lines if line.lstrip().startswith(("from agents", "from manta", "import manta"))
        ]


def test_a_header_alone_is_no_table(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a,b\n")
    with pytest.raises(NotATable):
        read_table(file)
