"""examples/downsampling_experiment.py: tiny runs of it, resumed, stopped, shared, and refused."""

import importlib
import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")

from click.testing import CliRunner
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = ("--seeds", "1", "--epochs", "1", "--per-class", "4", "--head", "gap")
POLYPHASE = (*TINY, "--task", "digits", "--pool", "polyphase")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def module(monkeypatch):
    """Import a script of examples/ as Python does that runs one."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


@pytest.fixture
def experiment(module, tmp_path, monkeypatch):
    """Run the script in an empty folder."""
    monkeypatch.chdir(tmp_path)
    main = module("downsampling_experiment").main
    return lambda *options: CliRunner().invoke(main, options)


def runs(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def save(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((50, 44), level).save(path)


def test_it_runs_and_goes_on(experiment, tmp_path):
    """A second call makes what is missing, and no more; page and plot show all."""
    first = experiment(*POLYPHASE)
    assert first.exit_code == 0, first.output
    (kept,) = Path("experiment.jsonl").read_text("utf-8").splitlines()
    assert re.search(r"polyphase +global average +[\d.]+ +100.0 +6,274 ", first.output)
    page = tmp_path / "page.md"
    start, end = "<!-- results: written by the script -->", "<!-- end of the results -->"
    page.write_text(f"before\n{start}\nold\n{end}\nafter\n")
    second = experiment(*POLYPHASE, "--pool", "max", "--plot", "a.png", "--write-docs", "page.md")
    assert second.exit_code == 0, second.output
    assert "1 of 2 runs are in experiment.jsonl already" in second.output
    lines = Path("experiment.jsonl").read_text("utf-8").splitlines()
    assert lines[0] == kept
    assert [run["job"]["pool"] for run in runs("experiment.jsonl")] == ["polyphase", "max"]
    text = page.read_text("utf-8")
    assert text.startswith(f"before\n{start}\n")
    assert text.endswith(f"{end}\nafter\n")
    assert "old" not in text
    assert len(re.findall(r"^\| (?:max|polyphase) \| global average \| ", text, re.MULTILINE)) == 2
    for picture in ("a.png", "page.png"):
        with Image.open(picture) as opened:
            assert opened.format == "PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.png", "experiment.jsonl", "page.md", "page.png"
    ]  # fmt: skip
    other = experiment(*TINY, "--epochs", "2", "--task", "digits", "--pool", "max")
    assert "already" not in other.output  # another number of epochs is another run
    assert len(runs("experiment.jsonl")) == 3


def test_stopping_keeps_what_is_finished(experiment, module, monkeypatch, tmp_path):
    script, calls = module("downsampling_experiment"), []

    def stopped(job, after_epoch):
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return module("experiment_runs").Result(0.5, 0.5, 1, 1.0)

    monkeypatch.setattr(script, "run", stopped)
    result = experiment(*TINY)
    assert result.exit_code == 130
    assert "the same command goes on" in result.output
    assert len(runs("experiment.jsonl")) == 1
    assert experiment(*TINY).exit_code == 0
    assert len(calls) == 13  # one of the twelve twice
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.jsonl"]


def test_a_folder_of_pictures(experiment, tmp_path):
    for name, level in (("flat", 5), ("noise", 90)):
        for number in range(5):
            save(tmp_path / "set" / name / f"{number}.png", level)
    (tmp_path / "set" / "flat" / "notes.txt").write_text("no picture")
    result = experiment(*TINY, "--data", "set", "--pool", "avg")
    assert result.exit_code == 0, result.output
    assert "set, crop shifts" in result.output


def test_several_processes_share_the_runs(tmp_path):
    """And take over what a group before them had to leave."""
    left = tmp_path / "runs.jsonl.part1"
    job = {"task": "textures", "pool": "max", "head": "gap", "seed": 0, "epochs": 1, "per_class": 4}
    result = {"accuracy": 0.123, "consistency": 0.5, "parameters": 7, "step_ms": 1.0}
    left.write_text(json.dumps({"job": job, "result": result}) + "\n")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        EXAMPLES / "downsampling_experiment.py", *TINY, "--task", "textures", "--pool", "max",
        "--pool", "avg", "--pool", "polyphase", "--runs", "runs.jsonl",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 3 runs are in runs.jsonl already" in done.stdout
    assert "12.3" in done.stdout
    assert {run["job"]["pool"] for run in runs(tmp_path / "runs.jsonl")} == {
        "max", "avg", "polyphase"
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["runs.jsonl"]


def test_each_process_has_its_share(experiment, module, monkeypatch):
    script = module("downsampling_experiment")
    monkeypatch.setattr(script, "run", lambda *_: module("experiment_runs").Result(0.5, 0.5, 1, 1))
    monkeypatch.setattr(script, "together", lambda size: None)
    for rank, finished in ((0, 6), (1, 12)):
        monkeypatch.setattr(script, "group", lambda rank=rank: nullcontext((rank, 2)))
        assert experiment(*TINY, "--runs", f"{rank}.jsonl").exit_code == 0
        module("experiment_runs").merge(Path(f"{rank}.jsonl"))
        kept = {str(run["job"]) for path in ("0.jsonl", f"{rank}.jsonl") for run in runs(path)}
        assert len(kept) == finished


# ---- What is measured ---------------------------------------------------------------------------


def test_agreement_is_the_share_of_pairs(module):
    agreement = module("experiment_runs").agreement
    assert agreement(torch.tensor([[1, 1], [1, 2], [1, 3]])) == 0.5
    assert agreement(torch.tensor([[1, 1], [1, 2], [1, 2]])) == pytest.approx((3 + 1) / 6)


def test_interval_of_a_mean(module):
    """Student's for 1, 2, 3, as textbooks have it."""
    mean = module("experiment_report").mean
    assert str(mean([0.01, 0.02, 0.03])) == "2.0 ± 2.5"
    assert str(mean([0.5])) == "50.0"


def test_pools_differ_in_nothing_else(module):
    """The same parameters but for those of the extra convolution, which its control has too."""
    runs, data = module("experiment_runs"), module("experiment_data").textures(0, 2)
    for head in runs.HEADS:
        sizes = {
            pool: sum(
                p.numel()
                for p in runs.network(runs.Job("", pool, head, 0, 1, 2), data).parameters()
            )
            for pool in runs.POOLS
        }
        assert sizes["strided-conv"] == sizes["conv-max"]
        assert len(set(sizes.values())) == 2


@pytest.mark.parametrize("pool", ["polyphase", "max"])
def test_digits_move_in_circles_through_circular_convolutions(module, pool):
    """So that polyphase sampling under a global average keeps every score, untrained."""
    runs, data = module("experiment_runs"), module("experiment_data").placed_digits(0, 1)
    net = runs.network(runs.Job("digits", pool, "gap", 0, 1, 1), data).eval()
    with torch.inference_mode():
        scores, moved = net(data.moved((0, 0))), net(data.moved((5, 2)))
    assert torch.allclose(scores, moved, atol=1e-5) == (pool == "polyphase")


def test_what_is_learned_and_what_is_held_out_share_no_cell(module, monkeypatch):
    data = module("experiment_data")
    ramp = torch.arange(512 * 512.0).view(512, 512)
    monkeypatch.setattr(data, "photograph", lambda name: ramp)
    monkeypatch.setattr(data, "standardised", lambda images: images)
    found = data.textures(0, 30)
    assert (found.images % 512).max() < 256 <= (found.held_images % 512).min()
    moved = found.moved((1, -2))
    assert torch.equal(moved[..., 1:, :-2], found.moved((0, 0))[..., :-1, 2:])


# ---- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((), "none is no folder"),
        (("none/a/1.png", "none/a/2.png"), "for each class, at least two; it has 1"),
        (("none/a/1.png", "none/a/2.png", "none/b/1.png"),
         "class 'b' needs two pictures, one of them to hold out; it has 1"),
        (("none/a/1.png", "none/a/2.png", "none/b/1.png", "none/b/broken.png"),
         "cannot read none/b/broken.png: it is not a PNG or JPEG image"),
    ],
)  # fmt: skip
def test_bad_folders(experiment, files, words, tmp_path):
    for name in files:
        save(tmp_path / name, 40)
        if "broken" in name:
            (tmp_path / name).write_text("no picture")
    result = experiment(*TINY, "--data", "none")
    assert (result.exit_code, "Traceback" in result.output) == (2, False)
    shown = " ".join(result.output.replace("│", " ").split()).replace(f"{tmp_path}/", "")
    assert words in shown
    assert not (tmp_path / "experiment.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pool", "median"), "'median' is not one of"),
        (("--runs", "bad.jsonl"), "bad.jsonl, line 2 is no run of this experiment"),
        (("--plot", "none/a.png"), "there is no folder none"),
        (("--write-docs", "page.md"), "page.md must have the lines"),
    ],
)
def test_bad_options(experiment, options, words, tmp_path):
    job = {"task": "digits", "pool": "max", "head": "gap", "seed": 0, "epochs": 1, "per_class": 1}
    result = {"accuracy": 0.1, "consistency": 0.5, "parameters": 7, "step_ms": 1.0}
    good = json.dumps({"job": job, "result": result})
    (tmp_path / "bad.jsonl").write_text(f"{good}\n{good[:40]}\n")
    (tmp_path / "page.md").write_text("no marks\n")
    refused = experiment(*TINY, *options)
    assert refused.exit_code == 2
    assert words in " ".join(refused.output.split())
