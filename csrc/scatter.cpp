// The two adjoints on saved offsets: pick reads the cells that won, scatter adds gradients there.
//
// scatter, for one input row: for every output row that may name it, top to bottom, and for every
// tap along the row, the gradient is kept where the offset equals that tap and is 0 elsewhere: a
// compare with a constant, no index arithmetic, SIMD (backward.h has a drawing). Every cell is
// written once, and its contributions are added in row-major order of the outputs, starting from 0:
// torch's bits, for any number of threads.
//
// Windows that overlap so much that this would cost more than it saves, and adaptive ones, go plane
// by plane instead: each output adds its gradient to the one cell that it names.
#include <memory>
#include <vector>

#include "backward.h"
#include "reduce.h"

namespace poolkit {
namespace {

// ---- row by row
// ----------------------------------------------------------------------------------

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
  const int64_t cost = w.w.size * w.w.kernel * (1 + w.h.kernel / w.h.stride);
  parallel(planes * rows, cost, [&](int64_t item, int64_t stop) {
    Phases<T> phases(w.w);
    // One output row, in lanes of one width.
    std::unique_ptr<V[]> values(new V[phases.most_outputs()]);
    std::unique_ptr<L[]> taps(new L[phases.most_outputs()]);
    for (; item < stop; ++item) {
      const int64_t plane = item / rows, d = item % rows / w.h.size, h = item % w.h.size;
      const int64_t first = plane * w.outputs();
      phases(out + item * w.w.size, [&](int64_t begin, int64_t end) {
        for_output_rows(w, d, h, [&](int64_t row, int64_t, int64_t, int64_t row_tap) {
          const int64_t at = first + row * width + begin, n = end - begin;
          widen_values(g + at, values.get(), n);
          for (int64_t i = 0; i < n; ++i) taps[i] = L(offsets[at + i]);
          phases.for_taps(begin, end, [&](int64_t t, V* cells, int64_t i, int64_t count) {
            add_chosen(cells, values.get() + i - begin, taps.get() + i - begin, L(row_tap + t),
                       count);
          });
        });
      });
    }
  });
}

// Channels-last: the cells of one input row, each a run of channels. Sums of half types need a
// buffer of wider values, one block of channels at a time.
template <class T, class Offset>
void scatter_runs(const T* g, const Offset* offsets, T* out, const Window& w, int64_t planes,
                  int64_t run) {
  using V = Wide<T>;
  constexpr int64_t kBlock = 256;
  const int64_t rows = w.d.size * w.h.size;
  const int64_t cost =
      w.w.size * run * (1 + w.w.kernel / w.w.stride) * (1 + w.h.kernel / w.h.stride);
  const Axis& a = w.w;
  parallel(planes * rows, cost, [&](int64_t item, int64_t end) {
    V sum[kBlock];
    for (; item < end; ++item) {
      const int64_t plane = item / rows, d = item % rows / w.h.size, h = item % w.h.size;
      const T* gp = g + plane * w.outputs() * run;
      const Offset* op = offsets + plane * w.outputs() * run;
      for (int64_t cell = 0; cell < a.size; ++cell) {
        const int64_t lowest = a.lowest_output(cell), highest = a.highest_output(cell);
        for (int64_t c = 0; c < run; c += kBlock) {
          const int64_t n = std::min(kBlock, run - c);
          std::fill_n(sum, n, V(0));
          for_output_rows(w, d, h, [&](int64_t output_row, int64_t, int64_t, int64_t row_tap) {
            for (int64_t i = lowest; i < highest; ++i) {
              const int64_t t = a.tap(i, cell);
              if (t < 0) continue;
              const int64_t first = (output_row * a.out + i) * run + c;
              const auto tap = Offset(row_tap + t);
              for (int64_t k = 0; k < n; ++k)
                sum[k] += op[first + k] == tap ? widen(gp[first + k]) : V(0);
            }
          });
          T* to = out + (item * a.size + cell) * run + c;
          for (int64_t k = 0; k < n; ++k) to[k] = narrow<T>(sum[k]);
        }
      }
    }
  });
}

// ---- output by output
// ----------------------------------------------------------------------------

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
               int64_t last_row, int64_t first_channel, int64_t last_channel, const F& f) {
  for (int64_t row = first_row; row < last_row; ++row) {
    const Cells cells(w, row / w.h.out, row % w.h.out);
    for (int64_t i = 0; i < w.w.out; ++i)
      for (int64_t c = first_channel; c < last_channel; ++c) {
        const int64_t output = (row * w.w.out + i) * run + c;
        f(output, cells(i, int64_t(offsets[output])), c);
      }
  }
}

// Plane by plane: how far the cell of each offset is from the first cell of its window. What is no
// tap of the window counts as its first: offsets come back from Python and are not trusted.
template <class Offset>
class Distances {
 public:
  explicit Distances(const Window& w) : w_(w) {
    if constexpr (sizeof(Offset) <= 2) {
      table_.assign(size_t(1) << (8 * sizeof(Offset)), 0);
      for (int64_t tap = 0; tap < w.taps(); ++tap) table_[tap] = distance(tap);
    }
  }
  int64_t operator[](Offset offset) const {
    if constexpr (sizeof(Offset) <= 2)
      return table_[offset];
    else
      return offset < 0 || offset >= w_.taps() ? 0 : distance(offset);
  }

 private:
  int64_t distance(int64_t tap) const {
    const int64_t tw = tap % w_.w.kernel, th = tap / w_.w.kernel % w_.h.kernel;
    const int64_t td = tap / w_.w.kernel / w_.h.kernel;
    return (td * w_.d.dilation * w_.h.size + th * w_.h.dilation) * w_.w.size + tw * w_.w.dilation;
  }
  const Window& w_;
  std::vector<int64_t> table_;
};

// The first cell of every window of a plane, or nothing where the table would be large.
inline std::vector<int64_t> corners_of(const Window& w) {
  std::vector<int64_t> corners;
  if (w.outputs() > 1 << 14) return corners;
  corners.reserve(size_t(w.outputs()));
  for (int64_t d = 0; d < w.d.out; ++d)
    for (int64_t h = 0; h < w.h.out; ++h) {
      const int64_t row = (w.d.start(d) * w.h.size + w.h.start(h)) * w.w.size;
      for (int64_t i = 0; i < w.w.out; ++i) corners.push_back(row + w.w.start(i));
    }
  return corners;
}

// One contiguous plane: every output adds to the one cell that it names.
template <class T, class Offset>
void scatter_plane(const T* g, const Offset* offsets, Wide<T>* sum, const Window& w,
                   const Distances<Offset>& distances, const std::vector<int64_t>& corners) {
  const auto cells = uint64_t(w.cells());
  std::fill_n(sum, cells, Wide<T>(0));
  const auto add = [&](int64_t corner, int64_t i) {
    const auto cell = uint64_t(corner + distances[offsets[i]]);
    if (cell < cells) sum[cell] += widen(g[i]);  // a negative number is a huge one here
  };
  if (!corners.empty()) {
    const int64_t* const corner = corners.data();
    for (int64_t i = 0, n = int64_t(corners.size()); i < n; ++i) add(corner[i], i);
    return;
  }
  const int64_t before = w.w.before, stride = w.w.stride;
  for (int64_t d = 0; d < w.d.out; ++d)
    for (int64_t h = 0; h < w.h.out; ++h, g += w.w.out, offsets += w.w.out) {
      const int64_t row = (w.d.start(d) * w.h.size + w.h.start(h)) * w.w.size;
      if (w.w.adaptive())
        for (int64_t i = 0; i < w.w.out; ++i) add(row + w.w.start(i), i);
      else
        for (int64_t i = 0; i < w.w.out; ++i) add(row - before + i * stride, i);
    }
}

// `n` channels of a channels-last plane, whose cells are `step` apart in `sum` and `run` in g.
template <class T, class Offset>
void scatter_channels(const T* g, const Offset* offsets, Wide<T>* sum, int64_t step,
                      const Window& w, int64_t run, int64_t n, const Distances<Offset>& distances) {
  using V = Wide<T>;
  using L = Unsigned<(sizeof(V) > sizeof(Offset) ? sizeof(V) : sizeof(Offset))>;
  constexpr int64_t kBlock = 128;
  const int64_t cells = w.cells();
  for (int64_t i = 0; i < cells; ++i) std::fill_n(sum + i * step, n, V(0));
  // With few taps it is faster to try each on all channels than to look up each channel's cell.
  const bool tries = w.taps() <= 16 && n >= 16;
  for (int64_t row = 0; row < w.d.out * w.h.out; ++row) {
    const int64_t d = row / w.h.out, h = row % w.h.out;
    const int64_t corner = (w.d.start(d) * w.h.size + w.h.start(h)) * w.w.size;
    for (int64_t i = 0; i < w.w.out; ++i) {
      const T* const gi = g + (row * w.w.out + i) * run;
      const Offset* const oi = offsets + (row * w.w.out + i) * run;
      const int64_t base = corner + w.w.start(i);
      if (!tries) {
        for (int64_t c = 0; c < n; ++c) {
          const int64_t cell = base + distances[oi[c]];
          if (uint64_t(cell) < uint64_t(cells)) sum[cell * step + c] += widen(gi[c]);
        }
        continue;
      }
      for (int64_t c = 0; c < n; c += kBlock) {
        const int64_t m = std::min(kBlock, n - c);
        V values[kBlock];
        L taps[kBlock];
        widen_values(gi + c, values, m);
        for (int64_t k = 0; k < m; ++k) taps[k] = L(oi[c + k]);
        for (int64_t td = w.d.first(d); td < w.d.last(d); ++td)
          for (int64_t th = w.h.first(h); th < w.h.last(h); ++th)
            for (int64_t tw = w.w.first(i); tw < w.w.last(i); ++tw) {
              const int64_t tap = (td * w.h.kernel + th) * w.w.kernel + tw;
              add_chosen(sum + (base + distances[Offset(tap)]) * step + c, values, taps, L(tap), m);
            }
      }
    }
  }
}

// `width` channels of a plane at a time; half types are summed in a plane of wider values.
template <class T, class Offset>
void scatter_planes(const T* g, const Offset* offsets, T* out, const Window& w, int64_t planes,
                    int64_t run, int64_t width) {
  using V = Wide<T>;
  constexpr bool kConverts = !std::is_same_v<T, V>;
  const int64_t blocks = (run + width - 1) / width, cells = w.cells();
  const Distances<Offset> distances(w);
  const std::vector<int64_t> corners = run == 1 ? corners_of(w) : std::vector<int64_t>();
  parallel(planes * blocks, (cells + 4 * w.outputs()) * width, [&](int64_t item, int64_t stop) {
    std::unique_ptr<V[]> sums(kConverts ? new V[cells * width] : nullptr);
    for (; item < stop; ++item) {
      const int64_t plane = item / blocks, c0 = item % blocks * width;
      const int64_t n = std::min(width, run - c0), first = plane * w.outputs() * run + c0;
      T* const to = out + plane * cells * run + c0;
      V* sum;
      int64_t step = run;
      if constexpr (kConverts)
        sum = sums.get(), step = width;
      else
        sum = to;
      if (run == 1)
        scatter_plane(g + first, offsets + first, sum, w, distances, corners);
      else
        scatter_channels(g + first, offsets + first, sum, step, w, run, n, distances);
      if constexpr (kConverts)
        for (int64_t i = 0; i < cells; ++i)
          for (int64_t c = 0; c < n; ++c) to[i * run + c] = narrow<T>(sum[i * step + c]);
    }
  });
}

// ---- operators
// -----------------------------------------------------------------------------------

Tensor scatter(const Tensor& g, const Tensor& offsets, std::vector<int64_t> window) {
  const Window w(window);
  check_extents(g, w.out, w.rank);
  check_extents(offsets, w.out, w.rank);
  STD_TORCH_CHECK(g.numel() == offsets.numel(), "poolkit: one offset per value is needed");
  const bool runs = has_channel_run(w.channels_last, g.dim(), w.rank);
  const Planes in = dense(g, runs, w.rank), at = dense(offsets, runs, w.rank);
  Planes out = empty_planes(g, w.in, w.rank, runs, g.scalar_type());
  // Row by row pays where every cell belongs to one window and rows are long, or where there are
  // too few planes to keep the threads busy otherwise.
  const int64_t threads = torch::stable::get_num_threads();
  const bool adaptive = w.d.adaptive() || w.h.adaptive() || w.w.adaptive();
  const bool possible = !adaptive && w.w.stride <= kMaxPhases && outputs_per_cell(w) <= 32;
  const bool few = out.planes * ((out.run + 15) / 16) < threads;
  const bool by_rows =
      possible && (few || (out.run == 1 && outputs_per_cell(w) == 1 && w.w.out >= 32));
  // Channels are shared among the threads where batches are few.
  const int64_t parts = std::min((2 * threads + out.planes - 1) / std::max<int64_t>(1, out.planes),
                                 (out.run + 15) / 16);
  const int64_t width = out.run == 1 ? 1 : (out.run / std::max<int64_t>(1, parts) + 15) / 16 * 16;
  dispatch<kFloats>(g.scalar_type(), "scatter", [&]<class T>() {
    dispatch_offsets(offsets.scalar_type(), [&]<class Offset>() {
      const auto* gp = static_cast<const T*>(in.tensor.const_data_ptr());
      const auto* op = static_cast<const Offset*>(at.tensor.const_data_ptr());
      auto* to = static_cast<T*>(out.tensor.mutable_data_ptr());
      if (!by_rows)
        scatter_planes(gp, op, to, w, out.planes, out.run, std::min(width, out.run));
      else if (out.run == 1)
        scatter_rows(gp, op, to, w, out.planes);
      else
        scatter_runs(gp, op, to, w, out.planes, out.run);
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

Tensor pick(const Tensor& x, const Tensor& offsets, std::vector<int64_t> window) {
  const Window w(window);
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
        for_cells(op + first, w, at.run, row, last, 0, at.run,
                  [&](int64_t output, int64_t cell, int64_t c) {
                    to[first + output] = cell < 0 ? T{} : cells[cell * at.run + c];
                  });
      });
    });
  });
  return in_format(out.tensor, suggested, w.rank);
}

Tensor plane_indices(const Tensor& offsets, std::vector<int64_t> window) {
  const Window w(window);
  check_extents(offsets, w.out, w.rank);
  const bool suggested = suggests_channels_last(offsets);
  const bool runs = has_channel_run(suggested, offsets.dim(), w.rank);
  const Planes at = dense(offsets, runs, w.rank);
  Planes out = empty_planes(offsets, w.out, w.rank, runs, ScalarType::Long);
  dispatch_offsets(offsets.scalar_type(), [&]<class Offset>() {
    const auto* op = static_cast<const Offset*>(at.tensor.const_data_ptr());
    auto* to = static_cast<int64_t*>(out.tensor.mutable_data_ptr());
    for_planes(w, at, [&](int64_t first, int64_t, int64_t row, int64_t last) {
      for_cells(op + first, w, at.run, row, last, 0, at.run,
                [&](int64_t output, int64_t cell, int64_t) { to[first + output] = cell; });
    });
  });
  return in_format(out.tensor, suggested, w.rank);
}

}  // namespace
}  // namespace poolkit

STABLE_TORCH_LIBRARY_IMPL(poolkit, CPU, m) {
  m.impl("scatter", TORCH_BOX(&poolkit::scatter));
  m.impl("scatter.ints", TORCH_BOX(&poolkit::scatter));
  m.impl("pick", TORCH_BOX(&poolkit::pick));
  m.impl("pick.ints", TORCH_BOX(&poolkit::pick));
  m.impl("plane_indices", TORCH_BOX(&poolkit::plane_indices));
  m.impl("plane_indices.ints", TORCH_BOX(&poolkit::plane_indices));
}
