"""The benchmark suite: its report, its arithmetic, and the check of outputs that comes before any time."""

import copy
import json
import statistics
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import MarianMTModel

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import gpu_suite  # noqa: E402
import speed  # noqa: E402
from suite import machine, report, rounds, work  # noqa: E402
from suite.checks import OutputsDiffer, check_outputs  # noqa: E402
from suite.peers import NotAvailable, create  # noqa: E402
from suite.weights import marian_config  # noqa: E402

MINI = work.Work("decoding", work.SIZES["mini"], sentences=3, source=(4, 8), target=(8, 8))
ROW = work.Row("row", MINI, ("ours", "ours int8", "MarianMT", "BART"))
TOKENS = [[3, 4, 5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16, 17, 18]]


def steps(*seconds: float, repeats: int = 1) -> list[dict]:
    common = {"repeats": repeats, "disturbed": False, "memory": 2**20}
    return [{"wall": repeats * wall, "cpu": repeats * wall, "others": 0.0, **common} for wall in seconds]


@pytest.mark.slow
def test_a_quick_run_reports_every_peer_with_the_ratios_of_its_times(tmp_path):
    names = ["--only", "greedy-small", "curve-batch", "--peers", "ours", "CTranslate2 fp32"]
    assert speed.main(["--quick", "--rounds", "2", "--output", str(tmp_path), *names]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    (row,), (curve,) = results["rows"], results["curves"]
    assert results["failed"] == {} and set(results["peak"]) == {"fp32", "bf16"}
    assert {"ours", "MarianMT"} <= set(row["peers"]) | set(row["skipped"])
    assert row["agreement"]["ours"] == 1
    for found in row["peers"].values():
        assert len(found) == 2 and all(step["wall"] > 0 and step["memory"] > 0 for step in found)
    seconds = {
        name: [step["wall"] / step["repeats"] for step in found] for name, found in row["peers"].items()
    }
    ratio = statistics.median(other / own for own, other in zip(seconds["ours"], seconds["MarianMT"]))
    assert report.summarise(row, results["peak"])["ours"]["ratio"] == pytest.approx(ratio)
    assert [point["x"] for point in curve["points"]] == [1, 4]
    text = (tmp_path / "report.md").read_text()
    for shown in ("greedy-small", "curve-batch", f"| {ratio:.2f} (", results["machine"]["cpu"]):
        assert shown in text
    assert (tmp_path / "speed.png").exists() and (tmp_path / "scaling.png").exists()


def test_ratios_compare_neighbouring_steps():
    row = {
        "peers": {"MarianMT": steps(2.0, 4.0, 3.0), "ours": steps(1.0, 1.0, 1.5, repeats=10)},
        "reference": "MarianMT",
        "units": 100,
        "operations": 10**9,
        "work": MINI.as_dict(),
    }
    found = report.summarise(row, {"fp32": {"small": 1.0, "large": 2.0}})
    assert found["ours"]["ratio"] == 2 and found["ours"]["ratios"] == [2, 4]
    assert found["MarianMT"]["ratio"] == 1
    assert found["ours"]["per_second"] == pytest.approx(100)
    assert found["ours"]["mfu"] == pytest.approx(0.5)  # 1 GFLOP in 1 s where the machine does 2


def test_a_page_shows_the_newest_report_only(tmp_path):
    row = {"name": "a row", "peers": {"ours": steps(1.0), "MarianMT": steps(2.0)}, "reference": "MarianMT"}
    row |= {"units": 24, "unit": "output tokens", "operations": 1, "work": MINI.as_dict()}
    row |= {"skipped": {"BART": "no reason"}, "agreement": {"ours": 0.99}}
    results = {"machine": machine.describe(1), "peak": {"fp32": {"1x1 -> 1": 1.0}}, "rows": [row]}
    results |= {"curves": [], "failed": {"another row": "broken"}, "device": "cpu", "command": "python x"}
    page, folder = tmp_path / "page.md", tmp_path / "report"
    folder.mkdir()
    page.write_text(f"before {report.BEGINS} old {report.ENDS} after")
    for _ in range(2):
        report.write(results, folder, page)
    text = page.read_text()
    assert (tmp_path / "speed.png").exists()
    assert text.startswith(f"before {report.BEGINS}\n") and text.endswith(f"{report.ENDS} after")
    assert text.count("**a row**") == 1 and " old " not in text
    notes = ("BART did not run: no reason", "99.0% of the tokens of ours", "broken")
    assert all(shown in text for shown in ("2.00 (2.00 to 2.00)", *notes))


def outputs(**changed: dict) -> dict[str, dict]:
    found = {name: {"tokens": copy.deepcopy(TOKENS)} for name in ROW.peers}
    return {**found, **changed}


def test_equal_outputs_pass():
    assert check_outputs(ROW, outputs())["ours"] == 1
    losses = {"ours": {"loss": 4.80001}, "MarianMT": {"loss": 4.8}, "BART": {"loss": 4.9}}
    assert check_outputs(ROW, losses)["ours"] < 1e-4


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"ours": {"tokens": [TOKENS[0], TOKENS[0]]}}, "ours"),
        ({"ours int8": {"tokens": [row[::-1] for row in TOKENS]}}, "ours int8"),
        ({"ours": {"tokens": [row[:-1] for row in TOKENS]}}, "ours"),
        ({"BART": {"tokens": [row[:-1] for row in TOKENS]}}, "BART"),
        ({"ours": {"loss": 4.81}, "MarianMT": {"loss": 4.8}}, "ours"),
        ({"ours": {"loss": float("nan")}, "MarianMT": {"loss": 4.8}}, "ours"),
        ({"BART": {"loss": 9.0}, "MarianMT": {"loss": 4.8}}, "BART"),
    ],
)
def test_different_outputs_fail_and_name_the_peer(wrong, named):
    found = wrong if "loss" in next(iter(wrong.values())) else outputs(**wrong)
    with pytest.raises(OutputsDiffer, match=f"{named} |of {named}"):
        check_outputs(ROW, found)


def test_nothing_is_measured_when_the_tokens_differ(tmp_path):
    class Stub:
        def __init__(self, tokens):
            self.tokens, self.asked = tokens, []

        def send(self, do, **request):
            self.asked.append(do)

        def receive(self):
            return {"outputs": {"tokens": self.tokens}}

    suite = rounds.Suite(tmp_path, 1, "cpu", 1, 1, lambda line: None)
    suite.folder_of = lambda work: str(tmp_path)
    workers = {"ours": Stub(TOKENS[::-1]), "MarianMT": Stub(TOKENS)}
    with pytest.raises(OutputsDiffer):
        suite.measure(ROW, workers, 1)
    assert [worker.asked for worker in workers.values()] == [["build"], ["build"]]


def test_a_step_is_disturbed_if_it_waits_or_others_work():
    alone = {"wall": 1.0, "cpu": 1.9, "others": 0.0}
    assert not machine.is_disturbed(alone, cpus=2)
    assert machine.is_disturbed({**alone, "others": 0.3}, cpus=2)
    assert machine.is_disturbed({**alone, "cpu": 0.5}, cpus=2)
    assert not machine.is_disturbed({**alone, "cpu": 0.5, "others": None}, cpus=2, may_wait=True)


def test_a_disturbed_step_is_repeated():
    class Stub:
        others = [0.9, 0.5, 0.7]

        def ask(self, **request):
            return {"wall": 1.0, "others": self.others.pop(0), "disturbed": True}

    assert rounds.undisturbed(Stub(), 1)["others"] == 0.5 and Stub.others == []


def test_operations_are_those_of_the_matrix_products():
    task = work.Work("encoding", work.SIZES["mini"], sentences=2, source=(9, 9))
    config = marian_config(task.size)
    config._attn_implementation = "eager"
    encoder = MarianMTModel(config).get_encoder()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.tensor([source for source, _ in task.pairs[0]]))
    assert task.operations == counter.get_total_flops()


def test_padding_and_other_beams_are_no_work():
    task = work.Work("training", work.SIZES["mini"], sentences=5, source=(2, 9), target=(1, 9))
    assert task.units == sum(len(target) for _, target in task.pairs[0]) < 5 * 9
    assert MINI.units == work.replace(MINI, beams=4).units == 3 * 8
    assert work.Work.from_dict(json.loads(json.dumps(MINI.as_dict()))) == MINI


def test_a_missing_peer_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    monkeypatch.delitem(sys.modules, "suite.ctranslate2_peer", raising=False)
    with pytest.raises(NotAvailable, match="ctranslate2"):
        create("CTranslate2 fp32", MINI, tmp_path)


def test_a_part_that_hangs_or_fails_costs_only_itself(tmp_path):
    def run(code: str, limit: float) -> dict:
        return gpu_suite.run(
            gpu_suite.Part("part", [sys.executable, "-c", code], limit), limit, tmp_path / "log"
        )

    assert run("print('well')", 60)["status"] == "done"
    failed = run("raise SystemExit('broken')", 60)
    assert failed["status"] == "failed" and failed["output"] == ["broken"]
    hanging = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    assert run(hanging, 1)["status"] == "timed out"


def test_the_rows_of_a_gpu_are_all_in_a_part(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_suite.py", "--output", str(tmp_path)])
    names = [row.name for row in work.rows("cuda", "cuda", 1)]
    found = [part.name for part in gpu_suite.parts(gpu_suite.parse()) if isinstance(part, gpu_suite.Part)]
    covered = [[name for name in names if part in name] for part in found if part not in ("tests", "cifar10")]
    assert sorted(sum(covered, [])) == sorted(names)
