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
from .heads import gem_pool, global_avg_max_pool, global_cat_avg_max_pool
from .polyphase import depth_to_space, polyphase_pool, polyphase_unpool, space_to_depth

__all__ = [
    "add_at",
    "avg_pool",
    "avg_pool_backward",
    "blur_pool",
    "blur_pool_backward",
    "depth_to_space",
    "fractional_avg_pool",
    "fractional_avg_pool_backward",
    "fractional_max_pool",
    "gem_pool",
    "global_avg_max_pool",
    "global_cat_avg_max_pool",
    "lp_pool",
    "max_blur_pool",
    "max_pool",
    "max_unpool",
    "pick",
    "plane_indices",
    "polyphase_pool",
    "polyphase_unpool",
    "put",
    "put_backward",
    "scatter",
    "space_to_depth",
    "take",
]
