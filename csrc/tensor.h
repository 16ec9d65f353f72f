// What the kernels need of a tensor: a pointer, its planes, and the length of its innermost run.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "window.h"

namespace poolkit {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The axes of a tensor from the innermost in memory to the outermost: of channels-last C, W, H,
// (D,) N.
inline int64_t axis_in_memory(int64_t i, int64_t dim, bool channels_last) {
  if (!channels_last) return dim - 1 - i;
  return i == 0 ? 1 : (i == dim - 1 ? 0 : dim - i);
}

// Whether the strides order the axes as channels-last does: torch's suggest_memory_format, which
// the stable ABI lacks. Ambiguous strides (C == 1 or H == W == 1) must be read as torch reads them.
inline bool suggests_channels_last(const Tensor& t) {
  const auto sizes = t.sizes();
  const auto dim = int64_t(sizes.size());
  if (dim != 4 && dim != 5) return false;
  const auto strides = t.strides();
  int64_t least = 0;
  if (strides[1] == 0) return false;
  for (int64_t i = 0; i < dim; ++i) {
    const int64_t axis = axis_in_memory(i, dim, true);
    if (sizes[axis] == 0 || strides[axis] < least) return false;
    if (axis == 0 && least == strides[1]) return false;
    least = strides[axis] * (sizes[axis] > 1 ? sizes[axis] : 1);
  }
  return true;
}

inline MemoryFormat format_of(bool channels_last, int64_t dim) {
  if (!channels_last) return MemoryFormat::Contiguous;
  return dim == 5 ? MemoryFormat::ChannelsLast3d : MemoryFormat::ChannelsLast;
}

// The planes of a tensor whose memory is dense in one of the two formats: `planes` blocks of
// (D, H, W) cells, each cell a run of `run` values (1 if contiguous, C if channels-last).
struct Planes {
  Tensor tensor;
  int64_t planes = 0, run = 1;
};

inline Planes planes_of(Tensor t, bool channels_last, int rank) {
  const auto sizes = t.sizes();
  int64_t planes = 1;
  for (size_t i = 0; i + size_t(rank) < sizes.size(); ++i) planes *= sizes[i];
  const int64_t run = channels_last ? sizes[1] : 1;
  return {std::move(t), run == 0 ? 0 : planes / run, run};
}

inline bool is_dense(const Tensor& t, bool channels_last) {
  if (!channels_last) return t.is_contiguous();
  const auto sizes = t.sizes(), strides = t.strides();
  const auto dim = int64_t(sizes.size());
  for (int64_t i = 0, stride = 1; i < dim; ++i) {
    const auto axis = size_t(axis_in_memory(i, dim, true));
    if (sizes[axis] == 1) continue;
    if (sizes[axis] == 0 || strides[axis] != stride) return false;
    stride *= sizes[axis];
  }
  return true;
}

// `t` itself if it is dense in the format, else a copy of it.
inline Planes dense(const Tensor& t, bool channels_last, int rank) {
  // The dispatcher would double the cost of a call on a tiny tensor.
  if (is_dense(t, channels_last)) return planes_of(t, channels_last, rank);
  return planes_of(torch::stable::contiguous(t, format_of(channels_last, t.dim())), channels_last,
                   rank);
}

inline void check_extents(const Tensor& t, const int64_t* extents, int rank) {
  const auto sizes = t.sizes();
  const auto dim = int64_t(sizes.size());
  bool fits = dim == rank + 1 || dim == rank + 2;
  for (int i = 0; fits && i < rank; ++i) fits = sizes[size_t(dim - rank + i)] == extents[i];
  STD_TORCH_CHECK(fits, "poolkit: the tensor does not have the extents of the window");
}

inline Planes empty_planes(const Tensor& like, const int64_t* extents, int rank, bool channels_last,
                           ScalarType dtype) {
  int64_t sizes[5];
  const auto old_sizes = like.sizes();
  const auto dim = int64_t(old_sizes.size());
  for (int64_t i = 0; i < dim; ++i)
    sizes[i] = i < dim - rank ? old_sizes[size_t(i)] : extents[i - (dim - rank)];
  // Strides as torch gives them. (By way of the dispatcher, torch::stable::empty takes longer.)
  int64_t strides[5];
  for (int64_t i = 0, stride = 1; i < dim; ++i) {
    const int64_t axis = axis_in_memory(i, dim, channels_last);
    const int64_t size = channels_last ? sizes[axis] : std::max<int64_t>(1, sizes[axis]);
    strides[axis] = stride;
    STD_TORCH_CHECK(stride <= INT64_MAX / 16 / std::max<int64_t>(1, size),
                    "poolkit: the result has more elements than memory can address");
    stride *= size;
  }
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dim, sizes, strides, int32_t(dtype),
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  Tensor t(handle);
  return planes_of(std::move(t), channels_last, rank);
}

// (C, D, H, W) is a 4-D tensor without a batch: it may look channels-last, but its axis 1 is no
// channel. The kernels then read it as contiguous planes and the result is put into the format.
inline bool has_channel_run(bool channels_last, int64_t dim, int rank) {
  return channels_last && dim == rank + 2;
}

inline Tensor in_format(const Tensor& t, bool channels_last, int rank) {
  if (!channels_last || has_channel_run(channels_last, t.dim(), rank)) return t;
  const auto sizes = t.sizes();
  Tensor copy = torch::stable::empty(sizes, t.scalar_type(), std::nullopt, std::nullopt,
                                     std::nullopt, format_of(true, t.dim()));
  return torch::stable::copy_(copy, t);
}

// Work below this many elementary steps is not worth waking another thread for.
constexpr int64_t kGrain = 1 << 15;

// Run f(begin, end) over [0, items), each item costing about `cost` steps.
template <class F>
void parallel(int64_t items, int64_t cost, const F& f) {
  if (items <= 0) return;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, cost));
  if (items <= grain) return f(int64_t(0), items);
  torch::stable::parallel_for(0, items, grain, f);
}

}  // namespace poolkit
