// Maximum pooling: values alone for inference, values and offsets for training.
//
// What the loops do to a row: forward.h. Here the reduction is chosen: beats() decides, in
// row-major order; with offsets the winner's tap travels in a lane beside the value and is narrowed
// to one byte (two or four for large windows) when an output row is done.
#include <tuple>

#include "forward.h"
#include "operators.h"
#include "planes.h"

namespace poolkit {
namespace {

// The types in which maxima are found. Half types are compared as integers if they can be, bytes
// with offsets as two bytes, so that there is a value below all; offsets of large windows need
// lanes of four bytes.
template <class T, class Offset>
struct MaxForms {
  static constexpr bool kOffsets = !std::is_same_v<Offset, NoOffset>;
  static constexpr bool kLarge = std::is_same_v<Offset, LargeOffset>;
  using Large =
      std::conditional_t<sizeof(T) >= 4, T, std::conditional_t<is_half<T>, float, int32_t>>;
  using Small = std::conditional_t<is_half<T> || (sizeof(T) == 1 && kOffsets), int16_t, T>;
  using Plain = std::conditional_t<kLarge, Large, Small>;
  using Full = std::conditional_t<is_half<T>, float, Plain>;
  using type = Forms<T, Max<Plain, Offset>, Max<Full, Offset>, Offset>;
};

template <class T, class Offset>
void maxima(const T* x, T* y, const Offsets& offsets, const Window& w, int64_t planes,
            int64_t run) {
  using F = typename MaxForms<T, Offset>::type;
  const Runs runs = in_rows_of_runs(w, planes, run, kLanes<typename F::V>);
  forward<F>(x, Result<F, T>{y, offsets, nullptr}, runs.window, runs.planes, runs.run);
}

}  // namespace

void max_planes(ScalarType dtype, const void* x, void* y, const Offsets& offsets, const Window& w,
                int64_t planes, int64_t run) {
  dispatch<kAllIntegers>(dtype, "max_pool", [&]<class T>() {
    const auto go = [&]<class Offset>() {
      maxima<T, Offset>(static_cast<const T*>(x), static_cast<T*>(y), offsets, w, planes, run);
    };
    if (!offsets.data)
      go.template operator()<NoOffset>();
    else if (offsets.type == ScalarType::Byte)
      go.template operator()<SmallOffset>();
    else
      go.template operator()<LargeOffset>();
  });
}

namespace {

Tensor max_pool(const Tensor& x, const Window& w) {
  check_extents(x, w.in, w.rank);
  const bool suggested = suggests_channels_last(x);
  const bool runs = has_channel_run(suggested, x.dim(), w.rank);
  const Planes in = dense(x, runs, w.rank);
  Planes out = empty_planes(x, w.out, w.rank, runs, x.scalar_type());
  max_planes(x.scalar_type(), in.tensor.const_data_ptr(), out.tensor.mutable_data_ptr(), {}, w,
             in.planes, in.run);
  return in_format(out.tensor, suggested, w.rank);
}

std::tuple<Tensor, Tensor> max_pool_offsets(const Tensor& x, const Window& w) {
  check_extents(x, w.in, w.rank);
  const bool suggested = suggests_channels_last(x);
  const bool runs = has_channel_run(suggested, x.dim(), w.rank);
  const Planes in = dense(x, runs, w.rank);
  Planes out = empty_planes(x, w.out, w.rank, runs, x.scalar_type());
  const ScalarType type = offset_type(w.packed_taps());
  Planes offsets = empty_planes(x, w.out, w.rank, runs, type);
  max_planes(x.scalar_type(), in.tensor.const_data_ptr(), out.tensor.mutable_data_ptr(),
             {offsets.tensor.mutable_data_ptr(), type}, w, in.planes, in.run);
  return {in_format(out.tensor, suggested, w.rank), in_format(offsets.tensor, suggested, w.rank)};
}

}  // namespace
}  // namespace poolkit

STABLE_TORCH_LIBRARY_IMPL(poolkit, CPU, m) {
  poolkit::implement<poolkit::max_pool>(m, "max_pool");
  poolkit::implement<poolkit::max_pool_offsets>(m, "max_pool_offsets");
}
