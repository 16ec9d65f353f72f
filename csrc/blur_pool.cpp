// Blurs: weighted sums of windows, axis by axis, and their adjoint; and blurs of maxima.
//
// Everything is one loop, combine(): vectors of several lines, weighted and added up.
//
// clang-format off
//   down     the rows of cells that a row of outputs holds, wherever they lie, give one row of sums;
//            the padding is written out at its ends
//   along    the lines are that row from tap 0 on, from tap 1 on, ...; with stride s it is kept as s
//            rows, its phases, so that neighbours in a line belong to neighbouring outputs
// clang-format on
//
// That is k_h + k_w steps for an output. A cell is a run of values, one or the channels; where a
// run fills a vector, each line along the row is the run of one cell. The order of the two makes no
// difference to a sum but its rounding, and this one reads memory as it lies.
//
// The adjoint is the same the other way round: down the rows of gradients that hold a row of cells,
// then along. Cells that stand in the padding too are summed up by lists of their outputs.
//
// Maxima of stride 1 are reduced the same way, row by row, into a few rows that stay in cache while
// rows of outputs are blurred from them.
//
// Each row of results is computed by itself, in one order: the same bits for any number of threads.
#include <array>

#include "cells.h"
#include "lanes.h"
#include "operators.h"
#include "rows.h"

namespace poolkit {
namespace {

// Values one behind the other, and what they are multiplied by.
template <class S, class V>
struct Line {
  const S* at;
  V weight;
};

// Where a cell or an output of an axis is, and its weight.
struct Share {
  int64_t at;
  double weight;
};

// For each output of an axis its cells, or for each cell its outputs, in ascending order.
class Shares {
 public:
  void add(int64_t to, Share share) { lists_[size_t(to)].push_back(share); }
  const std::vector<Share>& operator[](int64_t i) const { return lists_[size_t(i)]; }

  static Shares of_outputs(const Axis& a, PaddingMode mode, const double* taps) {
    Shares shares(a.out);
    for_taps(a, mode, [&](int64_t output, int64_t tap, int64_t cell) {
      shares.add(output, {cell, taps[tap]});
    });
    return shares;
  }
  static Shares of_cells(const Axis& a, PaddingMode mode, const double* taps) {
    Shares shares(a.size);
    for_taps(a, mode, [&](int64_t output, int64_t tap, int64_t cell) {
      shares.add(cell, {output, taps[tap]});
    });
    return shares;
  }

  // From the first to the last of what entries [i0, i1) name.
  std::pair<int64_t, int64_t> reach(int64_t i0, int64_t i1) const {
    int64_t low = INT64_MAX, high = 0;
    for (int64_t i = i0; i < i1; ++i)
      for (const Share& share : lists_[size_t(i)])
        low = std::min(low, share.at), high = std::max(high, share.at + 1);
    return {std::min(low, high), high};
  }

 private:
  explicit Shares(int64_t n) : lists_(size_t(n)) {}

  template <class F>
  static void for_taps(const Axis& a, PaddingMode mode, const F& f) {
    for (int64_t i = 0; i < a.out; ++i)
      for (int64_t t = 0; t < a.kernel; ++t)
        if (const int64_t cell = a.cell_at(a.start(i) + t, mode); cell >= 0) f(i, t, cell);
  }

  std::vector<std::vector<Share>> lists_;
};

// ---- lines --------------------------------------------------------------------------------------

struct WeightedSum {
  template <class V>
  static Vec<V> first(const Vec<V>& v, V weight) {
    return v * weight;
  }
  template <class V>
  static Vec<V> next(const Vec<V>& sum, const Vec<V>& v, V weight) {
    return sum + v * weight;
  }
};

// The maximum; a NaN wins.
struct Largest {
  template <class V>
  static Vec<V> first(const Vec<V>& v, V) {
    return v;
  }
  template <class V>
  static Vec<V> next(const Vec<V>& best, const Vec<V>& v, V) {
    return ((v > best) | (v != v)) ? v : best;
  }
};

// The next vector, of which n values count; nothing is read from `end` on, if it is given.
template <class V, class S>
[[gnu::always_inline]] inline Vec<V> load_ending(const S* p, int64_t n, const S* end) {
  if (!end || end - p >= kLanes<V>) return load_as<V>(p);
  S some[kLanes<V>] = {};
  std::memcpy(some, p, size_t(std::min<int64_t>(n, kLanes<V>)) * sizeof(S));
  return load_as<V>(some);
}

// put(i, vector) of what the lines' values from `from` on give, n of them, at least one line.
// Vectors are `step` apart: N, or so much that each is of another cell; then there are whole ones
// only.
template <class Op, class V, class S, class Put>
void combine(const std::vector<Line<S, V>>& lines, int64_t from, int64_t n, const S* end,
             const Put& put, int64_t step = kLanes<V>) {
  constexpr int N = kLanes<V>;
  int64_t i = 0;
  const auto blocks = [&]<int U>() {
    for (; i + U * N <= n; i += U * N) {
      const int64_t at = from + i / N * step;
      Vec<V> v[U];
      POOLKIT_UNROLL
      for (int u = 0; u < U; ++u)
        v[u] = Op::first(load_as<V>(lines[0].at + at + u * step), lines[0].weight);
      for (size_t l = 1; l < lines.size(); ++l) POOLKIT_UNROLL
      for (int u = 0; u < U; ++u)
        v[u] = Op::next(v[u], load_as<V>(lines[l].at + at + u * step), lines[l].weight);
      POOLKIT_UNROLL
      for (int u = 0; u < U; ++u) put(i + u * N, v[u]);
    }
  };
  blocks.template operator()<4>();
  blocks.template operator()<1>();
  if (i == n) return;
  Vec<V> v = Op::first(load_ending<V>(lines[0].at + from + i, n - i, end), lines[0].weight);
  for (size_t l = 1; l < lines.size(); ++l)
    v = Op::next(v, load_ending<V>(lines[l].at + from + i, n - i, end), lines[l].weight);
  put(i, v);
}

// Where combine() puts n values: whole vectors, but nothing from `end` on.
template <class T, class V>
struct Sink {
  T* to;
  int64_t n;
  const T* end;

  void operator()(int64_t i, const Vec<V>& v) const {
    if (end - (to + i) >= kLanes<V>)
      write<T, V>(to + i, v);
    else
      write_some<T, V>(to + i, v, std::min<int64_t>(kLanes<V>, n - i));
  }
};

// Into a buffer with room for a vector more.
template <class V>
struct Staged {
  V* to;

  void operator()(int64_t i, const Vec<V>& v) const { store(to + i, v); }
};

// Into one vector of each of cells that are `step` apart.
template <class T, class V>
struct Strided {
  T* to;
  int64_t step;

  void operator()(int64_t i, const Vec<V>& v) const { write<T, V>(to + i / kLanes<V> * step, v); }
};

// Calls f(c) for the vectors of a run of at least one.
template <class V, class F>
void for_vectors(int64_t run, const F& f) {
  for (int64_t c = 0; c < run; c += kLanes<V>) {
    c = std::min(c, run - kLanes<V>);  // the last overlaps the one before
    f(c);
  }
}

// Runs of fewer vectors are worked through vector by vector, and longer ones cell by cell.
constexpr int64_t kFewVectors = 4;

// ---- geometry -----------------------------------------------------------------------------------

struct Extents {
  int64_t d, h, w;

  int64_t cells() const { return d * h * w; }
};

// The axes of a blur, and the weights of each.
struct Blur {
  const Axis &d, &h, &w;
  const PaddingMode mode;
  const double *d_taps, *h_taps, *w_taps;

  Blur(const Window& window, const std::vector<double>& taps)
      : d(window.apart[0]), h(window.apart[1]), w(window.apart[2]), mode(window.padding_mode) {
    static constexpr double kOne = 1;
    const double** const filters[3] = {&d_taps, &h_taps, &w_taps};
    size_t used = 0;
    for (int i = 0; i < 3; ++i) {
      const Axis& a = window.apart[i];
      const bool absent = i < 3 - window.rank;
      *filters[i] = absent ? &kOne : taps.data() + used;
      used += absent ? 0 : size_t(a.kernel);
      const int64_t most = mode == PaddingMode::kReflect    ? a.size - 1
                           : mode == PaddingMode::kCircular ? a.size
                                                            : INT64_MAX;
      STD_TORCH_CHECK(!a.adaptive() && a.dilation == 1 && a.before <= most && a.after <= most &&
                          (a.out - 1) * a.stride + a.kernel <= a.before + a.size + a.after,
                      "poolkit: the window of a blur has impossible fields at axis ", i);
    }
    STD_TORCH_CHECK(used == taps.size(), "poolkit: a blur of ", used, " taps has ", taps.size(),
                    " weights");
  }

  int64_t steps() const { return d.kernel * h.kernel + w.kernel; }
};

// Rows of a plane, or of a part of one that begins at row (d0, h0).
template <class S>
struct Rows {
  const S* base;
  const S* end;  // nothing is read from here on, if it is given
  int64_t slice, line;
  int64_t d0 = 0, h0 = 0;

  const S* operator()(int64_t d, int64_t h) const {
    return base + (d - d0) * slice + (h - h0) * line;
  }
};

// The rows that two lists of shares name, each weighted by both.
template <class S, class V, class Row>
void find_lines(const std::vector<Share>& ds, const std::vector<Share>& hs, Row& row,
                std::vector<Line<S, V>>& lines) {
  lines.clear();
  for (const Share& d : ds)
    for (const Share& h : hs) lines.push_back({row(d.at, h.at), V(d.weight * h.weight)});
}

// Values of a row that are worked on at once: they stay in cache.
constexpr int64_t kTile = 1 << 14;

// Calls f(begin, end, whole) for parts of n cells or outputs, `values` values of a row for each.
template <class F>
void for_tiles(int64_t n, int64_t values, const F& f) {
  const int64_t tiles = std::max<int64_t>(1, n * values / kTile);
  const int64_t part = (n + tiles - 1) / tiles;
  for (int64_t i = 0; i < n; i += part) f(i, std::min(n, i + part), part >= n);
}

// ---- forward ------------------------------------------------------------------------------------

// Outputs of a row from the rows of cells that they hold.
template <class S, class T>
class Row {
  using V = Wide<T>;
  static constexpr int N = kLanes<V>;

 public:
  Row(const Blur& blur, int64_t run) : b_(blur), a_(blur.w), run_(run) {
    along_.resize(size_t(a_.kernel));
    for (int64_t t = 0; t < a_.kernel; ++t) along_[size_t(t)].weight = V(b_.w_taps[t]);
  }

  // Outputs [i0, i1). Lines begin at cell `first`, and nothing is read from `end` on.
  void operator()(const std::vector<Line<S, V>>& lines, int64_t first, const S* end, int64_t i0,
                  int64_t i1, T* to, const T* to_end) {
    const int64_t s = a_.stride, start = a_.start(i0), n = (i1 - i0) * run_;
    const int64_t positions = (i1 - 1 - i0) * s + a_.kernel;
    V* const sums = sums_.reserve(positions * run_ + 3 * N);
    down(lines, first, end, start, positions, sums);
    if (s > 1 && run_ >= N && run_ < kFewVectors * N) {
      for_vectors<V>(run_, [&](int64_t c) {
        for (int64_t t = 0; t < a_.kernel; ++t) along_[size_t(t)].at = sums + t * run_ + c;
        combine<WeightedSum, V, V>(along_, 0, (i1 - i0) * N, nullptr, Strided<T, V>{to + c, run_},
                                   s * run_);
      });
      return;
    }
    if (s > 1 && run_ >= N) {
      for (int64_t i = 0; i < i1 - i0; ++i) {
        for (int64_t t = 0; t < a_.kernel; ++t) along_[size_t(t)].at = sums + (i * s + t) * run_;
        put_along(run_, to + i * run_, to_end);
      }
      return;
    }
    const V* phases = sums;
    int64_t pitch = 0;
    if (s > 1) {
      const int64_t length = (positions + s - 1) / s;
      pitch = length * run_ + 2 * N;
      phases = part(sums, positions, length, pitch);
    }
    for (int64_t t = 0; t < a_.kernel; ++t)
      along_[size_t(t)].at = phases + t % s * pitch + t / s * run_;
    put_along(n, to, to_end);
  }

 private:
  void put_along(int64_t n, T* to, const T* to_end) const {
    combine<WeightedSum, V, V>(along_, 0, n, nullptr, Sink<T, V>{to, n, to_end});
  }

  // The sums at positions [start, start + n) of the padded row. Each writes a vector more than it
  // has, so they come in order.
  void down(const std::vector<Line<S, V>>& lines, int64_t first, const S* end, int64_t start,
            int64_t n, V* sums) const {
    if (lines.empty()) {
      std::fill_n(sums, n * run_, V(0));
      return;
    }
    const int64_t low = std::clamp<int64_t>(-start, 0, n);
    const int64_t high = std::clamp<int64_t>(a_.size - start, low, n);
    const auto add = [&](int64_t i, int64_t cell, int64_t cells) {
      combine<WeightedSum>(lines, (cell - first) * run_, cells * run_, end,
                           Staged<V>{sums + i * run_});
    };
    const auto pad = [&](int64_t i) {
      if (const int64_t cell = a_.cell_at(start + i, b_.mode); cell >= 0)
        add(i, cell, 1);
      else
        std::fill_n(sums + i * run_, run_, V(0));
    };
    for (int64_t i = 0; i < low; ++i) pad(i);
    if (low < high) add(low, start + low, high - low);
    for (int64_t i = high; i < n; ++i) pad(i);
  }

  // `sums` as phases: cell i is cell i / s of phase i % s.
  const V* part(const V* sums, int64_t cells, int64_t length, int64_t pitch) {
    const int64_t s = a_.stride;
    V* const phases = phases_.reserve(s * pitch);
    if (s == 2 && run_ == 1) {
      for (int64_t i = 0; i < length; i += N) {
        const Vec<V> a = load(sums + 2 * i), b = load(sums + 2 * i + N);
        store(phases + i, every_second<V>(a, b, 0));
        store(phases + pitch + i, every_second<V>(a, b, 1));
      }
      return phases;
    }
    for (int64_t i = 0; i < cells; ++i)
      std::copy_n(sums + i * run_, run_, phases + i % s * pitch + i / s * run_);
    return phases;
  }

  const Blur& b_;
  const Axis& a_;
  const int64_t run_;
  Buffer<V> sums_, phases_;
  std::vector<Line<V, V>> along_;
};

// The blur, for by_rows() and by_lanes().
struct Forward {
  const Blur& b;
  const Shares ds = Shares::of_outputs(b.d, b.mode, b.d_taps);
  const Shares hs = Shares::of_outputs(b.h, b.mode, b.h_taps);

  Extents in() const { return {b.d.size, b.h.size, b.w.size}; }
  Extents out() const { return {b.d.out, b.h.out, b.w.out}; }
  std::pair<int64_t, int64_t> slices(int64_t d0, int64_t d1) const { return ds.reach(d0, d1); }
  std::pair<int64_t, int64_t> rows(int64_t h0, int64_t h1) const { return hs.reach(h0, h1); }
  int64_t cost() const { return b.w.out * b.steps(); }

  template <class S, class T>
  class Worker {
    using V = Wide<T>;

   public:
    Worker(const Forward& op, int64_t run) : op_(op), run_(run), row_(op.b, run) {}

    // Rows [h0, h1) of slice d, from `to` on.
    void operator()(const Rows<S>& rows, int64_t d, int64_t h0, int64_t h1, T* to) {
      const int64_t line = op_.b.w.out * run_;
      for_tiles(op_.b.w.out, op_.b.w.stride * run_, [&](int64_t i0, int64_t i1, bool whole) {
        for (int64_t h = h0; h < h1; ++h) {
          find_lines(op_.ds[d], op_.hs[h], rows, lines_);
          row_(lines_, 0, rows.end, i0, i1, to + (h - h0) * line + i0 * run_,
               to + ((whole ? h1 : h + 1) - h0) * line);
        }
      });
    }

   private:
    const Forward& op_;
    const int64_t run_;
    Row<S, T> row_;
    std::vector<Line<S, V>> lines_;
  };
};

// ---- adjoint ------------------------------------------------------------------------------------

// A cell that stands in the padding too, and all outputs that hold it.
struct Folded {
  int64_t cell;
  std::vector<Share> outputs;
};

// The folded cells of an axis, in ascending order.
std::vector<Folded> folded_cells(const Axis& a, PaddingMode mode, const double* taps) {
  std::vector<Folded> found;
  if (mode == PaddingMode::kZeros) return found;
  const int64_t inner = a.inner_begin(), last = a.inner_end();
  const auto for_edges = [&](const auto& f) {
    for (int64_t i = 0; i < a.out; ++i) {
      if (i == inner) i = last;
      for (int64_t t = 0; t < a.kernel && i < a.out; ++t) f(i, t, a.start(i) + t);
    }
  };
  for_edges([&](int64_t, int64_t, int64_t position) {
    const int64_t cell = a.cell_at(position, mode);
    if (cell == position) return;
    const auto place = std::lower_bound(found.begin(), found.end(), cell,
                                        [](const Folded& f, int64_t c) { return f.cell < c; });
    if (place == found.end() || place->cell != cell) found.insert(place, Folded{cell, {}});
  });
  for (Folded& f : found) {
    for (int64_t i = std::max(inner, a.lowest_output(f.cell));
         i < std::min(last, a.highest_output(f.cell)); ++i)
      f.outputs.push_back({i, taps[a.tap(i, f.cell)]});
  }
  for_edges([&](int64_t i, int64_t t, int64_t position) {
    const int64_t cell = a.cell_at(position, mode);
    const auto place = std::lower_bound(found.begin(), found.end(), cell,
                                        [](const Folded& f, int64_t c) { return f.cell < c; });
    if (place != found.end() && place->cell == cell) place->outputs.push_back({i, taps[t]});
  });
  return found;
}

// Cells of a row from the rows of gradients that hold them.
template <class S, class T>
class AdjointRow {
  using V = Wide<T>;
  static constexpr int N = kLanes<V>;

 public:
  AdjointRow(const Blur& blur, const std::vector<Folded>& folded, int64_t run)
      : b_(blur), a_(blur.w), folded_(folded), run_(run) {}

  // Cells [c0, c1); nothing is read from `end` on.
  void operator()(const std::vector<Line<S, V>>& lines, const S* end, int64_t c0, int64_t c1, T* to,
                  const T* to_end) {
    // Positions of the padded row: output o has position p by tap p - o * stride.
    const int64_t s = a_.stride, p0 = c0 + a_.before, p1 = c1 + a_.before;
    const int64_t reach = (a_.kernel - 1) / s + 1, low = p0 / s - reach, high = (p1 - 1) / s + 1;
    down(lines, end, low, high);
    if (s == 1) {
      along_.clear();
      for (int64_t t = a_.kernel - 1; t >= 0; --t)
        along_.push_back({sums_.get() + (p0 - t - low) * run_, V(b_.w_taps[t])});
      put_along((c1 - c0) * run_, to, to_end);
    } else if (run_ >= kFewVectors * N) {
      for (int64_t p = p0; p < p1; ++p) {
        find_holders(p % s, p / s - low);
        put_along(run_, to + (p - p0) * run_, to_end);
      }
    } else if (run_ >= N) {
      for (int64_t p = p0; p < std::min(p1, p0 + s); ++p)
        for_vectors<V>(run_, [&](int64_t c) {
          find_holders(p % s, p / s - low);
          put_every(p1 - p, c, to + (p - p0) * run_ + c);
        });
    } else {
      by_phases(p0, p1, low, high, to, to_end);
    }
    fold(lines, end, c0, c1, to);
  }

 private:
  void put_along(int64_t n, T* to, const T* to_end) const {
    const Sink<T, V> sink{to, n, to_end};
    if (along_.empty())
      for (int64_t i = 0; i < n; i += N) sink(i, Vec<V>{});
    else
      combine<WeightedSum, V, V>(along_, 0, n, nullptr, sink);
  }

  // Vector c of every stride-th of `cells` cells.
  void put_every(int64_t cells, int64_t c, T* to) const {
    const int64_t n = (cells + a_.stride - 1) / a_.stride * N;
    const Strided<T, V> put{to, a_.stride * run_};
    if (along_.empty())
      for (int64_t i = 0; i < n; i += N) put(i, Vec<V>{});
    else
      combine<WeightedSum, V, V>(along_, c, n, nullptr, put, run_);
  }

  // The lines that a position of phase `phase` adds up, of outputs up to the one at `place`.
  void find_holders(int64_t phase, int64_t place) {
    const int64_t s = a_.stride;
    along_.clear();
    for (int64_t t = (a_.kernel - 1 - phase) / s * s + phase; t >= phase; t -= s)
      if (t < a_.kernel) along_.push_back({sums_.get() + (place - t / s) * run_, V(b_.w_taps[t])});
  }

  // The sums of outputs [low, high), 0 for those that there are not.
  void down(const std::vector<Line<S, V>>& lines, const S* end, int64_t low, int64_t high) {
    V* const sums = sums_.reserve((high - low) * run_ + 2 * N);
    const int64_t begin = std::clamp<int64_t>(0, low, high);
    const int64_t stop = lines.empty() ? begin : std::clamp(a_.out, begin, high);
    std::fill_n(sums, (begin - low) * run_, V(0));
    if (begin < stop)
      combine<WeightedSum>(lines, begin * run_, (stop - begin) * run_, end,
                           Staged<V>{sums + (begin - low) * run_});
    std::fill_n(sums + (stop - low) * run_, (high - stop) * run_, V(0));
  }

  void by_phases(int64_t p0, int64_t p1, int64_t low, int64_t high, T* to, const T* to_end) {
    const int64_t s = a_.stride, j0 = p0 / s, length = high - j0, pitch = length * run_ + 2 * N;
    V* const phases = phases_.reserve(s * pitch);
    for (int64_t r = 0; r < s; ++r) {
      find_holders(r, j0 - low);
      V* const phase = phases + r * pitch;
      if (along_.empty())
        std::fill_n(phase, length * run_, V(0));
      else
        combine<WeightedSum, V, V>(along_, 0, length * run_, nullptr, Staged<V>{phase});
    }
    V* const row = row_.reserve(s * length * run_ + 2 * N);
    if (s == 2 && run_ == 1)
      for (int64_t j = 0; j < length; j += N)
        for (int half = 0; half < 2; ++half)
          store(row + 2 * j + half * N,
                interleaved<V>(load(phases + j), load(phases + pitch + j), half));
    else
      for (int64_t p = p0; p < p1; ++p)
        std::copy_n(phases + p % s * pitch + (p / s - j0) * run_, run_, row + (p - j0 * s) * run_);
    const int64_t n = (p1 - p0) * run_;
    const V* const from = row + (p0 - j0 * s) * run_;
    const Sink<T, V> sink{to, n, to_end};
    for (int64_t i = 0; i < n; i += N) sink(i, load(from + i));
  }

  void fold(const std::vector<Line<S, V>>& lines, const S* end, int64_t c0, int64_t c1, T* to) {
    for (const Folded& f : folded_) {
      if (f.cell < c0 || f.cell >= c1 || lines.empty()) continue;
      held_.clear();
      for (const Share& share : f.outputs)
        for (const Line<S, V>& line : lines)
          held_.push_back({line.at + share.at * run_, V(share.weight) * line.weight});
      T* const cell = to + (f.cell - c0) * run_;
      combine<WeightedSum>(held_, 0, run_, end, Sink<T, V>{cell, run_, cell + run_});
    }
  }

  const Blur& b_;
  const Axis& a_;
  const std::vector<Folded>& folded_;
  const int64_t run_;
  Buffer<V> sums_, phases_, row_;
  std::vector<Line<V, V>> along_;
  std::vector<Line<S, V>> held_;
};

// Its adjoint.
struct Backward {
  const Blur& b;
  const Shares ds = Shares::of_cells(b.d, b.mode, b.d_taps);
  const Shares hs = Shares::of_cells(b.h, b.mode, b.h_taps);
  const std::vector<Folded> folded = folded_cells(b.w, b.mode, b.w_taps);

  Extents in() const { return {b.d.out, b.h.out, b.w.out}; }
  Extents out() const { return {b.d.size, b.h.size, b.w.size}; }
  std::pair<int64_t, int64_t> slices(int64_t d0, int64_t d1) const { return ds.reach(d0, d1); }
  std::pair<int64_t, int64_t> rows(int64_t h0, int64_t h1) const { return hs.reach(h0, h1); }
  int64_t cost() const { return b.w.size * (b.steps() / b.w.stride + 1); }

  template <class S, class T>
  class Worker {
    using V = Wide<T>;

   public:
    Worker(const Backward& op, int64_t run) : op_(op), run_(run), row_(op.b, op.folded, run) {}

    void operator()(const Rows<S>& rows, int64_t d, int64_t h0, int64_t h1, T* to) {
      const int64_t line = op_.b.w.size * run_;
      for_tiles(op_.b.w.size, run_, [&](int64_t c0, int64_t c1, bool whole) {
        for (int64_t h = h0; h < h1; ++h) {
          find_lines(op_.ds[d], op_.hs[h], rows, lines_);
          row_(lines_, rows.end, c0, c1, to + (h - h0) * line + c0 * run_,
               to + ((whole ? h1 : h + 1) - h0) * line);
        }
      });
    }

   private:
    const Backward& op_;
    const int64_t run_;
    AdjointRow<S, T> row_;
    std::vector<Line<S, V>> lines_;
  };
};

// ---- maxima -------------------------------------------------------------------------------------

// Rows of maxima of stride 1 of one plane, of which the last ones used are kept.
template <class S>
class DenseRows {
  using V = Wide<S>;
  static constexpr int N = kLanes<V>;

 public:
  DenseRows(const Axis (&axes)[3], int64_t run, int64_t kept)
      : d_(axes[0]), h_(axes[1]), w_(axes[2]), run_(run), slots_(size_t(kept)) {}

  // From now on maxima [m0, m1) of the rows of a plane.
  void begin(const Rows<S>& cells, int64_t m0, int64_t m1) {
    cells_ = cells, m0_ = m0, m1_ = m1;
    pitch_ = ((m1 - m0) * run_ + 2 * N - 1) / N * N;
    values_.reserve(int64_t(slots_.size()) * pitch_);
    for (Slot& slot : slots_) slot = {};
  }

  const V* operator()(int64_t d, int64_t h) {
    const int64_t number = d * h_.out + h;
    Slot* oldest = slots_.data();
    for (Slot& slot : slots_) {
      if (slot.row == number) {
        slot.used = ++clock_;
        return values(slot);
      }
      if (slot.used < oldest->used) oldest = &slot;
    }
    *oldest = {number, ++clock_};
    V* const row = values(*oldest);
    fill(d, h, row);
    return row;
  }

 private:
  struct Slot {
    int64_t row = -1, used = 0;
  };

  V* values(const Slot& slot) const { return values_.get() + (&slot - slots_.data()) * pitch_; }

  void fill(int64_t d, int64_t h, V* row) {
    rows_.clear();
    for (int64_t td = d_.first(d); td < d_.last(d); ++td)
      for (int64_t th = h_.first(h); th < h_.last(h); ++th)
        rows_.push_back({cells_(d_.start(d) + td, h_.start(h) + th), V(1)});
    const int64_t start = m0_ - w_.before, n = m1_ - m0_ + w_.kernel - 1;
    const int64_t low = std::clamp<int64_t>(-start, 0, n);
    const int64_t high = std::clamp<int64_t>(w_.size - start, low, n);
    V* const best = best_.reserve(n * run_ + 2 * N);
    std::fill_n(best, low * run_, lowest<V>());
    if (low < high)
      combine<Largest>(rows_, (start + low) * run_, (high - low) * run_, cells_.end,
                       Staged<V>{best + low * run_});
    std::fill_n(best + high * run_, (n - high) * run_, lowest<V>());
    along_.clear();
    for (int64_t t = 0; t < w_.kernel; ++t) along_.push_back({best + t * run_, V(1)});
    combine<Largest, V, V>(along_, 0, (m1_ - m0_) * run_, nullptr, Staged<V>{row});
  }

  const Axis d_, h_, w_;
  const int64_t run_;
  Rows<S> cells_{};
  int64_t m0_ = 0, m1_ = 0, pitch_ = 0, clock_ = 0;
  std::vector<Slot> slots_;
  std::vector<Line<S, V>> rows_;
  std::vector<Line<V, V>> along_;
  Buffer<V> values_, best_;
};

// The cells that outputs [i0, i1) hold, from the first to the last, in the padding too.
std::pair<int64_t, int64_t> cells_of(const Axis& a, PaddingMode mode, int64_t i0, int64_t i1) {
  int64_t low = a.size, high = 0;
  const auto meet = [&](int64_t cell) {
    if (cell >= 0) low = std::min(low, cell), high = std::max(high, cell + 1);
  };
  const int64_t start = a.start(i0), end = a.start(i1 - 1) + a.kernel;
  for (int64_t p = start; p < std::min<int64_t>(end, 0); ++p) meet(a.cell_at(p, mode));
  for (int64_t p = std::max(start, a.size); p < end; ++p) meet(a.cell_at(p, mode));
  if (std::max<int64_t>(start, 0) < std::min(end, a.size))
    meet(std::max<int64_t>(start, 0)), meet(std::min(end, a.size) - 1);
  return {std::min(low, high), high};
}

// The cells that maxima [m0, m1) of an axis look at.
std::pair<int64_t, int64_t> looked_at(const Axis& a, std::pair<int64_t, int64_t> maxima) {
  const auto [m0, m1] = maxima;
  if (m0 == m1) return {0, 0};
  return {std::max<int64_t>(0, a.start(m0)), std::min(a.size, a.start(m1 - 1) + a.kernel)};
}

// The blur of maxima.
struct ForwardOfMaxima {
  const Blur& b;
  const Axis (&maxima)[3];
  const Shares ds = Shares::of_outputs(b.d, b.mode, b.d_taps);
  const Shares hs = Shares::of_outputs(b.h, b.mode, b.h_taps);

  Extents in() const { return {maxima[0].size, maxima[1].size, maxima[2].size}; }
  Extents out() const { return {b.d.out, b.h.out, b.w.out}; }
  std::pair<int64_t, int64_t> slices(int64_t d0, int64_t d1) const {
    return looked_at(maxima[0], ds.reach(d0, d1));
  }
  std::pair<int64_t, int64_t> rows(int64_t h0, int64_t h1) const {
    return looked_at(maxima[1], hs.reach(h0, h1));
  }
  int64_t cost() const {
    return b.w.out * (b.steps() + maxima[0].kernel * maxima[1].kernel + maxima[2].kernel);
  }

  template <class S, class T>
  class Worker {
    using V = Wide<T>;

   public:
    Worker(const ForwardOfMaxima& op, int64_t run)
        : op_(op),
          run_(run),
          row_(op.b, run),
          dense_(op.maxima, run, op.b.d.kernel * op.b.h.kernel) {}

    void operator()(const Rows<S>& rows, int64_t d, int64_t h0, int64_t h1, T* to) {
      const int64_t line = op_.b.w.out * run_;
      for_tiles(op_.b.w.out, op_.b.w.stride * run_, [&](int64_t i0, int64_t i1, bool whole) {
        const auto [m0, m1] = cells_of(op_.b.w, op_.b.mode, i0, i1);
        dense_.begin(rows, m0, m1);
        for (int64_t h = h0; h < h1; ++h) {
          find_lines(op_.ds[d], op_.hs[h], dense_, lines_);
          row_(lines_, m0, nullptr, i0, i1, to + (h - h0) * line + i0 * run_,
               to + ((whole ? h1 : h + 1) - h0) * line);
        }
      });
    }

   private:
    const ForwardOfMaxima& op_;
    const int64_t run_;
    Row<V, T> row_;
    DenseRows<S> dense_;
    std::vector<Line<V, V>> lines_;
  };
};

// ---- schemes ------------------------------------------------------------------------------------

// Rows where they lie.
template <class Op, class T>
void by_rows(const Op& op, const T* x, T* y, int64_t planes, int64_t run) {
  const Extents in = op.in(), out = op.out();
  const int64_t threads = torch::stable::get_num_threads();
  // What strips have in common is read, or reduced, by each.
  int64_t strips = 1;
  while (planes * out.d * strips < 4 * threads && out.h / (2 * strips) >= 8) strips *= 2;
  const int64_t height = (out.h + strips - 1) / strips, line = in.w * run;
  const T* const end = x + planes * in.cells() * run;
  parallel(planes * out.d * strips, height * run * op.cost(), [&](int64_t item, int64_t stop) {
    typename Op::template Worker<T, T> worker(op, run);
    for (; item < stop; ++item) {
      const int64_t h0 = item % strips * height, h1 = std::min(out.h, h0 + height);
      const int64_t d = item / strips % out.d, plane = item / strips / out.d;
      const Rows<T> rows{x + plane * in.cells() * run, end, in.h * line, line};
      if (h0 < h1) worker(rows, d, h0, h1, y + ((plane * out.d + d) * out.h + h0) * out.w * run);
    }
  });
}

// Planes as lanes: a vector of planes, or of channels that do not fill one, is turned in cache.
template <class Op, class T>
class ByLanes {
  using V = Wide<T>;
  static constexpr int N = kLanes<V>;
  static constexpr int64_t kCells = (256 << 10) / int64_t(sizeof(V)) / N;

 public:
  ByLanes(const Op& op, int64_t planes, int64_t run)
      : op_(op), in_(op.in()), out_(op.out()), planes_(planes * run), run_(run) {
    groups_ = (planes_ + N - 1) / N;
    const bool all = in_.cells() + out_.cells() <= 2 * kCells;
    slices_ = all ? out_.d : 1;
    height_ = out_.h;
    while (height_ > 1 && !fits()) height_ = (height_ + 1) / 2;
    strips_ = (out_.h + height_ - 1) / height_;
  }

  // Whether lanes are filled, the input is turned once, and all threads have something to do.
  bool suits() const {
    return run_ < N && 2 * planes_ > N && fits() && (strips_ == 1 || height_ >= 8) &&
           items() >= std::min<int64_t>(torch::stable::get_num_threads(), 4);
  }

  void operator()(const T* x, T* y) const {
    parallel(items(), N * slices_ * height_ * op_.cost(), [&](int64_t item, int64_t stop) {
      Buffer<V> cells, results;
      typename Op::template Worker<V, V> worker(op_, N);
      for (; item < stop; ++item) {
        const int64_t h0 = item % strips_ * height_, h1 = std::min(out_.h, h0 + height_);
        const int64_t d0 = item / strips_ % (out_.d / slices_) * slices_;
        const int64_t first = item / strips_ / (out_.d / slices_) * N;
        if (h0 >= h1) continue;
        const Rows<V> rows = gathered(x, first, d0, h0, h1, cells);
        const int64_t slice = (h1 - h0) * out_.w;
        V* const values = results.reserve((slices_ * slice + 2) * N);
        for (int64_t d = d0; d < d0 + slices_; ++d)
          worker(rows, d, h0, h1, values + (d - d0) * slice * N);
        scatter(y, first, d0, h0, slice, values);
      }
    });
  }

 private:
  int64_t items() const { return groups_ * (out_.d / slices_) * strips_; }

  // Whether what a strip looks at stays in cache.
  bool fits() const {
    const auto [h_low, h_high] = op_.rows(0, height_);
    const auto [d_low, d_high] = op_.slices(0, slices_);
    return (d_high - d_low) * (h_high - h_low) * in_.w <= kCells &&
           slices_ * height_ * out_.w <= kCells;
  }

  Rows<V> gathered(const T* x, int64_t first, int64_t d0, int64_t h0, int64_t h1,
                   Buffer<V>& cells) const {
    const auto [h_low, h_high] = op_.rows(h0, h1);
    const auto [d_low, d_high] = op_.slices(d0, d0 + slices_);
    const int64_t slice = (h_high - h_low) * in_.w;
    V* const to = cells.reserve(((d_high - d_low) * slice + 2) * N);
    const PlaneStarts starts{run_, in_.cells()};
    for (int64_t d = d_low; d < d_high; ++d) {
      const T* planes[N];
      for (int64_t k = 0; k < N; ++k)
        planes[k] =
            x + starts[std::min(first + k, planes_ - 1)] + (d * in_.h + h_low) * in_.w * run_;
      gather_planes<T, V>(planes, run_, slice, x + planes_ * in_.cells(),
                          to + (d - d_low) * slice * N);
    }
    return {to, nullptr, slice * N, in_.w * N, d_low, h_low};
  }

  void scatter(T* y, int64_t first, int64_t d0, int64_t h0, int64_t slice, const V* values) const {
    const PlaneStarts starts{run_, out_.cells()};
    for (int64_t d = d0; d < d0 + slices_; ++d) {
      const int64_t corner = (d * out_.h + h0) * out_.w * run_;
      scatter_planes(values + (d - d0) * slice * N, std::min<int64_t>(N, planes_ - first), slice,
                     [&](int64_t k, int64_t c, const Vec<V>& v, int lanes) {
                       store_cells<T, V>(y + starts[first + k] + corner + c * run_, run_, v, lanes);
                     });
    }
  }

  const Op& op_;
  const Extents in_, out_;
  const int64_t planes_, run_;
  int64_t groups_, slices_, height_, strips_;
};

template <class Op, class T>
void compute(const Op& op, const T* x, T* y, int64_t planes, int64_t run) {
  if (planes == 0) return;
  if (const ByLanes<Op, T> lanes(op, planes, run); lanes.suits())
    lanes(x, y);
  else
    by_rows(op, x, y, planes, run);
}

}  // namespace

// ---- operators ----------------------------------------------------------------------------------

Tensor blur_pool(const Tensor& x, const std::vector<double>& taps, const Window& w) {
  check_extents(x, w.in, w.rank);
  const Blur b(w, taps);
  const bool suggested = suggests_channels_last(x);
  const bool runs = has_channel_run(suggested, x.dim(), w.rank);
  const Planes in = dense(x, runs, w.rank);
  Planes out = empty_planes(x, w.out, w.rank, runs, x.scalar_type());
  dispatch<kFloats>(x.scalar_type(), "blur_pool", [&]<class T>() {
    compute(Forward{b}, static_cast<const T*>(in.tensor.const_data_ptr()),
            static_cast<T*>(out.tensor.mutable_data_ptr()), in.planes, in.run);
  });
  return in_format(out.tensor, suggested, w.rank);
}

Tensor blur_pool_backward(const Tensor& g, const std::vector<double>& taps, const Window& w) {
  check_extents(g, w.out, w.rank);
  const Blur b(w, taps);
  const bool runs = has_channel_run(w.channels_last, g.dim(), w.rank);
  const Planes in = dense(g, runs, w.rank);
  Planes out = empty_planes(g, w.in, w.rank, runs, g.scalar_type());
  dispatch<kFloats>(g.scalar_type(), "blur_pool_backward", [&]<class T>() {
    compute(Backward{b}, static_cast<const T*>(in.tensor.const_data_ptr()),
            static_cast<T*>(out.tensor.mutable_data_ptr()), out.planes, out.run);
  });
  return in_format(out.tensor, w.channels_last, w.rank);
}

Tensor max_blur_pool(const Tensor& x, const std::vector<double>& taps, const Window& maxima,
                     const Window& w) {
  check_extents(x, maxima.in, maxima.rank);
  const Blur b(w, taps);
  STD_TORCH_CHECK(maxima.rank == w.rank && std::equal(maxima.out, maxima.out + w.rank, w.in),
                  "poolkit: the windows of a blur of maxima do not fit each other");
  for (const Axis& a : maxima.apart)
    STD_TORCH_CHECK(a.stride == 1 && a.dilation == 1,
                    "poolkit: the maxima of a blur have stride 1 and no dilation");
  const bool suggested = suggests_channels_last(x);
  const bool runs = has_channel_run(suggested, x.dim(), w.rank);
  const Planes in = dense(x, runs, w.rank);
  Planes out = empty_planes(x, w.out, w.rank, runs, x.scalar_type());
  dispatch<kFloats>(x.scalar_type(), "max_blur_pool", [&]<class T>() {
    compute(ForwardOfMaxima{b, maxima.apart}, static_cast<const T*>(in.tensor.const_data_ptr()),
            static_cast<T*>(out.tensor.mutable_data_ptr()), in.planes, in.run);
  });
  return in_format(out.tensor, suggested, w.rank);
}

}  // namespace poolkit

STABLE_TORCH_LIBRARY_IMPL(poolkit, CPU, m) {
  poolkit::implement<poolkit::blur_pool>(m, "blur_pool");
  poolkit::implement<poolkit::blur_pool_backward>(m, "blur_pool_backward");
  poolkit::implement<poolkit::max_blur_pool>(m, "max_blur_pool");
}
