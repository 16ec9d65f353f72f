"""Every operator in plain torch: slow and obviously right, the specification of the kernels."""

from .blur import blur_pool, blur_pool_backward, max_blur_pool
from .core import (
    add_at,
    avg_pool,
    avg_pool_backward,
    fractional_avg_pool,
    fractional_avg_pool_backward,
    fractional_max_pool,
    lp_pool,
    max_pool,
    max_unpool,
    pick,
    plane_indices,
    put,
    put_backward,
    scatter,
    take,
)

__all__ = [
    "add_at",
    "avg_pool",
    "avg_pool_backward",
    "blur_pool",
    "blur_pool_backward",
    "fractional_avg_pool",
    "fractional_avg_pool_backward",
    "fractional_max_pool",
    "lp_pool",
    "max_blur_pool",
    "max_pool",
    "max_unpool",
    "pick",
    "plane_indices",
    "put",
    "put_backward",
    "scatter",
    "take",
]
