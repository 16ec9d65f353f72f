// Average pooling and its adjoint.
//
// Forward: sums by the scheme of forward.h in a type wide enough, then one division per output.
// Backward, a cell adds the divided gradients of the outputs that hold it: along whole rows
// (spread.h, few_outputs.h), by vectors of planes or channels (adjoint.h), as a pooling by windows
// turned about, or row by row: the gradient rows of all outputs that hold an input row are added
// up, then every cell of it adds the columns that hold it. Always in a fixed order: the same bits
// for any number of threads.
#include <optional>
#include <utility>
#include <vector>

#include "adjoint.h"
#include "backward.h"
#include "few_outputs.h"
#include "fill.h"
#include "forward.h"
#include "operators.h"
#include "spread.h"

namespace poolkit {
namespace {

// Sums of T, in a type wide enough.
template <class T>
using Sums = Forms<T, Sum<Wide<T>>, Sum<Wide<T>>, NoOffset>;

}  // namespace

template <class T>
void avg_planes(const T* x, T* y, const Window& w, int64_t planes, int64_t run) {
  const Runs runs = in_rows_of_runs(w, planes, run, kLanes<Wide<T>>);
  const Divisors<Wide<T>> divisors(runs.window);
  forward<Sums<T>>(x, Result<Sums<T>, T>{y, {}, &divisors}, runs.window, runs.planes, runs.run);
}
template void avg_planes(const float*, float*, const Window&, int64_t, int64_t);  // lp_pool.cpp
template void avg_planes(const double*, double*, const Window&, int64_t, int64_t);

namespace {

Tensor avg_pool(const Tensor& x, const Window& w) {
  check_extents(x, w.in, w.rank);
  const bool suggested = suggests_channels_last(x);
  const bool runs = has_channel_run(suggested, x.dim(), w.rank);
  const Planes in = dense(x, runs, w.rank);
  Planes out = empty_planes(x, w.out, w.rank, runs, x.scalar_type());
  dispatch<kFloats | kInt64>(x.scalar_type(), "avg_pool", [&]<class T>() {
    avg_planes(static_cast<const T*>(in.tensor.const_data_ptr()),
               static_cast<T*>(out.tensor.mutable_data_ptr()), w, in.planes, in.run);
  });
  return in_format(out.tensor, suggested, w.rank);
}

// ---- backward ----

// The outputs [begin, end) of all output rows that hold input row (d, h), divided and added up:
// to[0] is output `begin`.
template <class T>
void divided_sum(const T* g, const Window& w, const Divisors<Wide<T>>& divisors, int64_t d,
                 int64_t h, int64_t begin, int64_t end, Wide<T>* __restrict to) {
  std::fill_n(to, end - begin, Wide<T>(0));
  for_output_rows(w, d, h, [&](int64_t row, int64_t od, int64_t oh, int64_t) {
    const T* from = g + row * w.w.out;
    const int64_t row_divisor = divisors.row(od, oh);
    divisors.for_columns(begin, end, [&](int64_t i, int64_t next, int64_t column) {
      const auto divisor = Wide<T>(row_divisor * column);
      for (; i < next; ++i) to[i - begin] += widen(from[i]) / divisor;
    });
  });
}

// Windows along the row that share no cell: each output fills its own.
template <class T>
void fill_cells(const Axis& a, const Wide<T>* sums, int64_t begin, int64_t end, T* row) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = a.start(i) + a.first(i), last = a.start(i) + a.last(i);
    if (first < last) std::fill(row + first, row + last, narrow<T>(sums[i - begin]));
  }
}

// Any window: each output adds to its cells of [low, high).
template <class T>
void add_to_cells(const Axis& a, const Wide<T>* sums, int64_t begin, int64_t end, int64_t low,
                  int64_t high, Wide<T>* cells, T* row) {
  std::fill_n(cells, high - low, Wide<T>(0));
  for (int64_t i = begin; i < end; ++i) {
    const int64_t start = a.start(i), d = a.dilation;
    const int64_t first = std::max(a.first(i), (low - start + d - 1) / d);
    const int64_t last = std::min(a.last(i), (high - start + d - 1) / d);
    const Wide<T> sum = sums[i - begin];
    for (int64_t t = first; t < last; ++t) cells[start + t * d - low] += sum;
  }
  for (int64_t c = low; c < high; ++c) row[c] = narrow<T>(cells[c - low]);
}

template <class T>
void avg_backward_rows(const T* g, T* out, const Window& w, int64_t planes) {
  using V = Wide<T>;
  const Divisors<Wide<T>> divisors(w);
  const Axis& a = w.w;
  const int64_t rows = w.d.size * w.h.size;
  const bool disjoint = !a.adaptive() && a.dilation == 1 && a.stride >= a.kernel && a.stride > 2;
  const bool phased = !disjoint && suits_phases(a);
  const int64_t cost = a.size * (1 + outputs_per_cell(w));
  parallel(planes * rows, cost, [&](int64_t item, int64_t stop) {
    std::optional<Phases<T>> phases;
    if (phased) phases.emplace(a);
    Buffer<V> sums(phased ? phases->most_outputs() : 0);
    Buffer<V> cells(phased || disjoint ? 0 : kPieceCells);
    for (; item < stop; ++item) {
      const int64_t plane = item / rows, d = item % rows / w.h.size, h = item % w.h.size;
      const T* gp = g + plane * w.outputs();
      T* row = out + item * a.size;
      if (phased) {
        (*phases)(row, [&](int64_t begin, int64_t end) {
          divided_sum(gp, w, divisors, d, h, begin, end, sums.get());
          phases->for_taps(begin, end, [&](int64_t, V* __restrict cells, int64_t i, int64_t n) {
            const V* __restrict from = sums.get() + i - begin;
            for (int64_t k = 0; k < n; ++k) cells[k] += from[k];
          });
        });
        continue;
      }
      if (disjoint) std::fill_n(row, a.size, T{});
      for (int64_t low = 0; low < a.size; low += kPieceCells) {
        const int64_t high = std::min(a.size, low + kPieceCells);
        const int64_t begin = a.lowest_output(low);
        const int64_t end = std::max(begin, a.highest_output(high - 1));
        sums.reserve(end - begin);
        divided_sum(gp, w, divisors, d, h, begin, end, sums.get());
        if (disjoint)
          fill_cells(a, sums.get(), begin, end, row);
        else
          add_to_cells(a, sums.get(), begin, end, low, high, cells.get(), row);
      }
    }
  });
}

// The divided gradient of all outputs, in the wider type.
template <class T>
void divide(const T* g, Wide<T>* to, const Window& w, int64_t planes, int64_t run) {
  const Divisors<Wide<T>> divisors(w);
  const int64_t rows = w.d.out * w.h.out, line = w.w.out * run;
  parallel(planes * rows, line, [&](int64_t item, int64_t stop) {
    for (; item < stop; ++item) {
      const int64_t row_divisor = divisors.row(item % rows / w.h.out, item % w.h.out);
      divisors.for_columns(0, w.w.out, [&](int64_t i, int64_t next, int64_t column) {
        const auto divisor = Wide<T>(row_divisor * column);
        for (int64_t k = item * line + i * run; k < item * line + next * run; ++k)
          to[k] = widen(g[k]) / divisor;
      });
    }
  });
}

// What every output is divided by, or 0 if that differs.
int64_t common_divisor(const Window& w) {
  if (w.divisor) return w.divisor;
  const auto full = [&](const Axis& a) {
    if (a.adaptive()) return false;
    const bool real = a.inner_begin() == 0 && a.inner_end() == a.out;
    return real || (w.include_pad && a.padded_taps(a.out - 1) == a.kernel);
  };
  return full(w.d) && full(w.h) && full(w.w) ? w.taps() : 0;
}

template <class T>
void avg_backward_turned(const T* g, T* out, const Window& w, int64_t planes, int64_t run) {
  Window t = w;
  t.d = turned(w.d), t.h = turned(w.h), t.w = turned(w.w);
  t.divisor = common_divisor(w);
  if (t.divisor) {
    const Divisors<Wide<T>> divisors(t);
    return forward<Sums<T>>(g, Result<Sums<T>, T>{out, {}, &divisors}, t, planes, run);
  }
  if constexpr (std::is_same_v<T, Wide<T>>) {
    const Buffer<T> divided(planes * w.outputs() * run);
    divide(g, divided.get(), w, planes, run);
    forward<Sums<T>>(divided.get(), Result<Sums<T>, T>{out, {}, nullptr}, t, planes, run);
  }
}

// Channels-last: each cell adds the runs of all outputs that hold it.
template <class T>
void avg_backward_runs(const T* g, T* out, const Window& w, int64_t planes, int64_t run) {
  using V = Wide<T>;
  constexpr int64_t kBlock = 256;
  const Divisors<Wide<T>> divisors(w);
  const Axis& a = w.w;
  const int64_t rows = w.d.size * w.h.size;
  parallel(planes * rows, a.size * run * outputs_per_cell(w), [&](int64_t item, int64_t stop) {
    V sum[kBlock];
    std::vector<std::pair<const T*, int64_t>>
        lines;  // output rows that hold this row, and divisors
    for (; item < stop; ++item) {
      const int64_t plane = item / rows, d = item % rows / w.h.size, h = item % w.h.size;
      lines.clear();
      for_output_rows(w, d, h, [&](int64_t row, int64_t od, int64_t oh, int64_t) {
        lines.emplace_back(g + (plane * w.outputs() + row * a.out) * run, divisors.row(od, oh));
      });
      for (int64_t cell = 0; cell < a.size; ++cell) {
        const int64_t lowest = a.lowest_output(cell), highest = a.highest_output(cell);
        for (int64_t c = 0; c < run; c += kBlock) {
          const int64_t n = std::min(kBlock, run - c);
          T* __restrict to = out + (item * a.size + cell) * run + c;
          int64_t found = 0;
          const int64_t all = int64_t(lines.size()) * (highest - lowest);
          for (const auto& [line, row_divisor] : lines)
            for (int64_t i = lowest; i < highest; ++i) {
              if (a.dilation > 1 && a.tap(i, cell) < 0) continue;
              const auto divisor = V(capped_product(row_divisor, divisors.column(i)));
              const T* from = line + i * run + c;
              if (all == 1)
                for (int64_t k = 0; k < n; ++k) to[k] = narrow<T>(widen(from[k]) / divisor + V(0));
              else if (found == 0)
                for (int64_t k = 0; k < n; ++k) sum[k] = widen(from[k]) / divisor + V(0);
              else
                for (int64_t k = 0; k < n; ++k) sum[k] += widen(from[k]) / divisor;
              ++found;
            }
          if (found == 0) std::fill_n(sum, n, V(0));
          if (found == 0 || all > 1)
            for (int64_t k = 0; k < n; ++k) to[k] = narrow<T>(sum[k]);
        }
      }
    }
  });
}

// Adaptive windows of contiguous planes: each output adds its share to its cells.
template <class T>
void avg_backward_planes(const T* g, T* out, const Window& w, int64_t planes) {
  using V = Wide<T>;
  constexpr bool kConverts = !std::is_same_v<T, V>;
  const Divisors<Wide<T>> divisors(w);
  const int64_t cells = w.cells();
  struct Span {
    int64_t first, last, divisor;
  };
  std::vector<Span> spans;
  for (int64_t i = 0; i < w.w.out; ++i)
    spans.push_back({w.w.start(i) + w.w.first(i) * w.w.dilation, w.w.last(i) - w.w.first(i),
                     divisors.column(i)});
  parallel(planes, cells + w.outputs(), [&](int64_t p, int64_t stop) {
    Buffer<V> sums(kConverts ? cells : 0);
    for (; p < stop; ++p) {
      V* sum;
      if constexpr (kConverts)
        sum = sums.get();
      else
        sum = out + p * cells;
      clear_values(sum, cells);
      const T* from = g + p * w.outputs();
      for (int64_t d = 0; d < w.d.out; ++d)
        for (int64_t h = 0; h < w.h.out; ++h, from += w.w.out) {
          const int64_t row_divisor = divisors.row(d, h);
          for (int64_t td = w.d.first(d), td_end = w.d.last(d); td < td_end; ++td)
            for (int64_t th = w.h.first(h), th_end = w.h.last(h); th < th_end; ++th) {
              const int64_t slice = w.d.start(d) + td * w.d.dilation;
              V* const row = sum + (slice * w.h.size + w.h.start(h) + th * w.h.dilation) * w.w.size;
              for (int64_t i = 0; i < w.w.out; ++i) {
                const V share = widen(from[i]) / V(capped_product(row_divisor, spans[i].divisor));
                V* const cell = row + spans[i].first;
                for (int64_t t = 0; t < spans[i].last; ++t) cell[t * w.w.dilation] += share;
              }
            }
        }
      if constexpr (kConverts)
        for (int64_t i = 0; i < cells; ++i) out[p * cells + i] = narrow<T>(sum[i]);
    }
  });
}

}  // namespace

Tensor avg_pool_backward(const Tensor& g, const Window& window) {
  check_extents(g, window.out, window.rank);
  const bool channel_runs = has_channel_run(window.channels_last, g.dim(), window.rank);
  const Planes in = dense(g, channel_runs, window.rank);
  Planes out = empty_planes(g, window.in, window.rank, channel_runs, g.scalar_type());
  dispatch<kFloats>(g.scalar_type(), "avg_pool_backward", [&]<class T>() {
    const auto* from = static_cast<const T*>(in.tensor.const_data_ptr());
    auto* to = static_cast<T*>(out.tensor.mutable_data_ptr());
    Runs runs = in_runs(window, out.planes, out.run, kLanes<Wide<T>>);
    join_channels(runs, kLanes<Wide<T>>);
    const Window& w = runs.window;
    const int64_t planes = runs.planes, run = runs.run;
    if (w.is_one_row() && run == 1) {
      const Divisors<Wide<T>> divisors(w);
      const auto divisor = Wide<T>(divisors(0, 0, 0));
      const int64_t n = w.w.size;
      parallel(planes, n, [&](int64_t p, int64_t end) {
        for (; p < end; ++p) std::fill_n(to + p * n, n, narrow<T>(widen(from[p]) / divisor));
      });
    } else if (cuts(w) && run == 1 && w.w.kernel == 2) {
      fill_shared_pairs(from, to, w, planes, Wide<T>(w.divisor ? w.divisor : w.taps()));
    } else if (cuts(w) && w.taps() > 1 && run >= kLanes<Wide<T>>) {
      fill_channels(from, to, w, planes, run, Wide<T>(w.divisor ? w.divisor : w.taps()));
    } else if (turns(w.d) && turns(w.h) && turns(w.w) && w.taps() > 1 &&
               (common_divisor(w) || std::is_same_v<T, Wide<T>>)) {
      avg_backward_turned(from, to, w, planes, run);
    } else if (run == 1 && w.d.identity() && FewOutputAdjoint<T>::suits(w)) {
      if constexpr (std::is_same_v<Wide<T>, float>) {
        const Window slices = in_slices(w);
        FewOutputAdjoint<T>(from, to, slices, planes * w.d.size)();
      }
    } else if (run == 1 && spreads<Wide<T>>(w)) {
      Spread<T>(from, to, w, planes)();
    } else if (outputs_per_cell(w) <= 16 &&
               (run >= kLanes<Wide<T>> || 2 * planes * run > kLanes<Wide<T>>)) {
      const Divisors<Wide<T>> divisors(w);
      Adjoint<T, NoOffset>(from, nullptr, to, w, planes * run, run, &divisors)();
    } else if (run == 1 && (w.d.adaptive() || w.h.adaptive() || w.w.adaptive())) {
      avg_backward_planes(from, to, w, planes);
    } else if (run == 1) {
      avg_backward_rows(from, to, w, planes);
    } else {
      avg_backward_runs(from, to, w, planes, run);
    }
  });
  return in_format(out.tensor, window.channels_last, window.rank);
}

}  // namespace poolkit

STABLE_TORCH_LIBRARY_IMPL(poolkit, CPU, m) {
  poolkit::implement<poolkit::avg_pool>(m, "avg_pool");
  poolkit::implement<poolkit::avg_pool_backward>(m, "avg_pool_backward");
}
