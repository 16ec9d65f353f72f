"""Programs that leave the process: exported, compiled ahead of time, and loaded in another one."""

import subprocess
import sys

import pytest
import torch

from poolkit import functional as F
from poolkit import nn, ops
from poolkit.testing import assert_close, sample

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # torch.export's own deprecations
    pytest.mark.skipif(
        not ops.NATIVE, reason="the reference alone is no operator, which a program could call"
    ),
]

LOAD = {
    "export": "program = torch.export.load(path).module()",
    "package": "program = torch._inductor.aoti_load_package(path)",
}

PROCESS = """
import sys, torch
{imports}
path, data = sys.argv[1:]
{load}
for x, expected in torch.load(data, weights_only=True):
    for got, wanted in zip(program(x), expected, strict=True):
        torch.testing.assert_close(got, wanted)
print("equal")
"""


class EveryFamily(torch.nn.Module):
    """Modules and functions of every family, for any batch and any size of image."""

    def __init__(self):
        super().__init__()
        self.pools = torch.nn.ModuleList([
            nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, padding=1, padding_mode="reflect"),
            nn.AvgPool2d(3, 2, 1, True, False), nn.LPPool2d(2, 2), nn.LPPool2d(3, 2, absolute=True),
            nn.AdaptiveAvgPool2d((3, 2)), nn.GlobalAvgPool2d(), nn.GlobalMaxPool2d(flatten=True),
            nn.BlurPool2d(), nn.MaxBlurPool2d(3, 2, 1),
        ])  # fmt: skip

    def forward(self, x):
        found = [pool(x) for pool in self.pools]
        found += [F.global_cat_avg_max_pool2d(x), F.gem_pool2d(x, 3, 2, 1), F.global_gem_pool2d(x)]
        found += F.polyphase_pool2d(x, return_phase=True)
        found.append(F.polyphase_unpool2d(*found[-2:], 2, x.shape[2:]))
        found += F.adaptive_max_pool2d_with_indices(x, (3, 2))
        samples = torch.full((x.shape[0], x.shape[1], 2), 0.3)
        found.append(F.fractional_avg_pool2d(x, 2, output_ratio=0.7, _random_samples=samples))
        found += F.fractional_max_pool2d(x, 2, 4, None, True, samples)
        y, i = F.max_pool2d(x, 3, 2, return_indices=True)
        for duplicates in ("last", "sum", "max", "mean"):
            size = x.shape[2:]
            found.append(F.max_unpool2d(y, i, 3, 2, output_size=size, duplicates=duplicates))
        y, i = F.max_pool2d(x, 2, return_indices=True)
        found.append(F.max_unpool2d(y, i, 2, output_size=x.shape[2:], duplicates="error"))
        return tuple(found)


class EveryOperator(torch.nn.Module):
    """Each operator of poolkit that a program for inference calls."""

    def forward(self, x):
        y, i = F.max_pool2d(torch.relu(x), 3, 2, 1, return_indices=True)
        return y, i, F.max_pool2d(y, 2), F.adaptive_avg_pool2d(x, (3, 2)), F.lp_pool2d(x, 2, 2)


def exported(model, strict):
    any_size = torch.export.Dim.DYNAMIC
    dims = {0: torch.export.Dim("n", min=1, max=64), 2: any_size, 3: any_size}
    x = sample((2, 3, 12, 11))
    return torch.export.export(model, (x,), dynamic_shapes=(dims,), strict=strict)


def run_elsewhere(kind, model, path, tmp_path, imports="import poolkit"):
    """Load and run a program in a new process, with other sizes than it was made with."""
    inputs = [sample((2, 3, 12, 11)), sample((5, 3, 9, 14))]
    data = tmp_path / "data.pt"
    with torch.no_grad():
        torch.save([(x, model(x)) for x in inputs], data)
    code = PROCESS.format(imports=imports, load=LOAD[kind])
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, path, data],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("strict", [False, True])
def test_saved_program(strict, tmp_path):
    """Its operators come with `import poolkit`; without it torch says which one is missing."""
    path, model = tmp_path / "program.pt2", EveryFamily()
    torch.export.save(exported(model, strict), path)
    run = run_elsewhere("export", model, path, tmp_path)
    assert run.stdout == "equal\n", run.stderr
    if strict:
        return
    run = run_elsewhere("export", model, path, tmp_path, imports="")
    assert run.returncode
    assert "poolkit" in run.stderr


def test_program_checks_repeated_indices():
    """What eager code refuses before anything is done, a program refuses when it runs."""

    class Unpool(torch.nn.Module):
        def forward(self, x, i):
            return F.max_unpool2d(x, i, 1, duplicates="error")

    x, i = sample((1, 1, 2, 2)), torch.arange(4).reshape(1, 1, 2, 2)
    program = torch.export.export(Unpool(), (x, i)).module()
    assert_close(program(x, i), x)
    with pytest.raises(RuntimeError, match="duplicates='error', and an index repeats another"):
        program(x, i.clamp(max=2))


def test_packaged_program(tmp_path, monkeypatch):
    """AOTInductor: `import poolkit` loads the operators that the package calls."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    path, model = tmp_path / "model.pt2", EveryOperator()
    program = exported(model, strict=False)
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    run = run_elsewhere("package", model, path, tmp_path)
    assert run.stdout == "equal\n", run.stderr


@pytest.mark.parametrize("extents", [(), (2, 3)])
def test_dimensions_without_an_upper_bound(extents):
    """The program is asked for no limit that not every batch or image would meet."""
    pools = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, True), nn.LPPool2d(2, 2), nn.MaxPool2d(2)
    dims = {0: torch.export.Dim("n")}
    dims |= {axis: torch.export.Dim(f"axis{axis}", min=8) for axis in extents}
    for pool in pools:
        program = torch.export.export(pool, (torch.randn(2, 3, 16, 16),), dynamic_shapes=(dims,))
        x = torch.randn(5, 3, *((19, 23) if extents else (16, 16)))
        assert torch.equal(program.module()(x), pool(x))
