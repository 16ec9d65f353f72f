// Maximum pooling: values alone for inference, values and offsets for training.
//
// What the loops do to a row: forward.h. Here the reduction is chosen: beats() decides, in
// row-major order; with offsets the winner's tap travels in a lane beside the value and is narrowed
// to one byte (two or four for large windows) when an output row is done.
#include <tuple>

#include "forward.h"

namespace poolkit {
namespace {

// Where offsets go: uint8, uint16 and int32 tensors alike.
struct Offsets {
  void* data = nullptr;
  ScalarType type = ScalarType::Byte;

  template <class Lane>
  void store(int64_t first, const Lane* taps, int64_t n) const {
    dispatch_offsets(type, [&]<class O>() {
      O* to = static_cast<O*>(data) + first;
      for (int64_t i = 0; i < n; ++i) to[i] = O(taps[i]);
    });
  }
};

template <class T, class Offset>
void max_planes(const T* x, T* y, const Offsets& offsets, const Window& w, int64_t planes,
                int64_t run) {
  using R = Max<T, Offset>;
  forward<R>(x, w, planes, run, y,
             [&](const Strip& p, const T* values, const typename R::Lane* taps, int64_t pitch) {
               if constexpr (R::kOffsets)
                 for (int64_t r = 0; r < p.rows; ++r) {
                   const int64_t to = p.first + r * p.pitch;
                   if (pitch != p.pitch) std::copy_n(values + r * pitch, p.n(), y + to);
                   offsets.store(to, taps + r * pitch, p.n());
                 }
             });
}

Tensor max_pool(const Tensor& x, std::vector<int64_t> window) {
  const Window w(window);
  check_extents(x, w.in, w.rank);
  const bool suggested = suggests_channels_last(x);
  const bool runs = has_channel_run(suggested, x.dim(), w.rank);
  const Planes in = dense(x, runs, w.rank);
  Planes out = empty_planes(x, w.out, w.rank, runs, x.scalar_type());
  dispatch<kAllIntegers>(x.scalar_type(), "max_pool", [&]<class T>() {
    max_planes<T, NoOffset>(static_cast<const T*>(in.tensor.const_data_ptr()),
                            static_cast<T*>(out.tensor.mutable_data_ptr()), {}, w, in.planes,
                            in.run);
  });
  return in_format(out.tensor, suggested, w.rank);
}

std::tuple<Tensor, Tensor> max_pool_offsets(const Tensor& x, std::vector<int64_t> window) {
  const Window w(window);
  check_extents(x, w.in, w.rank);
  const bool suggested = suggests_channels_last(x);
  const bool runs = has_channel_run(suggested, x.dim(), w.rank);
  const Planes in = dense(x, runs, w.rank);
  Planes out = empty_planes(x, w.out, w.rank, runs, x.scalar_type());
  const ScalarType type = offset_type(w.packed_taps());
  Planes offsets = empty_planes(x, w.out, w.rank, runs, type);
  dispatch<kAllIntegers>(x.scalar_type(), "max_pool_offsets", [&]<class T>() {
    const auto go = [&]<class Offset>() {
      max_planes<T, Offset>(static_cast<const T*>(in.tensor.const_data_ptr()),
                            static_cast<T*>(out.tensor.mutable_data_ptr()),
                            {offsets.tensor.mutable_data_ptr(), type}, w, in.planes, in.run);
    };
    if (type == ScalarType::Byte)
      go.template operator()<SmallOffset>();
    else
      go.template operator()<LargeOffset>();
  });
  return {in_format(out.tensor, suggested, w.rank), in_format(offsets.tensor, suggested, w.rank)};
}

}  // namespace
}  // namespace poolkit

STABLE_TORCH_LIBRARY_IMPL(poolkit, CPU, m) {
  m.impl("max_pool", TORCH_BOX(&poolkit::max_pool));
  m.impl("max_pool.ints", TORCH_BOX(&poolkit::max_pool));
  m.impl("max_pool_offsets", TORCH_BOX(&poolkit::max_pool_offsets));
  m.impl("max_pool_offsets.ints", TORCH_BOX(&poolkit::max_pool_offsets));
}
