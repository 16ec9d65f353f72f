// The two adjoints on saved offsets: pick reads the cells that won, scatter adds gradients there.
//
// scatter has four ways, which all add the contributions of a cell in row-major order of the
// outputs, starting from 0: torch's bits, for any number of threads.
// - Windows of two columns side by side: each row of outputs fills its rows of cells (below).
// - Channels, and many small planes: each cell gathers from the outputs that hold it (adjoint.h).
// - Few planes: for every output row that may name an input row, and for every tap along it, the
//   gradient is kept where the offset equals that tap (backward.h has a drawing).
// - Windows that overlap so much that looking at all outputs of a cell would cost too much, and few
//   outputs for many cells: each output adds to the one cell that it names.
#include <vector>

#include "adjoint.h"
#include "backward.h"
#include "operators.h"
#include "rows.h"

namespace poolkit {
namespace {

// ---- row by row ----

// acc[i] += (offsets[i] == tap) ? g[i] : 0
template <class V, class L>
void add_chosen(V* __restrict acc, const V* __restrict g, const L* __restrict offsets, L tap,
                int64_t n) {
  for (int64_t i = 0; i < n; ++i) acc[i] += offsets[i] == tap ? g[i] : V(0);
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

// ---- windows of two columns, side by side ----

// Whether windows of two columns cut the plane into equal parts, so that all planes are one tall
// one.
bool halves(const Window& w) {
  return w.d.identity() && w.h.tiles() && w.w.tiles() && w.w.kernel == 2 && w.w.stride == 2 &&
         w.w.dilation == 1 && w.h.dilation == 1 && w.h.kernel == w.h.stride;
}

// Every row of outputs fills as many rows of cells as a window has, two cells for each output. What
// a vector spills is written again by the rows that follow.
template <class T, class Offset>
void scatter_halves(const T* g, const Offset* offsets, T* out, const Window& w, int64_t planes) {
  using V = Wide<T>;
  constexpr int N = kLanes<V>;
  const int64_t n = w.w.out, rows = planes * w.d.size * w.h.out, tall = w.h.kernel;
  parallel(rows, 2 * tall * n, [=](int64_t begin, int64_t stop) {
    const T* const end = out + stop * tall * 2 * n;
    const int64_t last = rows * n;
    T values[N] = {};
    Offset taps[N] = {};
    for (int64_t r = begin; r < stop; ++r)
      for (int64_t t = 0; t < tall; ++t)
        for (int64_t i = 0; i < n; i += N) {
          const int64_t at = r * n + i, cells = 2 * (n - i);
          const bool inside = at + N <= last;
          if (!inside) std::copy_n(g + at, n - i, values), std::copy_n(offsets + at, n - i, taps);
          Special<V> unused{};
          const Vec<V> v = read<V>(inside ? g + at : values, unused);
          const Offset* const from = inside ? offsets + at : taps;
          // (Sums begin with 0: -0 becomes +0.)
          const Vec<V> even = Vec<V>{} + chosen<V>(from, Offset(2 * t), v);
          const Vec<V> odd = Vec<V>{} + chosen<V>(from, Offset(2 * t + 1), v);
          T* const to = out + (r * tall + t) * 2 * n + 2 * i;
          for (int half = 0; half < 2 && half * N < cells; ++half) {
            if (end - to - half * N >= N)
              write<T, V>(to + half * N, interleaved<V>(even, odd, half));
            else
              write_some<T, V>(to + half * N, interleaved<V>(even, odd, half),
                               std::min<int64_t>(N, cells - half * N));
          }
        }
  });
}

// ---- output by output ----

// The cell that an offset names, or -1: offsets come back from Python and are not trusted.
class Cells {
 public:
  Cells(const Window& w, int64_t d, int64_t h) : w_(w), d_(d), h_(h) {}

  int64_t operator()(int64_t i, int64_t offset) const {
    const int64_t tw = offset % w_.w.kernel, th = offset / w_.w.kernel % w_.h.kernel;
    const int64_t td = offset / w_.w.kernel / w_.h.kernel;
    const int64_t w = cell(w_.w, i, tw), h = cell(w_.h, h_, th), d = cell(w_.d, d_, td);
    return (w | h | d) < 0 ? -1 : (d * w_.h.size + h) * w_.w.size + w;
  }

 private:
  static int64_t cell(const Axis& a, int64_t output, int64_t tap) {
    if (tap < a.first(output) || tap >= a.last(output)) return -1;
    return a.start(output) + tap * a.dilation;
  }
  const Window& w_;
  int64_t d_, h_;
};

// Calls f(output, cell, channel) for each offset, in row-major order of the outputs.
template <class Offset, class F>
void for_cells(const Offset* offsets, const Window& w, int64_t run, int64_t first_row,
               int64_t last_row, const F& f) {
  for (int64_t row = first_row; row < last_row; ++row) {
    const Cells cells(w, row / w.h.out, row % w.h.out);
    for (int64_t i = 0; i < w.w.out; ++i)
      for (int64_t c = 0; c < run; ++c) {
        const int64_t output = (row * w.w.out + i) * run + c;
        f(output, cells(i, int64_t(offsets[output])), c);
      }
  }
}

// Plane by plane: where the tap that an offset names lies. Offsets come back from Python and are
// not trusted: each is compared with the taps of its window that are real cells, on all axes at
// once. Positions have a field per axis whose highest bit guards it: a difference that is negative
// on some axis sets that bit.
constexpr int kField = 21;
constexpr uint64_t kGuards = (uint64_t(1) << (3 * kField - 1)) | (uint64_t(1) << (2 * kField - 1)) |
                             (uint64_t(1) << (kField - 1));
constexpr int64_t kFarthest = (int64_t(1) << (kField - 1)) - 1;

constexpr uint64_t fields(int64_t d, int64_t h, int64_t w) {
  return uint64_t(d) << (2 * kField) | uint64_t(h) << kField | uint64_t(w);
}

struct Tap {
  int64_t distance = 0;  // in cells, from the first cell of the window
  uint64_t position = fields(kFarthest, kFarthest, kFarthest);  // of no window
};

template <class Offset>
class Taps {
 public:
  explicit Taps(const Window& w) : w_(w) {
    if constexpr (sizeof(Offset) <= 2) {
      table_.resize(size_t(1) << (8 * sizeof(Offset)));
      for (int64_t tap = 0; tap < std::min(w.taps(), int64_t(table_.size())); ++tap)
        table_[size_t(tap)] = find(tap);
    }
    if constexpr (sizeof(Offset) == 1) {
      std::fill_n(distances_, 256, -1);
      for (int64_t tap = 0; tap < std::min<int64_t>(w.taps(), 256); ++tap)
        distances_[tap] = table_[size_t(tap)].distance;
    }
  }
  // The distance alone, or -1.
  int64_t distance(Offset offset) const {
    if constexpr (sizeof(Offset) == 1) return distances_[offset];
    const Tap tap = (*this)[offset];
    return tap.position == Tap().position ? -1 : tap.distance;
  }
  Tap operator[](Offset offset) const {
    if constexpr (sizeof(Offset) <= 2)
      return table_[offset];
    else
      return offset < 0 || offset >= w_.taps() ? Tap() : find(offset);
  }

 private:
  Tap find(int64_t tap) const {
    const int64_t w = tap % w_.w.kernel, h = tap / w_.w.kernel % w_.h.kernel;
    const int64_t d = tap / w_.w.kernel / w_.h.kernel;
    return {(d * w_.d.dilation * w_.h.size + h * w_.h.dilation) * w_.w.size + w * w_.w.dilation,
            fields(d, h, w)};
  }
  const Window& w_;
  std::vector<Tap> table_;
  int64_t distances_[sizeof(Offset) == 1 ? 256 : 1];
};

// The first cell of a window, and the first and the last of its taps that are real cells. Those of
// a row and of a column add up.
struct Corner {
  int64_t cell = 0;
  uint64_t first = 0, last = 0;

  Corner(const Axis& a, int64_t i, int64_t cells_per_step, int field) {
    const int64_t low = a.first(i), high = a.last(i);
    cell = a.start(i) * cells_per_step;
    // A window without a cell: no tap comes after its first.
    first = uint64_t(low < high ? low : kFarthest) << (field * kField);
    last = uint64_t(low < high ? high - 1 : 0) << (field * kField);
  }
  Corner operator+(const Corner& o) const {
    Corner sum = *this;
    sum.cell += o.cell, sum.first += o.first, sum.last += o.last;
    return sum;
  }
  bool holds(const Tap& t) const {
    return (((t.position - first) | (last - t.position)) & kGuards) == 0;
  }
};

// What all windows of one column have in common.
class Corners {
 public:
  explicit Corners(const Axis& a) : a_(a) {
    if (a.out <= 1 << 16)
      for (int64_t i = 0; i < a.out; ++i) corners_.emplace_back(a, i, 1, 0);
  }
  Corner operator[](int64_t i) const {
    return corners_.empty() ? Corner(a_, i, 1, 0) : corners_[size_t(i)];
  }

 private:
  const Axis& a_;
  std::vector<Corner> corners_;  // of all columns, if they are not too many
};

// Calls f(d, h, number of the row's first output, corner) for each row of outputs.
template <class F>
void for_rows(const Window& w, const F& f) {
  for (int64_t d = 0; d < w.d.out; ++d)
    for (int64_t h = 0; h < w.h.out; ++h)
      f(d, h, (d * w.h.out + h) * w.w.out,
        Corner(w.d, d, w.h.size * w.w.size, 2) + Corner(w.h, h, w.w.size, 1));
}

// P contiguous planes at a time: every output adds to the one cell that it names. An addition waits
// for the one before if both go to one cell, as neighbours often do; other planes fill the time.
template <int P, class T, class Offset>
void scatter_plane(const T* g, const Offset* offsets, Wide<T>* sum, const Window& w,
                   const Taps<Offset>& taps, const Corners& columns) {
  const int64_t cells = w.cells(), outputs = w.outputs(), n = w.w.out;
  const int64_t inner = w.w.inner_begin(), outer = w.w.inner_end();
  const auto inside = [](const Axis& a, int64_t i) {
    return a.inner_begin() <= i && i < a.inner_end();
  };
  std::fill_n(sum, P * cells, Wide<T>(0));
  for_rows(w, [&](int64_t d, int64_t h, int64_t first, const Corner& row) {
    const auto checked = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Corner corner = row + columns[i];
        for (int p = 0; p < P; ++p) {
          const Tap tap = taps[offsets[first + i + p * outputs]];
          if (corner.holds(tap))
            sum[corner.cell + tap.distance + p * cells] += widen(g[first + i + p * outputs]);
        }
      }
    };
    if (w.w.adaptive() || !inside(w.d, d) || !inside(w.h, h)) return checked(0, n);
    checked(0, inner);
    // Windows of real cells alone: any tap will do.
    const T* const from = g + first;
    const Offset* const at = offsets + first;
    Wide<T>* const corner = sum + row.cell - w.w.before;
    const int64_t stride = w.w.stride;
    for (int64_t i = inner; i < outer; ++i)
      for (int p = 0; p < P; ++p)
        if (const int64_t distance = taps.distance(at[i + p * outputs]); distance >= 0)
          corner[i * stride + distance + p * cells] += widen(from[i + p * outputs]);
    checked(outer, n);
  });
}

// `n` channels of a channels-last plane, whose cells are `step` apart in `sum` and `run` in g.
template <class T, class Offset>
void scatter_channels(const T* g, const Offset* offsets, Wide<T>* sum, int64_t step,
                      const Window& w, int64_t run, int64_t n, const Taps<Offset>& taps,
                      const Corners& columns) {
  const int64_t cells = w.cells();
  for (int64_t i = 0; i < cells; ++i) std::fill_n(sum + i * step, n, Wide<T>(0));
  for_rows(w, [&](int64_t, int64_t, int64_t first, const Corner& row) {
    for (int64_t i = 0; i < w.w.out; ++i) {
      const Corner corner = row + columns[i];
      const int64_t at = (first + i) * run;
      for (int64_t c = 0; c < n; ++c) {
        const Tap tap = taps[offsets[at + c]];
        if (corner.holds(tap)) sum[(corner.cell + tap.distance) * step + c] += widen(g[at + c]);
      }
    }
  });
}

// `width` channels of a plane at a time; half types are summed in a plane of wider values.
template <class T, class Offset>
void scatter_by_planes(const T* g, const Offset* offsets, T* out, const Window& w, int64_t planes,
                       int64_t run, int64_t width) {
  using V = Wide<T>;
  constexpr bool kConverts = !std::is_same_v<T, V>;
  const int64_t blocks = (run + width - 1) / width, cells = w.cells();
  const Taps<Offset> taps(w);
  const Corners columns(w.w);
  // Planes go four at a time while they last.
  const int64_t group = run == 1 && planes >= 4 * torch::stable::get_num_threads() ? 4 : 1;
  const int64_t groups = (planes + group - 1) / group;
  parallel(groups * blocks, group * (cells + 4 * w.outputs()) * width,
           [&](int64_t item, int64_t stop) {
             Buffer<V> sums(kConverts ? group * cells * width : 0);
             for (; item < stop; ++item) {
               const int64_t plane = item / blocks * group, c0 = item % blocks * width;
               const int64_t n = std::min(width, run - c0), first = plane * w.outputs() * run + c0;
               const int64_t count = std::min(group, planes - plane);
               T* const to = out + plane * cells * run + c0;
               V* sum;
               int64_t step = run;
               if constexpr (kConverts)
                 sum = sums.get(), step = width;
               else
                 sum = to;
               if (run != 1)
                 scatter_channels(g + first, offsets + first, sum, step, w, run, n, taps, columns);
               else if (count == 4)
                 scatter_plane<4>(g + first, offsets + first, sum, w, taps, columns);
               else
                 for (int64_t p = 0; p < count; ++p)
                   scatter_plane<1>(g + first + p * w.outputs(), offsets + first + p * w.outputs(),
                                    sum + p * cells, w, taps, columns);
               if constexpr (kConverts)
                 for (int64_t i = 0; i < cells * (run == 1 ? count : 1); ++i)
                   for (int64_t c = 0; c < n; ++c) to[i * run + c] = narrow<T>(sum[i * step + c]);
             }
           });
}

// Windows so long that the fields of a position do not hold their taps: each offset by itself.
template <class T, class Offset>
void scatter_far(const T* g, const Offset* offsets, T* out, const Window& w, int64_t planes,
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
      std::fill_n(sum, cells, V(0));
      const int64_t first = plane * outputs;
      for_cells(offsets + first, w, run, 0, w.d.out * w.h.out,
                [&](int64_t output, int64_t cell, int64_t c) {
                  if (cell >= 0) sum[cell * run + c] += widen(g[first + output]);
                });
      if constexpr (kConverts)
        for (int64_t i = 0; i < cells; ++i) to[i] = narrow<T>(sum[i]);
    }
  });
}

// ---- operators ----

Tensor scatter(const Tensor& g, const Tensor& offsets, const Window& w) {
  check_extents(g, w.out, w.rank);
  check_extents(offsets, w.out, w.rank);
  STD_TORCH_CHECK(g.numel() == offsets.numel(), "poolkit: one offset per value is needed");
  const bool runs = has_channel_run(w.channels_last, g.dim(), w.rank);
  const Planes in = dense(g, runs, w.rank), at = dense(offsets, runs, w.rank);
  Planes out = empty_planes(g, w.in, w.rank, runs, g.scalar_type());
  // Row by row pays where every cell belongs to one window and rows are long, or where there are
  // too few planes to keep the threads busy otherwise.
  const int64_t threads = torch::stable::get_num_threads(), planes = out.planes * out.run;
  const bool possible =
      !w.d.adaptive() && !w.h.adaptive() && suits_phases(w.w) && outputs_per_cell(w) <= 32;
  const bool by_rows = possible && out.run == 1 &&
                       (out.planes < threads || (outputs_per_cell(w) == 1 && w.w.out >= 32));
  // Channels are shared among the threads where batches are few.
  const int64_t parts = std::min((2 * threads + out.planes - 1) / std::max<int64_t>(1, out.planes),
                                 (out.run + 15) / 16);
  const int64_t width = out.run == 1 ? 1 : (out.run / std::max<int64_t>(1, parts) + 15) / 16 * 16;
  dispatch<kFloats>(g.scalar_type(), "scatter", [&]<class T>() {
    dispatch_offsets(offsets.scalar_type(), [&]<class Offset>() {
      const auto* gp = static_cast<const T*>(in.tensor.const_data_ptr());
      const auto* op = static_cast<const Offset*>(at.tensor.const_data_ptr());
      auto* to = static_cast<T*>(out.tensor.mutable_data_ptr());
      if constexpr (sizeof(Offset) == 8) {
        scatter_far(gp, op, to, w, out.planes, out.run);
      } else {
        if (out.run == 1 && halves(w)) return scatter_halves(gp, op, to, w, out.planes);
        // Channels gather; planes do where that many cells would not wait for few outputs.
        if constexpr (sizeof(Offset) <= sizeof(Wide<T>)) {
          const bool runs = out.run >= kLanes<Wide<T>>;
          const bool lanes = 2 * w.outputs() > w.cells() && 2 * planes > kLanes<Wide<T>>;
          if (gathers(w) && (runs || lanes))
            return Adjoint<T, Offset>(gp, op, to, w, planes, out.run, nullptr)(!runs);
        }
        if (by_rows)
          scatter_rows(gp, op, to, w, out.planes);
        else if (std::max({w.d.kernel, w.h.kernel, w.w.kernel}) > kFarthest)
          scatter_far(gp, op, to, w, out.planes, out.run);
        else
          scatter_by_planes(gp, op, to, w, out.planes, out.run, std::min(width, out.run));
      }
    });
  });
  return in_format(out.tensor, w.channels_last, w.rank);
}

// Work on the rows of all planes of `at`: f(plane's first output, plane, first row, last row).
template <class F>
void for_planes(const Window& w, const Planes& at, const F& f) {
  const int64_t rows = w.d.out * w.h.out;
  parallel(at.planes * rows, 8 * w.w.out * at.run, [&](int64_t item, int64_t end) {
    while (item < end) {
      const int64_t plane = item / rows, row = item % rows;
      const int64_t last = std::min(rows, row + end - item);
      f(plane * w.outputs() * at.run, plane, row, last);
      item += last - row;
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
      for_planes(w, at, [&](int64_t first, int64_t plane, int64_t row, int64_t last) {
        const T* cells = from + plane * w.cells() * at.run;
        for_cells(op + first, w, at.run, row, last, [&](int64_t output, int64_t cell, int64_t c) {
          to[first + output] = cell < 0 ? T{} : cells[cell * at.run + c];
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
    for_planes(w, at, [&](int64_t first, int64_t, int64_t row, int64_t last) {
      for_cells(op + first, w, at.run, row, last,
                [&](int64_t output, int64_t cell, int64_t) { to[first + output] = cell; });
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
