"""examples/train_stock_and_poolkit.py: the same curves, what it prints, that it ends cleanly."""

import importlib
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

import click
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT = str(EXAMPLES / "train_stock_and_poolkit.py")


@pytest.fixture
def example(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("train_stock_and_poolkit")


def run(*options, folder):
    return subprocess.run(
        [sys.executable, SCRIPT, *options], capture_output=True, text=True, check=False, cwd=folder
    )


@pytest.mark.usefixtures("keep_threads")
def test_curves(example):
    """One curve to the bit for both loops and both sides with maxima; nearly one with averages."""
    found = {
        (loop, side): example.train(example.Job(loop, side, "max", epochs=2, seed=1), lambda: None)
        for loop, side in itertools.product(example.LOOPS, example.SIDES)
    }
    first = found["plain", "torch"]
    assert len(first.losses) == 2 * math.ceil(1347 / example.BATCH)
    assert first.losses[-1] < first.losses[0]
    assert all(result.losses == first.losses for result in found.values())
    # A byte for an index of eight, for each of the 64 x 4 x 4 and 128 x 2 x 2 maxima of a digit.
    saved = {side: found["plain", side].kept for side in example.SIDES}
    assert saved["torch"] - saved["poolkit"] == 7 * example.BATCH * (64 * 4 * 4 + 128 * 2 * 2)

    stock, ours = (
        example.train(example.Job("plain", side, "avg", epochs=2, seed=1), lambda: None).losses
        for side in example.SIDES
    )
    assert example.apart(stock, ours) < 1e-4
    assert example.apart(stock, first.losses) > 1e-3


def test_verdict(example):
    assert example.apart([2.0, 1.0], [2.0, 1.0]) == 0
    assert example.apart([2.0, 1.0], [2.0, 1.01]) == pytest.approx(0.01)
    assert example.verdict(0.0, 6, "max") == "the same curve to the bit, in 6 steps"
    assert example.verdict(1e-6, 6, "avg").startswith("the curves differ by at most 1.0e-06 of")


def test_report(tmp_path):
    result = run("--loop", "plain", "--epochs", "1", "--plot", "curves.png", folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    row = r"^plain loop +{} +\d+ +{} MiB +\+\d+\.\d MiB +(\S+) +(\S+)%$"
    rows = [
        re.search(row.format(side, kept), result.stdout, re.MULTILINE)
        for side, kept in (("torch", "11.0"), ("poolkit", "8.3"))
    ]
    assert rows[0].groups() == rows[1].groups()
    assert "plain loop: the same curve to the bit, in 6 steps" in result.stdout
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_no_folder_for_the_picture(tmp_path):
    result = run("--plot", "none/curves.png", folder=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "cannot write none/curves.png: there is no folder none" in result.stderr


def test_a_training_that_fails(example, capfd):
    """Its process says why; the command says which one it was."""
    job = example.Job("plain", "torch", "median", epochs=1, seed=0)
    with pytest.raises(click.ClickException, match="on torch's pooling ended with status 1"):
        example.in_a_process(job, lambda: None)
    assert "KeyError: 'median'" in capfd.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds children in Linux's /proc")
@pytest.mark.usefixtures("interruptible_children")
def test_interrupting(tmp_path):
    """Ctrl-C reaches every process of a terminal: none shows a traceback or stays behind."""
    command = [sys.executable, SCRIPT, "--epochs", "1000", "--plot", "curves.png"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        start_new_session=True,
    ) as process:  # fmt: skip
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (training := [pid for pid in listed.read_text().split() if trains(pid)]):
            assert process.poll() is None
            time.sleep(0.05)
        status = Path(f"/proc/{training[0]}/status").read_text(encoding="utf-8")
        os.killpg(process.pid, signal.SIGINT)
        try:
            printed, errors = process.communicate(timeout=120)
        finally:
            if process.poll() is None:  # else the test would wait for all of its trainings
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert printed.strip() == "stopped after 0 of 4 trainings; nothing was saved"
    assert errors == ""
    # Whether the training would have had the time to show one is a matter of luck.
    ignored = int(re.search(r"^SigIgn:\s+(\w+)", status, re.MULTILINE)[1], 16)
    assert ignored & 1 << (signal.SIGINT - 1)
    assert not [pid for pid in training if Path(f"/proc/{pid}").exists()]
    assert not list(tmp_path.iterdir())


def trains(pid):
    """Whether a child is that of a training, and has come so far that it loads torch."""
    command, maps = (Path(f"/proc/{pid}/{name}") for name in ("cmdline", "maps"))
    try:  # until it becomes another program it has its parent's command and memory
        return "spawn_main" in command.read_text("utf-8") and "libtorch" in maps.read_text("utf-8")
    except OSError:  # it has ended meanwhile
        return False
