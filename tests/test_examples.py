"""examples/train_digits.py: it learns, takes its choices, and refuses or stops cleanly."""

import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

from PIL import Image

TRAIN = str(Path(__file__).parents[1] / "examples" / "train_digits.py")


def run(*options, folder):
    return subprocess.run(
        [sys.executable, "-P", TRAIN, *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def accuracies(printed):
    return [
        float(share) for share in re.findall(r"^ +\d+ +[\d.]+ +([\d.]+)%", printed, re.MULTILINE)
    ]


def test_it_learns(tmp_path):
    """One short epoch: far above the tenth that guessing gets; the same with the same seed."""
    options = ("--epochs", "1", "--seed", "3")
    first = run(*options, "--plot", "curve.png", folder=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    (accuracy,) = accuracies(first.stdout)
    assert accuracy > 60
    assert "max pool 3/2/1 (16, 8, 8) -> (16, 4, 4)" in first.stdout
    right, low, high = re.search(
        r"(\d+) of 450 .* interval ([\d.]+)% to ([\d.]+)%", first.stdout
    ).groups()
    assert round(100 * int(right) / 450, 1) == accuracy
    assert float(low) < accuracy < float(high)
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.format == "PNG"
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    assert accuracies(run(*options, folder=tmp_path).stdout) == [accuracy]


def test_interval():
    """Wilson's for 5 of 10, as textbooks have it; it stays within 0 and 1 where all are right."""
    interval = runpy.run_path(TRAIN)["interval"]
    assert interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_choices(tmp_path):
    choices = ("--pool", "avg", "--stem", "d", "--shortcut", "avg", "--head", "gmp")
    result = run("--epochs", "1", *choices, folder=tmp_path)
    path = [line.split(" (")[0].strip() for line in result.stdout.splitlines()[:6]]
    assert path == [
        "strided conv 3/2/1",
        "avg pool 3/2/1",
        "strided conv 3/2/1",
        "avg pool 2/2",
        "global max",
        "linear",
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pool", "median"), "'median' is not one of"),
        (("--epochs", "0"), "0 is not in the range"),
        (("--plot", "none/curve.png"), "cannot write none/curve.png: there is no folder none"),
        (("--plot", "."), "cannot write .: it is a folder"),
    ],
)
def test_bad_options(options, words, tmp_path):
    result = run(*options, folder=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path):
    code = f"""
import runpy, sys
sys.modules["sklearn"] = None
runpy.run_path({TRAIN!r})
"""
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert (
        result.stderr == "train_digits.py needs sklearn.datasets: pip install 'poolkit[examples]'\n"
    )


@pytest.mark.usefixtures("interruptible_children")
def test_interrupting(tmp_path):
    """What was reached is said, nothing is written, and no traceback shows."""
    command = [sys.executable, "-P", TRAIN, "--epochs", "1000", "--plot", "curve.png"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        while not accuracies(process.stdout.readline()):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert re.search(r"stopped after \d+ of 1000 epochs; nothing was saved", printed)
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())
