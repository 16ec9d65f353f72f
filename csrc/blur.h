// Blurs: weighted sums of windows, axis by axis.
//
// clang-format off
//   down     the rows of cells that a row of outputs holds, wherever they lie, give one row of sums;
//            the padding is written out at its ends
//   along    the lines are that row from tap 0 on, from tap 1 on, ...; with stride s it is kept as s
//            rows, its phases, so that neighbours in a line belong to neighbouring outputs
// clang-format on
//
// That is k_d * k_h + k_w steps for an output. A cell is a run of values, one or the channels;
// where a run fills a vector, each line along the row is the run of one cell. The order of the two
// makes no difference to a sum but its rounding, and this one reads memory as it lies.
//
// Each row of results is computed by itself, in one order: the same bits for any number of threads.
#pragma once

#include <utility>

#include "lines.h"
#include "rows.h"

namespace poolkit {

// ---- geometry -----------------------------------------------------------------------------------

// Where a cell or an output of an axis is, and its weight.
struct Link {
  int64_t at;
  double weight;
};

// For each output of an axis its cells, or for each cell its outputs, in ascending order.
class Links {
 public:
  void add(int64_t to, Link link) { lists_[size_t(to)].push_back(link); }
  const std::vector<Link>& operator[](int64_t i) const { return lists_[size_t(i)]; }

  static Links of_outputs(const Axis& a, PaddingMode mode, const double* taps) {
    Links links(a.out);
    for_taps(a, mode, [&](int64_t output, int64_t tap, int64_t cell) {
      links.add(output, {cell, taps[tap]});
    });
    return links;
  }
  static Links of_cells(const Axis& a, PaddingMode mode, const double* taps) {
    Links links(a.size);
    for_taps(a, mode, [&](int64_t output, int64_t tap, int64_t cell) {
      links.add(cell, {output, taps[tap]});
    });
    return links;
  }

  // From the first to the last of what entries [i0, i1) name.
  std::pair<int64_t, int64_t> reach(int64_t i0, int64_t i1) const {
    int64_t low = INT64_MAX, high = 0;
    for (int64_t i = i0; i < i1; ++i)
      for (const Link& link : lists_[size_t(i)])
        low = std::min(low, link.at), high = std::max(high, link.at + 1);
    return {std::min(low, high), high};
  }

 private:
  explicit Links(int64_t n) : lists_(size_t(n)) {}

  template <class F>
  static void for_taps(const Axis& a, PaddingMode mode, const F& f) {
    for (int64_t i = 0; i < a.out; ++i)
      for (int64_t t = 0; t < a.kernel; ++t)
        if (const int64_t cell = a.cell_at(a.start(i) + t, mode); cell >= 0) f(i, t, cell);
  }

  std::vector<std::vector<Link>> lists_;
};

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
      STD_TORCH_CHECK(!a.adaptive() && a.dilation == 1 && a.out > 0 && a.before <= most &&
                          a.after <= most && a.ends_in_padding(),
                      "poolkit: the window of a blur has impossible fields at axis ", i);
    }
    STD_TORCH_CHECK(used == taps.size(), "poolkit: a blur of ", used, " taps has ", taps.size(),
                    " weights");
  }

  int64_t steps() const { return d.kernel * h.kernel + w.kernel; }
};

// Rows of a plane, or of a part of one that begins at row (d0, h0).
template <class S>
struct PlaneRows {
  const S* base;
  const S* end;  // nothing is read from here on, if it is given
  int64_t slice, line;
  int64_t d0 = 0, h0 = 0;

  const S* operator()(int64_t d, int64_t h) const {
    return base + (d - d0) * slice + (h - h0) * line;
  }
};

// The rows that two lists of links name, each weighted by both.
template <class S, class V>
void find_lines(const std::vector<Link>& ds, const std::vector<Link>& hs, const PlaneRows<S>& row,
                std::vector<Line<S, V>>& lines) {
  lines.clear();
  for (const Link& d : ds)
    for (const Link& h : hs) lines.push_back({row(d.at, h.at), V(d.weight * h.weight)});
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

// Rows of results of an operator whose rows are those of op.row().
template <class Op, class S, class T>
class RowWorker {
  using V = Wide<T>;

 public:
  RowWorker(const Op& op, int64_t run) : op_(op), run_(run), row_(op.template row<S, T>(run)) {}

  // Rows [h0, h1) of slice d, from `to` on.
  void operator()(const PlaneRows<S>& rows, int64_t d, int64_t h0, int64_t h1, T* to) {
    const int64_t width = op_.out().w, line = width * run_;
    for_tiles(width, op_.cells_each() * run_, [&](int64_t i0, int64_t i1, bool whole) {
      for (int64_t h = h0; h < h1; ++h) {
        find_lines(op_.ds[d], op_.hs[h], rows, lines_);
        row_(lines_, rows.end, i0, i1, to + (h - h0) * line + i0 * run_,
             to + ((whole ? h1 : h + 1) - h0) * line);
      }
    });
  }

 private:
  const Op& op_;
  const int64_t run_;
  decltype(std::declval<Op>().template row<S, T>(0)) row_;
  std::vector<Line<S, V>> lines_;
};

// ---- forward ------------------------------------------------------------------------------------

// Outputs of a row from the rows of cells that they hold.
template <class S, class T>
class BlurRow {
  using V = Wide<T>;
  static constexpr int N = kLanes<V>;

 public:
  BlurRow(const Blur& blur, int64_t run) : b_(blur), a_(blur.w), run_(run) {
    along_.resize(size_t(a_.kernel));
    for (int64_t t = 0; t < a_.kernel; ++t) along_[size_t(t)].weight = V(b_.w_taps[t]);
  }

  // Outputs [i0, i1); nothing is read from `end` on.
  void operator()(const std::vector<Line<S, V>>& lines, const S* end, int64_t i0, int64_t i1, T* to,
                  const T* to_end) {
    const int64_t s = a_.stride, start = a_.start(i0), n = (i1 - i0) * run_;
    const int64_t positions = (i1 - 1 - i0) * s + a_.kernel;
    V* const sums = sums_.reserve(positions * run_ + 3 * N);
    down(lines, end, start, positions, sums);
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
  void down(const std::vector<Line<S, V>>& lines, const S* end, int64_t start, int64_t n,
            V* sums) const {
    if (lines.empty()) {
      std::fill_n(sums, n * run_, V(0));
      return;
    }
    const int64_t low = std::clamp<int64_t>(-start, 0, n);
    const int64_t high = std::clamp<int64_t>(a_.size - start, low, n);
    const auto add = [&](int64_t i, int64_t cell, int64_t cells) {
      combine<WeightedSum>(lines, cell * run_, cells * run_, end, Staged<V>{sums + i * run_});
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

// The blur, for the schemes of blur_pool.cpp.
struct BlurForward {
  const Blur& b;
  const Links ds = Links::of_outputs(b.d, b.mode, b.d_taps);
  const Links hs = Links::of_outputs(b.h, b.mode, b.h_taps);

  Extents in() const { return {b.d.size, b.h.size, b.w.size}; }
  Extents out() const { return {b.d.out, b.h.out, b.w.out}; }
  std::pair<int64_t, int64_t> slices(int64_t d0, int64_t d1) const { return ds.reach(d0, d1); }
  std::pair<int64_t, int64_t> rows(int64_t h0, int64_t h1) const { return hs.reach(h0, h1); }
  int64_t cost() const { return b.w.out * b.steps(); }

  template <class S, class T>
  BlurRow<S, T> row(int64_t run) const {
    return BlurRow<S, T>(b, run);
  }
  int64_t cells_each() const { return b.w.stride; }

  template <class S, class T>
  using Worker = RowWorker<BlurForward, S, T>;
};

}  // namespace poolkit
