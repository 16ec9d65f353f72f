// The forward kernel of every operator: cuts the work into blocks, and picks the scheme.
//
// - Cells of many channels fill registers as they are: lanes.h. (Channels-last, or planes whose
//   innermost axes have no windows of their own.)
// - Small windows that give as many outputs as cells take a contiguous plane for one row: flat.h.
// - The windows of networks, 2/1, 2/2, 3/1 and 3/2, go down contiguous planes in strips: strips.h.
// - Those of three axes are pooled slice by slice so, and then down the slices: slices.h.
// - Adaptive averages in float whose rows of outputs fit a register: few_outputs.h, with AVX2.
// - Long rows of other small windows are read where they lie: direct.h.
// - Other long rows, and large windows, are staged first: rows.h.
// - Other small planes are turned into lanes: lane_planes.h. So are planes of large maxima, where
//   neighbouring windows then go together (neighbours.h), channels that are too few to fill a
//   register where windows have strides, and all adaptive windows that do not divide the input:
//   they lie at no fixed distance from their outputs.
// - A window that is a long run of cells by itself, as in global pooling, is reduced by itself:
//   long_runs.h.
//
// A block is done by the plain rule, and where its input turns out to need it again by the full
// one.
#pragma once

#include <optional>

#include "direct.h"
#include "few_outputs.h"
#include "flat.h"
#include "long_runs.h"
#include "slices.h"
#include "store.h"
#include "strips.h"

namespace poolkit {

template <class F, class T>
void forward_rows(const T* x, const Result<F, T>& result, const Window& w, int64_t planes,
                  int64_t run) {
  const BlockPlan plan(w, planes, sizeof(typename F::V));
  const int64_t steps = w.w.kernel + w.h.kernel + w.d.kernel;
  const int64_t cost = plan.planes * plan.rows * plan.columns * std::min<int64_t>(steps, 16);
  parallel(plan.items(w), cost, [&](int64_t item, int64_t stop) {
    RowPool<T, typename F::Plain, false> plain(x, planes, w, run);
    std::optional<RowPool<T, typename F::Full, true>> full;
    for (; item < stop; ++item) {
      const Block b = plan.block(item, w, planes);
      if (plain(b)) {
        store_rows<F>(plain, b, result, w, run);
      } else if constexpr (F::kMayFail) {
        if (!full) full.emplace(x, planes, w, run);
        (*full)(b);
        store_rows<F>(*full, b, result, w, run);
      }
    }
  });
}

template <class F, class T>
void forward_direct(const T* x, const Result<F, T>& result, const Window& w, int64_t planes) {
  constexpr int64_t kBytes = 32 << 10;
  const Axis& h = w.h;
  // So many rows that those they share with the next block are a small part, and stay in cache.
  const int64_t row_bytes = w.d.kernel * (w.w.out + kLanes<typename F::V>)*sizeof(typename F::V);
  int64_t rows = std::max((kBytes / row_bytes - h.extent()) / h.stride + 1, 4 * h.extent());
  rows = std::clamp<int64_t>(rows, 1, h.out);
  const int64_t threads = torch::stable::get_num_threads();
  while (rows > 2 * h.extent() && planes * w.d.out * ((h.out + rows - 1) / rows) < 4 * threads)
    rows = (rows + 1) / 2;
  const int64_t strips = (h.out + rows - 1) / rows;
  rows = (h.out + strips - 1) / strips;
  const int64_t cost = rows * w.w.out * std::min<int64_t>(w.taps(), 16);
  parallel(planes * w.d.out * strips, cost, [&](int64_t item, int64_t stop) {
    DirectPool<F, T> direct(x, planes, w, result);
    std::optional<RowPool<T, typename F::Full, true>> full;
    for (; item < stop; ++item) {
      int64_t rest = item;
      Block b;
      b.h0 = rest % strips * rows, rest /= strips;
      b.d0 = rest % w.d.out, rest /= w.d.out, b.d1 = b.d0 + 1;
      b.plane = rest, b.planes = 1;
      b.h1 = std::min(h.out, b.h0 + rows), b.w0 = 0, b.w1 = w.w.out;
      if (b.h0 >= b.h1 || direct(b)) continue;
      if constexpr (F::kMayFail) {
        if (!full) full.emplace(x, planes, w, 1);
        (*full)(b);
        store_rows<F>(*full, b, result, w, 1);
      }
    }
  });
}

template <class F, class T>
void forward_strips(const T* x, const Result<F, T>& result, const Window& w, int64_t planes) {
  const int64_t group = planes > 1 ? planes_together<typename F::V>(w) : 1;
  const int64_t groups = (planes + group - 1) / group;
  int64_t rows = strip_rows<T>(w);
  const int64_t threads = torch::stable::get_num_threads();
  while (rows > 8 && groups * ((w.h.out + rows - 1) / rows) < 4 * threads) rows = (rows + 1) / 2;
  const int64_t parts = (w.h.out + rows - 1) / rows;
  rows = (w.h.out + parts - 1) / parts;
  const int64_t cost = group * rows * (w.w.out + kLanes<typename F::V>)*w.w.kernel / 2;
  parallel(groups * parts, cost, [&](int64_t item, int64_t stop) {
    StripPool<F, T> strips(x, planes, w, result, int(group));
    std::optional<RowPool<T, typename F::Full, true>> full;
    for (; item < stop; ++item) {
      const int64_t plane = item / parts * group, h0 = item % parts * rows;
      const Block b{plane, std::min(group, planes - plane), 0, 1,
                    h0,    std::min(w.h.out, h0 + rows),    0, w.w.out};
      // (The parts of a plane are as many as there are rows for.)
      const bool ends = stop / parts * group == plane;
      const int64_t row = ends ? stop % parts * rows : w.h.out;
      if (strips(b, row, std::min(planes, stop / parts * group))) continue;
      if constexpr (F::kMayFail) {
        if (!full) full.emplace(x, planes, w, 1);
        // (Rows of several planes do not lie together.)
        for (Block one = b; one.plane < b.plane + b.planes; ++one.plane) {
          one.planes = 1;
          (*full)(one);
          store_rows<F>(*full, one, result, w, 1);
        }
      }
    }
  });
}

template <class F, class T, int K>
void forward_flat_as(const T* x, const Result<F, T>& result, const Window& w, int64_t planes) {
  constexpr int64_t kBytes = 4 << 10;
  using Pool = FlatPool<F, T, K>;
  const int64_t threads = torch::stable::get_num_threads();
  int64_t group = kBytes / (Pool::pitch(w) * int64_t(sizeof(typename F::V)));
  group = std::max<int64_t>(1, std::min(group, planes / (4 * threads)));
  const int64_t groups = (planes + group - 1) / group;
  const int64_t cost = group * w.cells() * (w.w.kernel + w.h.kernel) / 4;
  parallel(groups, cost, [&](int64_t item, int64_t stop) {
    Pool flat(x, planes, w, result, group);
    std::optional<RowPool<T, typename F::Full, true>> full;
    for (; item < stop; ++item) {
      Block b{item * group, 1, 0, 1, 0, w.h.out, 0, w.w.out};
      const int64_t last = std::min(planes, b.plane + group);
      if (flat(b.plane, last, std::min(planes, stop * group))) continue;
      if constexpr (F::kMayFail) {
        if (!full) full.emplace(x, planes, w, 1);
        for (; b.plane < last; ++b.plane) {
          (*full)(b);
          store_rows<F>(*full, b, result, w, 1);
        }
      }
    }
  });
}

template <class F, class T>
void forward_flat(const T* x, const Result<F, T>& result, const Window& w, int64_t planes) {
  const auto about = [&](int64_t kernel) {
    const auto one = [&](const Axis& a) {
      return a.kernel == kernel && a.before == kernel / 2 && a.dilation == 1;
    };
    return one(w.h) && one(w.w);
  };
  if (about(3))
    forward_flat_as<F, T, 3>(x, result, w, planes);
  else if (about(5))
    forward_flat_as<F, T, 5>(x, result, w, planes);
  else
    forward_flat_as<F, T, 0>(x, result, w, planes);
}

template <class F, class T>
void forward_planes(const T* x, const Result<F, T>& result, const Window& w, int64_t planes,
                    int64_t run) {
  constexpr int64_t kGroup = kLanes<typename F::V>, kBytes = 128 << 10;
  // So much of an axis that the cells it looks at are at most `most`.
  const auto part = [](const Axis& a, int64_t most) {
    return a.size <= most ? a.out : std::clamp<int64_t>(a.out * most / a.size, 1, a.out);
  };
  const int64_t most = kBytes / int64_t(sizeof(typename F::V)) / kGroup;
  const int64_t w_part = part(w.w, most);
  int64_t h_part = part(w.h, most / std::min(most, w.w.size));
  // Groups of neighbours begin at multiples.
  if (!F::Plain::kSums && together(w.h) > 1) h_part = in_groups(h_part);
  const bool deep = w.cells() <= 4 * most;
  const int64_t d_part = deep ? w.d.out : 1;
  const auto parts = [](int64_t all, int64_t one) { return (all + one - 1) / one; };
  const int64_t ws = parts(w.w.out, w_part), hs = parts(w.h.out, h_part);
  const int64_t ds = parts(w.d.out, d_part), groups = parts(planes, kGroup);
  const int64_t cost =
      kGroup * (w.cells() + w.outputs() * std::min(w.w.kernel, w.w.size)) / (ws * hs * ds);
  parallel(groups * ds * hs * ws, cost, [&](int64_t item, int64_t stop) {
    PlanePool<T, typename F::Plain, false> plain(x, planes, w, run,
                                                 divisors_of<typename F::Plain>(result));
    std::optional<PlanePool<T, typename F::Full, true>> full;
    for (; item < stop; ++item) {
      int64_t rest = item;
      Block b;
      b.w0 = rest % ws * w_part, rest /= ws;
      b.h0 = rest % hs * h_part, rest /= hs;
      b.d0 = rest % ds * d_part, rest /= ds;
      b.plane = rest * kGroup;
      b.planes = std::min(kGroup, planes - b.plane);
      b.w1 = std::min(w.w.out, b.w0 + w_part), b.h1 = std::min(w.h.out, b.h0 + h_part);
      b.d1 = std::min(w.d.out, b.d0 + d_part);
      if (plain(b, 0)) {
        store_planes<F>(plain, b, 0, result, w, run);
      } else if constexpr (F::kMayFail) {
        if (!full) full.emplace(x, planes, w, run, nullptr);
        for (int64_t first = 0; first < b.planes; first += kLanes<typename F::Full::Value>) {
          (*full)(b, first);
          store_planes<F>(*full, b, first, result, w, run);
        }
      }
    }
  });
}

// At least as many channels as lanes.
template <class F, class T>
class RunPool {
 public:
  RunPool(const T* x, int64_t planes, const Result<F, T>& result, const Window& w, int64_t run)
      : x_(x), result_(result), w_(w), run_(run), values_(planes * w.cells() * run) {}

  // Channels [first, first + n) of the cells of a block, whose `plane` counts whole cells.
  void operator()(const Block& b, int64_t first, int64_t n) {
    if constexpr (F::Plain::kSums)
      return add(b, first, n);
    else if (pool<typename F::Plain, false>(b, first, n))
      return;
    if constexpr (F::kMayFail) pool<typename F::Full, true>(b, first, n);
  }

 private:
  int64_t line() const { return w_.w.out * run_; }  // of a row of outputs

  int64_t start(const Block& b) const {
    return ((b.plane * w_.d.out + b.d0) * w_.h.out + b.h0) * line() + b.w0 * run_;
  }

  View<T> cells(const Block& b, int64_t first) const {
    return {x_ + b.plane * w_.cells() * run_ + first, 0, w_.h.size * w_.w.size * run_,
            w_.w.size * run_, run_};
  }

  // Cells are added up from where they are, and the result is written where it belongs.
  void add(const Block& b, int64_t first, int64_t n) {
    using R = typename F::Plain;
    const auto go = [&]<int U, bool Pairs>() {
      LanePool<R, Rule::kPlain, U, Pairs> pool(w_, n, result_.divisors, is_large(w_),
                                               is_far<T>(values_), is_beyond<T>(values_));
      NoOffset* const none = nullptr;
      pool(cells(b, first), b, result_.y + start(b) + first, line(), run_, none, 0, 0);
    };
    constexpr int64_t N = kLanes<typename R::Value>;
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (n % (4 * N) == 0) return go.template operator()<4, true>();
      if (n % (2 * N) == 0) return go.template operator()<2, true>();
    }
    if (n >= 4 * N)
      go.template operator()<4, false>();
    else
      go.template operator()<1, false>();
  }

  template <class R, bool Exact>
  bool pool(const Block& b, int64_t first, int64_t n) {
    using V = typename R::Value;
    using L = typename R::Lane;
    constexpr int N = kLanes<V>;
    constexpr Rule kRule = Exact ? Rule::kFull : F::kMayFail ? Rule::kWatched : Rule::kPlain;
    // Byte offsets go straight to the result, as values do.
    constexpr bool kBytes = std::is_same_v<typename F::Offset, SmallOffset>;
    const int64_t outputs = b.rows() * b.columns(), to = start(b) + first;
    Buffer<L> taps;
    bool special = false;
    const auto go = [&]<int U>() {
      LanePool<R, kRule, U> pool(w_, n, nullptr, true, false, is_beyond<T>(values_));
      if constexpr (kBytes)
        pool(cells(b, first), b, result_.y + to, line(), run_,
             static_cast<uint8_t*>(result_.offsets.data) + to, line(), run_);
      else
        pool(cells(b, first), b, result_.y + to, line(), run_, taps.reserve(outputs * n + N),
             b.columns() * n, n);
      special = pool.special();
    };
    if (n >= 4 * N)
      go.template operator()<4>();
    else
      go.template operator()<1>();
    if (special && !Exact) return false;
    if constexpr (R::kOffsets && !kBytes)
      for (int64_t r = 0; r < b.rows(); ++r)
        for (int64_t i = 0; i < b.columns(); ++i)
          for (int64_t c = 0; c < n; c += N) {
            c = std::min(c, n - N);
            result_.offsets.template put<typename F::Offset, L>(
                to + r * line() + i * run_ + c, load(taps.get() + (r * b.columns() + i) * n + c));
          }
    return true;
  }

  const T* const x_;
  const Result<F, T>& result_;
  const Window& w_;
  const int64_t run_, values_;  // of a cell, and of the whole input
};

// How the output is cut into rows, columns and channels whose cells fit into cache.
struct RunPlan {
  int64_t rows, columns, channels;         // of a block, at most; the last channels may be more
  int64_t strips, column_strips, bundles;  // how many there are of each

  // `keeps`: rows are reduced along themselves first, and kept. `least`: rows of outputs that go
  // together. `width`: channels of a step.
  RunPlan(const Window& w, int64_t planes, int64_t run, int64_t width, int64_t value_bytes,
          bool keeps, int64_t least) {
    const int64_t threads = torch::stable::get_num_threads();
    const auto reach = [](const Axis& a) {
      return a.adaptive() ? a.size / a.out + 1 : std::min(a.extent(), a.size);
    };
    const int64_t depth = std::max<int64_t>(
        1, w.d.adaptive() ? w.d.size / w.d.out + 1 : std::min(w.d.kernel, w.d.size));
    const int64_t slices = planes * w.d.out;
    const int64_t most_parts = std::max<int64_t>(1, slices * ((w.h.out + least - 1) / least));
    // Columns, and then channels, are shared out only where there is too little else: a piece of
    // each cell is not read as it lies.
    const int64_t wanted = 4 * threads / most_parts;
    const int64_t most_pieces = std::max<int64_t>(1, w.w.out / (4 * reach(w.w)));
    const int64_t pieces = keeps ? 1 : std::clamp<int64_t>(wanted, 1, most_pieces);
    // (Groups of neighbours begin at multiples.)
    columns = pieces > 1 ? in_groups((w.w.out + pieces - 1) / pieces) : w.w.out;
    channels = run / std::clamp<int64_t>(wanted / pieces, 1, std::max<int64_t>(1, run / width));
    if (keeps) {
      // The rows of a block stay in the second-level cache: of few channels, if need be, and of few
      // columns, in groups (lanes.h).
      const int64_t seen = depth * std::min(w.h.size, 4 * reach(w.h));
      const int64_t most = kBytes / value_bytes / seen;
      channels = std::min(channels, std::max(2 * width, most / w.w.out));
      if (channels * w.w.out > most)
        columns = std::min(columns, in_groups(std::max(most / channels, 3 * reach(w.w))));
    }
    channels = channels / width * width > 0 ? channels / width * width : run;
    bundles = std::max<int64_t>(1, run / channels);
    column_strips = (w.w.out + columns - 1) / columns;
    const int64_t row_bytes =
        std::max<int64_t>(1, w.w.size / column_strips) * channels * value_bytes * depth;
    const int64_t step = w.h.adaptive() ? reach(w.h) : w.h.stride;
    rows = std::clamp<int64_t>(std::max(kBytes / row_bytes, 3 * reach(w.h)) / step, 1, w.h.out);
    const auto parts = [&] { return (w.h.out + rows - 1) / rows; };
    while (rows > 1 && slices * bundles * column_strips * parts() < 4 * threads)
      rows = (rows + 1) / 2;
    rows = (w.h.out + parts() - 1) / parts();
    rows = (rows + least - 1) / least * least;
    strips = parts();
  }

  int64_t items(const Window& w, int64_t planes) const {
    return planes * w.d.out * strips * column_strips * bundles;
  }

  // The block, and which bundle of its channels.
  std::pair<Block, int64_t> block(int64_t item, const Window& w) const {
    Block b;
    const int64_t bundle = item % bundles;
    item /= bundles;
    b.w0 = item % column_strips * columns, item /= column_strips;
    b.h0 = item % strips * rows, item /= strips;
    b.d0 = item % w.d.out, item /= w.d.out, b.d1 = b.d0 + 1;
    b.plane = item, b.planes = 1;
    b.h1 = std::min(w.h.out, b.h0 + rows);
    b.w1 = std::min(w.w.out, b.w0 + columns);
    return {b, bundle};
  }

 private:
  static constexpr int64_t kBytes = 512 << 10;
};

template <class F, class T>
void forward_runs(const T* x, const Result<F, T>& result, const Window& w, int64_t planes,
                  int64_t run) {
  using V = typename F::V;
  const bool keeps = !is_straight(w, std::is_same_v<T, V> ? 1 : 3);
  const int64_t least = has_tiles(w) ? kTileRows : keeps && together(w.h) > 1 ? kTogether : 1;
  const RunPlan plan(w, planes, run, 4 * kLanes<V>, sizeof(V), keeps, least);
  const int64_t cells = std::min(w.taps(), w.cells());
  const int64_t cost =
      plan.rows * plan.columns * plan.channels * std::clamp<int64_t>(cells, 4, 1 << 12);
  parallel(plan.items(w, planes), cost, [&](int64_t item, int64_t stop) {
    RunPool<F, T> pool(x, planes, result, w, run);
    for (; item < stop; ++item) {
      const auto [b, bundle] = plan.block(item, w);
      const int64_t first = bundle * plan.channels;
      pool(b, first, bundle + 1 == plan.bundles ? run - first : plan.channels);
    }
  });
}

// Windows so large that it pays to turn planes into lanes, where neighbours go together, and not so
// large that parts of a plane would have most of their rows in common: measured. (Sums do not go
// together there: of few planes they must come out the same.)
template <class F>
bool suits_groups(const Window& w, int64_t planes) {
  using V = typename F::V;
  const int64_t taps = w.h.kernel + w.w.kernel;
  constexpr int64_t kLeast = sizeof(V) == 2 && F::Plain::kOffsets ? 18 : 14, kMost = 64;
  return !F::Plain::kSums && sizeof(V) > 1 && kLeast <= taps && taps <= kMost && w.w.out <= 128 &&
         together(w.h) > 1 && together(w.w) > 1 &&
         planes >= kLanes<V> * torch::stable::get_num_threads();
}

// Every window of `planes` blocks of cells, each cell a run of `run` values.
template <class F, class T>
void forward(const T* x, const Result<F, T>& result, const Window& w, int64_t planes, int64_t run) {
  if (w.outputs() == 0 || planes == 0 || run == 0) return;
  const bool adaptive = w.d.adaptive() || w.h.adaptive() || w.w.adaptive();
  const int64_t taps = w.w.adaptive() ? w.w.size / w.w.out : w.w.kernel;
  const bool apart = w.w.adaptive() || w.w.kernel - w.w.stride <= w.w.stride || w.w.out == 1;
  const bool few = 2 * planes * run <= kLanes<typename F::V>;
  // (Their loops over long runs add cells as they are.)
  constexpr bool kRuns = !F::Plain::kSquares;
  if constexpr (kRuns)
    if (run == 1 && w.is_one_row()) {
      if constexpr (F::Plain::kSums)
        return forward_global_sums<F>(x, result, w, planes);
      else if (w.w.size >= kLanes<Compared<T>>)
        return forward_global_maxima<F>(x, result, w, planes);
    }
  if constexpr (kHasStrips<F>)
    if (run == 1 && w.d.identity()) {
      const Window slices = in_slices(w);
      const int64_t all = planes * w.d.size;
      if (suits_groups<F>(w, all)) return forward_planes<F>(x, result, slices, all, 1);
      if (suits_flat<F>(w, all)) return forward_flat<F>(x, result, slices, all);
      if (suits_strips<F>(slices, is_beyond<T>(planes * w.cells())))
        return forward_strips<F>(x, result, slices, all);
      if constexpr (F::Plain::kSums && std::is_same_v<typename F::V, float>)
        if (sums_few_outputs(slices)) return forward_few_outputs<F>(x, result, slices, all);
    }
  if constexpr (kHasSlices<F, T>)
    if (run == 1 && suits_slices<F>(w)) return forward_slices<F>(x, result, w, planes);
  // (One long row of stride 4 can be cut, staged, into as many pieces as there are threads.)
  const bool cut = w.w.stride == 4 && planes * w.d.out * w.h.out < 8;
  if constexpr (kHasDirect<F>)
    if (run == 1 && !cut && suits_direct<F>(w)) return forward_direct<F>(x, result, w, planes);
  const bool unnumbered = F::Plain::kOffsets && w.packed_taps() > INT32_MAX;
  constexpr int64_t kLong = F::Plain::kSums ? 48 : std::max(48, kLanes<Compared<T>>);
  const bool long_runs = kRuns && run == 1 && w.w.dilation == 1 && taps >= kLong && apart;
  if (long_runs || unnumbered)
    forward_long<F>(x, result, w, planes, run);
  else if (run >= kLanes<typename F::V>)
    forward_runs<F>(x, result, w, planes, run);
  else if (adaptive || !can_stage(w) ||
           !(few || overlaps_much(w) || suits_rows<typename F::V>(w.w)))
    forward_planes<F>(x, result, w, planes * run, run);
  else
    forward_rows<F>(x, result, w, planes * run, run);
}

}  // namespace poolkit
