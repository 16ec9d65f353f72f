// The two adjoints on saved offsets: pick reads the cells that won, scatter adds gradients there.
//
// scatter has several ways, which all add the contributions of a cell in row-major order of the
// outputs, starting from 0: torch's bits, for any number of threads.
// - Windows of two columns side by side: each row of outputs fills its rows of cells (fill.h).
// - Small windows: each cell gathers from the outputs that hold it; channels as they are
//   (adjoint.h), planes where windows have stride 1 (shifted.h) or are 3/2 (halved.h).
// - All other windows: each output adds to the one cell that it names (named.h).
// - Very few planes: for every output row that may name an input row, and for every tap along it,
//   the gradient is kept where the offset equals that tap (backward.h has a drawing).
#include <vector>

#include "adjoint.h"
#include "backward.h"
#include "fill.h"
#include "halved.h"
#include "named.h"
#include "operators.h"
#include "planes.h"
#include "rows.h"
#include "shifted.h"

namespace poolkit {
namespace {

// ---- row by row ----

// acc[i] += (offsets[i] == tap) ? g[i] : 0
template <class V, class L>
void add_chosen(V* __restrict acc, const V* __restrict g, const L* __restrict offsets, L tap,
                int64_t n) {
  for (int64_t i = 0; i < n; ++i) acc[i] += offsets[i] == tap ? g[i] : V(0);
}

constexpr int64_t kMostHolders = 32;

bool suits_rows(const Window& w) {
  return !w.d.adaptive() && !w.h.adaptive() && suits_phases(w.w) &&
         outputs_per_cell(w) <= kMostHolders;
}

template <class T, class Offset>
void scatter_rows(const T* g, const Offset* offsets, T* out, const Window& w, int64_t planes) {
  using V = Wide<T>;
  using L = Unsigned<(sizeof(V) > sizeof(Offset) ? sizeof(V) : sizeof(Offset))>;
  const int64_t rows = w.d.size * w.h.size, width = w.w.out;
  const int64_t cost = w.w.size * w.w.stride * outputs_per_cell(w);
  parallel(planes * rows, cost, [&](int64_t item, int64_t stop) {
    Phases<T> phases(w.w);
    // One output row, in lanes of one width.
    Buffer<V> values(phases.most_outputs());
    Buffer<L> taps(phases.most_outputs());
    for (; item < stop; ++item) {
      const int64_t plane = item / rows, d = item % rows / w.h.size, h = item % w.h.size;
      const int64_t first = plane * w.outputs();
      phases(out + item * w.w.size, [&](int64_t begin, int64_t end) {
        for_output_rows(w, d, h, [&](int64_t row, int64_t, int64_t, int64_t row_tap) {
          const int64_t at = first + row * width + begin, n = end - begin;
          widen_values(g + at, values.get(), n);
          for (int64_t i = 0; i < n; ++i) taps.get()[i] = L(offsets[at + i]);
          phases.for_taps(begin, end, [&](int64_t t, V* cells, int64_t i, int64_t count) {
            add_chosen(cells, values.get() + i - begin, taps.get() + i - begin, L(row_tap + t),
                       count);
          });
        });
      });
    }
  });
}

// ---- output by output ----

// Any window: each offset with every check.
template <class T, class Offset>
void scatter_any(const T* g, const Offset* offsets, T* out, const Window& w, int64_t planes,
                 int64_t run) {
  using V = Wide<T>;
  constexpr bool kConverts = !std::is_same_v<T, V>;
  const int64_t cells = w.cells() * run, outputs = w.outputs() * run;
  parallel(planes, cells + 8 * outputs, [&](int64_t plane, int64_t stop) {
    Buffer<V> sums(kConverts ? cells : 0);
    for (; plane < stop; ++plane) {
      T* const to = out + plane * cells;
      V* sum;
      if constexpr (kConverts)
        sum = sums.get();
      else
        sum = to;
      clear_values(sum, cells);
      const int64_t first = plane * outputs;
      for_cells(offsets + first, w, 0, w.outputs(), run, run,
                [&](int64_t i, int64_t cell, int64_t c) {
                  if (cell >= 0) sum[cell * run + c] += widen(g[first + i * run + c]);
                });
      if constexpr (kConverts)
        for (int64_t i = 0; i < cells; ++i) to[i] = narrow<T>(sum[i]);
    }
  });
}

// Picks the way.
template <class T, class Offset>
void scatter_values(const T* g, const Offset* offsets, T* out, const Window& w, int64_t planes,
                    int64_t run) {
  using V = Wide<T>;
  if constexpr (sizeof(Offset) <= 4)
    if (run == 1 && cuts(w) && w.w.kernel == 2)
      return fill_chosen_pairs(g, offsets, out, w, planes);
  if constexpr (sizeof(Offset) == 1)
    if (run == 1 && shifts(w) && shifts_fast<V>(w, planes))
      return Shifted<T>(g, offsets, out, w, planes)();
#if defined(__AVX2__)
  if constexpr (kComparesBytes<T, Offset>)
    if (run == 1 && halves(w) && planes * w.d.size >= torch::stable::get_num_threads())
      return Halved<T>(g, offsets, out, w, planes * w.d.size)();
#endif
  if constexpr (sizeof(Offset) <= 2) {
    if (run >= kLanes<V> && gathers<V, Offset>(w, run))
      return Adjoint<T, Offset>(g, offsets, out, w, planes * run, run, nullptr)();
    const Named<T, Offset> named(g, offsets, out, w, planes, run);
    const bool few = planes < torch::stable::get_num_threads() && run == 1;
    if (named.fits() && !(few && suits_rows(w))) return named();
  }
  if (run == 1 && suits_rows(w)) return scatter_rows(g, offsets, out, w, planes);
  scatter_any(g, offsets, out, w, planes, run);
}

}  // namespace

void scatter_planes(ScalarType dtype, const void* g, const void* offsets, ScalarType offset_dtype,
                    void* out, const Window& w, int64_t planes, int64_t run) {
  if (planes == 0) return;
  dispatch<kFloats>(dtype, "scatter", [&]<class T>() {
    dispatch_offsets(offset_dtype, [&]<class Offset>() {
      Runs inner = in_runs(w, planes, run, kLanes<Wide<T>>);
      // (One addition per output takes less where taps are many.)
      if (outputs_per_cell(w) <= kMostHolders) join_channels(inner, kLanes<Wide<T>>);
      scatter_values(static_cast<const T*>(g), static_cast<const Offset*>(offsets),
                     static_cast<T*>(out), inner.window, inner.planes, inner.run);
    });
  });
}

namespace {

// ---- operators ----

Tensor scatter(const Tensor& g, const Tensor& offsets, const Window& w) {
  check_extents(g, w.out, w.rank);
  check_extents(offsets, w.out, w.rank);
  STD_TORCH_CHECK(g.numel() == offsets.numel(), "poolkit: one offset per value is needed");
  const bool runs = has_channel_run(w.channels_last, g.dim(), w.rank);
  const Planes in = dense(g, runs, w.rank), at = dense(offsets, runs, w.rank);
  Planes out = empty_planes(g, w.in, w.rank, runs, g.scalar_type());
  scatter_planes(g.scalar_type(), in.tensor.const_data_ptr(), at.tensor.const_data_ptr(),
                 offsets.scalar_type(), out.tensor.mutable_data_ptr(), w, out.planes, out.run);
  return in_format(out.tensor, w.channels_last, w.rank);
}

// Work on the outputs of all planes of `at`: f(plane's first value, plane, first output, last).
template <class F>
void for_planes(const Window& w, const Planes& at, const F& f) {
  const int64_t outputs = w.outputs();
  parallel(at.planes * outputs, 8 * at.run, [&](int64_t item, int64_t end) {
    while (item < end) {
      const int64_t plane = item / outputs, i = item % outputs;
      const int64_t last = std::min(outputs, i + end - item);
      f(plane * outputs * at.run, plane, i, last);
      item += last - i;
    }
  });
}

Tensor pick(const Tensor& x, const Tensor& offsets, const Window& w) {
  check_extents(x, w.in, w.rank);
  check_extents(offsets, w.out, w.rank);
  const bool suggested = suggests_channels_last(x);
  const bool runs = has_channel_run(suggested, x.dim(), w.rank);
  const Planes in = dense(x, runs, w.rank), at = dense(offsets, runs, w.rank);
  STD_TORCH_CHECK(in.planes == at.planes && in.run == at.run,
                  "poolkit: one offset per value is needed");
  Planes out = empty_planes(x, w.out, w.rank, runs, x.scalar_type());
  dispatch<kFloats>(x.scalar_type(), "pick", [&]<class T>() {
    dispatch_offsets(offsets.scalar_type(), [&]<class Offset>() {
      const auto* from = static_cast<const T*>(in.tensor.const_data_ptr());
      const auto* op = static_cast<const Offset*>(at.tensor.const_data_ptr());
      auto* to = static_cast<T*>(out.tensor.mutable_data_ptr());
      const int64_t run = at.run;
      for_planes(w, at, [&](int64_t first, int64_t plane, int64_t begin, int64_t end) {
        const T* cells = from + plane * w.cells() * run;
        for_cells(op + first, w, begin, end, run, run, [&](int64_t i, int64_t cell, int64_t c) {
          to[first + i * run + c] = cell < 0 ? T{} : cells[cell * run + c];
        });
      });
    });
  });
  return in_format(out.tensor, suggested, w.rank);
}

Tensor plane_indices(const Tensor& offsets, const Window& w) {
  check_extents(offsets, w.out, w.rank);
  const bool suggested = suggests_channels_last(offsets);
  const bool runs = has_channel_run(suggested, offsets.dim(), w.rank);
  const Planes at = dense(offsets, runs, w.rank);
  Planes out = empty_planes(offsets, w.out, w.rank, runs, ScalarType::Long);
  dispatch_offsets(offsets.scalar_type(), [&]<class Offset>() {
    const auto* op = static_cast<const Offset*>(at.tensor.const_data_ptr());
    auto* to = static_cast<int64_t*>(out.tensor.mutable_data_ptr());
    const int64_t run = at.run;
    for_planes(w, at, [&](int64_t first, int64_t, int64_t begin, int64_t end) {
      for_cells(op + first, w, begin, end, run, run,
                [&](int64_t i, int64_t cell, int64_t c) { to[first + i * run + c] = cell; });
    });
  });
  return in_format(out.tensor, suggested, w.rank);
}

}  // namespace
}  // namespace poolkit

STABLE_TORCH_LIBRARY_IMPL(poolkit, CPU, m) {
  poolkit::implement<poolkit::scatter>(m, "scatter");
  poolkit::implement<poolkit::pick>(m, "pick");
  poolkit::implement<poolkit::plane_indices>(m, "plane_indices");
}
