"""poolkit.selfcheck: it finds what is broken, says how to see it again, and leaves no trace."""

import doctest
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

import poolkit
import poolkit.functional as F
from poolkit import ArgumentError
from poolkit.testing import FLOATS, INTEGERS, LAYOUTS, VALUES, Case, comparable, random_case

# The package's attribute of this name is the function.
selfcheck_module = sys.modules["poolkit.selfcheck"]

pytestmark = pytest.mark.usefixtures("one_thread")


def cases(operator, number):
    return [random_case(operator, Random(f"{operator}/{n}")) for n in range(number)]


def first_failure(operator, number=60):
    """The first case of an operator that fails; None if all of them agree."""
    for case in cases(operator, number):
        try:
            case.check()
        except AssertionError:
            return case
    return None


def replace_values(result, change):
    return (change(result[0]), *result[1:]) if isinstance(result, tuple) else change(result)


# ---- What is broken is found --------------------------------------------------------------------


def last_cell_wrong(y):
    y = y.clone()
    if y.numel():
        cell = y.view(-1)[-1:] if y.is_contiguous() else y[(-1,) * y.dim()]
        cell.copy_(cell == 0)
    return y


def shifted_indices(result):
    return (result[0], result[1] + 1) if isinstance(result, tuple) else result


def wrong_gradient(y):
    if y.requires_grad:
        y.register_hook(lambda g: 1.5 * g)
    return y


BROKEN = {
    "a value": lambda x, result: replace_values(result, last_cell_wrong),
    "an index": lambda x, result: shifted_indices(result),
    "the gradient": lambda x, result: replace_values(result, wrong_gradient),
    "the gradient of half types": lambda x, result: (
        replace_values(result, wrong_gradient) if x.dtype in poolkit.testing.HALVES else result
    ),
    "bool": lambda x, result: (
        replace_values(result, torch.logical_not) if x.dtype is torch.bool else result
    ),
    "the dtype": lambda x, result: replace_values(result, lambda y: y.to(torch.float64)),
    "channels-last": lambda x, result: replace_values(result, lambda y: y.contiguous()),
    "the sign of zeros": lambda x, result: replace_values(result, lambda y: y + 0),
    "the last digits": lambda x, result: replace_values(result, lambda y: y * 1.001),
    "an exception of torch's": lambda x, result: torch.ones(1).view(7),
}

MAXIMA = [
    "max_pool1d", "max_pool2d", "max_pool3d_with_indices", "adaptive_max_pool2d",
    "adaptive_max_pool3d_with_indices", "fractional_max_pool1d", "fractional_max_pool3d",
]  # fmt: skip
MEANS = [
    "avg_pool1d", "avg_pool3d", "adaptive_avg_pool2d", "global_avg_pool3d",
    "fractional_avg_pool1d", "fractional_avg_pool2d", "lp_pool2d", "blur_pool2d",
    "max_blur_pool3d",
]  # fmt: skip
MUTATIONS = [
    *((name, "a value") for name in comparable()),
    *((name, "an index") for name in MAXIMA),
    *((name, "the gradient") for name in (*MAXIMA, *MEANS, "global_max_pool2d", "max_unpool2d")),
    *((name, "the gradient of half types") for name in (*MAXIMA, *MEANS, "max_unpool3d")),
    *((name, "bool") for name in ("max_pool2d", "adaptive_max_pool1d", "global_max_pool3d")),
    *((name, "the dtype") for name in ("max_pool2d", "avg_pool2d", "max_unpool1d")),
    *((name, "channels-last") for name in ("max_pool2d", "avg_pool2d", "lp_pool2d")),
    *((name, "the sign of zeros") for name in ("max_pool1d", "max_pool3d", "global_max_pool2d")),
    *((name, "the last digits") for name in MEANS),
    ("max_pool2d", "an exception of torch's"),
]


@pytest.mark.parametrize("operator", comparable())
def test_what_is_right_passes(operator):
    assert first_failure(operator, 25) is None


def test_torch_is_not_asked_by_its_weak_side():
    """One channel passes for channels-last, where torch's 3-D maxima of -inf name another cell."""
    case = Case(
        "max_blur_pool3d", (3, 16, 13, 15, 14), torch.bfloat16, "special", "ambiguous", True,
        seed=1940709864, threads=1,
        arguments={"kernel_size": (1, 4, 1), "stride": (2, 1, 1), "padding_mode": "reflect",
                   "padding": (0, 1, 0), "blur": (2, 1, 4)},
    )  # fmt: skip
    case.check()  # raises what no deviation names


@pytest.mark.parametrize(("operator", "what"), MUTATIONS)
def test_what_is_broken_is_found(monkeypatch, operator, what):
    right = getattr(F, operator)

    def broken(x, *args, **kwargs):
        return BROKEN[what](x, right(x, *args, **kwargs))

    monkeypatch.setattr(F, operator, broken)
    assert first_failure(operator) is not None


@pytest.fixture
def few(monkeypatch):
    """Two operators are all there are, so that a turn takes milliseconds."""
    monkeypatch.setattr(F, "__all__", ["max_pool2d", "avg_pool3d"])


@pytest.fixture
def broken(monkeypatch, few):
    right = F.max_pool2d
    wrong = BROKEN["a value"]
    monkeypatch.setattr(F, "max_pool2d", lambda x, *a, **k: wrong(x, right(x, *a, **k)))


def stopped_after(number):
    """A progress function that presses Ctrl-C after so many comparisons."""
    calls = itertools.count()

    def progress(_):
        if next(calls) == number:
            raise KeyboardInterrupt

    return progress


def test_a_failure_is_reported_with_the_code_that_makes_it_again(broken):
    result = poolkit.selfcheck(600, seed=3, progress=stopped_after(40))
    assert (result.exit_code, result.interrupted) == (1, True)
    assert [(t.operator, t.compared) for t in result.tallies] == [
        ("max_pool2d", 20), ("avg_pool3d", 20),
    ]  # fmt: skip
    assert result.tallies[0].failed > 10
    assert result.tallies[1].failed == 0
    (failure,) = result.failures
    shown = str(result)
    assert str(failure) in shown
    code = "\n".join(line[4:] for line in str(failure).splitlines() if line.startswith("    "))
    with pytest.raises(AssertionError) as again:
        exec(code)
    assert str(again.value).strip() == failure.reason


def test_any_exception_is_a_failure(few, monkeypatch):
    def broken(*_, **__):
        raise MemoryError("no more")

    monkeypatch.setattr(F, "max_pool2d", broken)
    result = poolkit.selfcheck(600, seed=3, progress=stopped_after(2))
    assert result.failures[0].reason == "MemoryError: no more"


# ---- The result ---------------------------------------------------------------------------------


def test_every_operator_is_compared_at_least_once():
    result = poolkit.selfcheck(1e-9, seed=0)
    assert [(t.operator, t.compared, t.failed) for t in result.tallies] == [
        (name, 1, 0) for name in comparable()
    ]
    assert (result.exit_code, result.failures, result.interrupted) == (0, (), False)
    assert sum(t.named for t in result.tallies) > 0
    assert set(result.deviations) <= {d.id for d in poolkit.testing.DEVIATIONS}
    lines = str(result).splitlines()
    assert lines[0].split() == ["operator", "compared", "named", "failed"]
    assert lines[1].split() == ["adaptive_avg_pool1d", "1", f"{result.tallies[0].named}", "0"]
    assert "45 comparisons with torch" in lines[-1]
    assert lines[-1].endswith("threads 1, seed 0")


def test_the_seed_says_what_is_compared(few):
    results = [poolkit.selfcheck(600, 5, progress=stopped_after(30)) for _ in "ab"]
    assert results[0].tallies == results[1].tallies
    assert results[0].deviations == results[1].deviations
    drawn = {poolkit.selfcheck(600, progress=stopped_after(0)).seed for _ in range(4)}
    assert len(drawn) == 4
    streams = [
        [repr(case) for case in itertools.islice(selfcheck_module._cases(seed, (1,)), 8)]
        for seed in (5, 5, 6)
    ]
    assert streams[0] == streams[1]
    assert streams[0] != streams[2]


def test_threads_take_turns(few, keep_threads):
    torch.set_num_threads(2)
    result = poolkit.selfcheck(600, 0, progress=stopped_after(0))
    assert result.threads == (1, 2)
    cases = itertools.islice(selfcheck_module._cases(0, result.threads), 8)
    assert [case.threads for case in cases] == [1, 1, 2, 2] * 2
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("operator", comparable())
def test_cases_reach_everything(operator):
    drawn = cases(operator, 300)
    assert {case.layout for case in drawn} == set(LAYOUTS)
    assert {case.batched for case in drawn} == {True, False}
    assert {case.dtype for case in drawn} >= set(FLOATS)
    kinds = {case.values for case in drawn}
    if "max" in operator and "blur" not in operator:
        assert kinds == set(VALUES)
        assert "fractional" in operator or "unpool" in operator or (
            {case.dtype for case in drawn} == {*FLOATS, *INTEGERS}
        )  # fmt: skip
    assert any(case.seed != drawn[0].seed for case in drawn)


def test_interrupted():
    result = poolkit.selfcheck(600, seed=0, progress=stopped_after(5))
    assert (result.exit_code, result.interrupted) == (130, True)
    assert sum(t.compared for t in result.tallies) == 5
    assert "5 comparisons" in str(result)
    assert "interrupted after" in str(result)


def test_the_caller_s_settings_are_as_before(few, keep_threads):
    torch.set_num_threads(2)  # and the eighteenth case takes one
    torch.manual_seed(9)
    state, expected = torch.get_rng_state(), poolkit.selfcheck(600, 0, progress=stopped_after(18))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        result = poolkit.selfcheck(600, 0, progress=stopped_after(18))
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_default_device().type == "meta"
    with torch.no_grad():
        assert poolkit.selfcheck(600, 0, progress=stopped_after(18)).tallies == expected.tallies
        assert not torch.is_grad_enabled()
    assert (result.tallies, result.deviations) == (expected.tallies, expected.deviations)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 2


def test_gradients_are_compared_under_no_grad(few, monkeypatch):
    right = F.max_pool2d
    monkeypatch.setattr(F, "max_pool2d", lambda x, **k: BROKEN["the gradient"](x, right(x, **k)))
    with torch.no_grad():
        assert poolkit.selfcheck(600, 0, progress=stopped_after(18)).failures


def test_bad_arguments():
    for bad in (0, -1, float("nan"), float("inf"), "60", None, True):
        with pytest.raises(
            ArgumentError, match=r"^selfcheck: seconds must be a number above 0, got"
        ):
            poolkit.selfcheck(bad)
    for bad in (-1, 1.5, "x", True):
        with pytest.raises(ArgumentError, match=r"^selfcheck: seed"):
            poolkit.selfcheck(1, bad)


def test_examples(few):
    for module in (selfcheck_module, sys.modules["poolkit.testing.cases"]):
        found = doctest.testmod(module)
        assert found.failed == 0
        assert found.attempted > 0


# ---- Without anything but torch, and on the command line ----------------------------------------


def python(*arguments):
    return subprocess.run(
        [sys.executable, "-P", "-W", "ignore", *arguments],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_torch_is_enough():
    run = python("-c", """
import sys
for name in ("numpy", "pytest", "hypothesis", "rich", "click"):
    sys.modules[name] = None
import poolkit.testing
result = poolkit.selfcheck(1e-9, 0)
print(result)
sys.exit(result.exit_code)
""")  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "45 comparisons" in run.stdout


def test_assertions_must_not_be_removed():
    """As ``python -O`` compiles the module."""
    path = selfcheck_module.__file__
    code = compile(Path(path).read_text(encoding="utf-8"), path, "exec", optimize=1)
    names = {"__name__": "poolkit.optimised", "__package__": "poolkit"}
    exec(code, names)
    with pytest.raises(ArgumentError, match=r"^selfcheck: python -O removes the assertions"):
        names["selfcheck"](1)


@pytest.fixture
def command(capsys):
    pytest.importorskip("rich", reason="the command line needs the extra tools")
    cli = pytest.importorskip("poolkit.cli")

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["selfcheck", *arguments])
        output = capsys.readouterr()
        return exit_.value.code, output.out, output.err

    return call


def test_command(command, few):
    status, out, err = command("--seconds", "0.01", "--seed", "12")
    assert status == 0
    assert err.strip() == "seed 12"
    assert "max_pool2d" in out
    assert out.strip().endswith("seed 12")
    status, out, err = command("--seconds", "0.01")
    assert err.strip() == "seed " + out.split()[-1]


def test_command_fails(command, broken):
    status, out, _ = command("--seconds", "0.3", "--seed", "3")
    assert status == 1
    assert "from poolkit.testing import Case\n    Case(operator='max_pool2d', shape=" in out


def test_command_refuses(command):
    for arguments in (("--seconds", "0"), ("--seconds", "nan"), ("--seed", "-1"), ("--seed", "x")):
        status, out, err = command(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("poolkit: ")
        assert err.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
@pytest.mark.usefixtures("interruptible_children")
def test_command_is_interrupted():
    pytest.importorskip("rich", reason="the command line needs the extra tools")
    run = subprocess.Popen(
        [sys.executable, "-P", "-m", "poolkit", "selfcheck", "--seconds", "300"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with run:
        assert run.stderr.readline().startswith("seed ")
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert "interrupted after" in out
    assert "Traceback" not in err
