"""torch.compile of torch's own functions: static shapes, compiled for the point alone."""

from collections.abc import Callable

import torch
import torch._dynamo
from torch import Tensor

from .. import stock
from ..cases import Point
from .base import Peer, laid_out_like, with_autograd


class Compiled(Peer):
    name = "torch.compile"
    is_torch = True
    torch_autograd = True

    def version(self) -> str:
        return str(torch.__version__)

    def start(self, threads: int) -> None:
        import torch._functorch.config
        import torch._inductor.config

        # In this process: a pool of compiling processes would wake up among the timings.
        torch._inductor.config.compile_threads = 1
        # The backward of a point is called again and again.
        torch._functorch.config.donated_buffer = False

    def prepare(self, point: Point, x: Tensor, upstream: Tensor) -> Callable[[], Tensor]:
        torch._dynamo.reset()  # what other points left behind would count as recompilations
        function, args = getattr(stock, point.case.function), point.case.args
        compiled = torch.compile(lambda x: function(x, *args), dynamic=False)
        return with_autograd(point, compiled, x, laid_out_like(upstream))
