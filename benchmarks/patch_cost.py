"""What `poolkit.patch_torch` adds to a call: microseconds of one call on a tiny tensor.

    python -m benchmarks.patch_cost

``stock``: torch without the patch; ``patched``: the same call under it; ``transform``: the same
call where the patch hands it back to torch (in a forward-AD level); ``poolkit``: poolkit's own
function. The patch goes on and off between the rounds, so that all meet the same disturbances.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import torch
from torch.autograd import forward_ad as fwad

import poolkit
import poolkit.functional

from .timing import no_collection

ROUNDS, CALLS = 30, 200

KINDS = ("inference", "inference_mode", "training")
CASES = {
    "max_pool2d": (2,),
    "avg_pool2d": (2,),
    "adaptive_avg_pool2d": (1,),
    "adaptive_max_pool2d": (1,),
    "max_pool1d": (2,),
}


@contextlib.contextmanager
def handed_back() -> Iterator[None]:
    """The patch, where none of its calls is plain."""
    with poolkit.patched_torch(), fwad.dual_level():
        yield


def cost(name: str, kind: str) -> dict[str, float]:
    """Microseconds per call, the fastest of all rounds."""
    x = torch.ones(1, 1, 4, 4)[(slice(None),) if name.endswith("2d") else (0,)]
    x.requires_grad_(kind == "training")
    stock, own = getattr(torch.nn.functional, name), getattr(poolkit.functional, name)
    sides = {
        "stock": (contextlib.nullcontext, stock),
        "patched": (poolkit.patched_torch, stock),
        "transform": (handed_back, stock),
        "poolkit": (contextlib.nullcontext, own),
    }
    mode = torch.inference_mode if kind == "inference_mode" else contextlib.nullcontext
    best = dict.fromkeys(sides, float("inf"))
    with no_collection():
        for _ in range(ROUNDS):
            for side, (around, function) in sides.items():
                with around(), mode():
                    best[side] = min(best[side], _time(function, x, *CASES[name]))
    return best


def _time(function: Callable[..., object], *args: object) -> float:
    function(*args)
    start = time.perf_counter()
    for _ in range(CALLS):
        function(*args)
    return (time.perf_counter() - start) / CALLS * 1e6


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{'':36}{'stock':>10}{'patched':>10}{'transform':>10}{'poolkit':>10}   us per call")
    for name in CASES:
        for kind in KINDS:
            row = cost(name, kind)
            print(f"{name:21}{kind:15}" + "".join(f"{us:10.2f}" for us in row.values()))


if __name__ == "__main__":
    main()
