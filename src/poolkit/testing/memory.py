"""Memory that a call takes: what autograd keeps of it, and the peak of the whole process."""

import resource
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def saved_bytes(run: Callable[[], object], without: Iterable[Tensor] = ()) -> int:
    """Bytes of the tensors that one call asks autograd to keep; a storage counts once.

    Those of the tensors ``without`` do not count.
    """
    kept: dict[int, int] = {}
    left_out = {tensor.untyped_storage().data_ptr() for tensor in without}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in left_out:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(kept.values())


def highest_resident_set() -> int:
    """Bytes of this process's highest resident set until now, as the system counts it."""
    status = Path("/proc/self/status")
    if status.exists():  # not ru_maxrss: there Linux counts the parent's memory, too
        lines = status.read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
