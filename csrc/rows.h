// Windows over long rows: the forward scheme for contiguous planes.
//
// clang-format off
//   input rows    a b c d e f        as they lie in memory
//   staged      - a b c d e f -      padding written out, one row after the other
//   reduced       . . . . . .        along the row, all rows as one long row
//   folded        y y y y y y        down the rows
// clang-format on
//
// Staged, every window of a block lies at the same distance from its output, in its row and from
// row to row.
//
// A block of rows (of several planes, where these are small) is copied into cache with its padding
// written out as values that never win, or as zeros. After that there are no edges: all windows of
// the block are reduced by loops over one long row. First along the row, then down the rows, then
// through the slices: k_w + k_h + k_d steps and not their product, and the order in which torch's
// loop meets the cells, so that ties come out the same to the bit. What lies between the rows is
// computed too and thrown away; it costs less than loops that begin and end.
//
// With stride s a row is staged as s rows, its phases: phase r holds the cells r, r + s, r + 2s,
// ... Neighbours in a phase belong to neighbouring outputs.
//
// Large windows that overlap take fewer steps. Along the row two: the results of p neighbouring
// taps each, then every p-th of these; a window of 31 costs 12 loads then, and not 31. Down the
// rows the cost does not grow with the window (van Herk 1992): rows are cut into groups of as many
// as a window has, and a window is the end of one group and the beginning of the next.
//
// While cells are staged they are watched for what plain comparisons get wrong: NaN, -0 where half
// types are compared as integers, and -inf where padding could be taken for it. It is rare, so the
// fast loops do without; where it is found the block is done again by the full rule (Exact).
#pragma once

#include <algorithm>
#include <vector>

#include "lane_planes.h"

namespace poolkit {

// Sources that are combined element by element, in order.
template <class R>
struct Source {
  const typename R::Value* v;
  const typename R::Lane* at;  // the taps of cells that are maxima already
  int64_t base;                // what to add to them
};

// to[i] = source 0 combined with source 1, ..., for n values and up to a vector beyond. The result
// may take the place of a source that does not lie before it.
template <class R, bool Exact, bool Sub>
void fold(const Source<R>* s, int64_t count, int64_t n, typename R::Value* to,
          typename R::Lane* to_at) {
  using V = typename R::Value;
  using L = typename R::Lane;
  constexpr int N = kLanes<V>;
  const auto go = [&]<int U>(int64_t i) {
    Vec<V> best[U];
    typename LaneVector<L>::type at[U];
    const auto tap = [&](int64_t k, int u) {
      if constexpr (R::kOffsets) {
        const auto base = splat(L(s[k].base));
        return Sub ? base + load(s[k].at + i + u * N) : base;
      } else {
        return NoOffset();
      }
    };
    POOLKIT_UNROLL
    for (int u = 0; u < U; ++u) best[u] = load(s[0].v + i + u * N), at[u] = tap(0, u);
    for (int64_t k = 1; k < count; ++k) {
      POOLKIT_UNROLL
      for (int u = 0; u < U; ++u)
        meet<R, Exact>(best[u], at[u], load(s[k].v + i + u * N), tap(k, u));
    }
    POOLKIT_UNROLL
    for (int u = 0; u < U; ++u) {
      store(to + i + u * N, best[u]);
      if constexpr (R::kOffsets) store(to_at + i + u * N, at[u]);
    }
  };
  int64_t i = 0;
  for (; i + 4 * N <= n; i += 4 * N) go.template operator()<4>(i);
  for (; i < n; i += N) go.template operator()<1>(i);
}

// Up to so many taps are combined in one step.
constexpr int64_t kDirect = 7;

// Whether rows are so long that the planes need not be turned into lanes, however many there are:
// that costs least in wide types, and staging where the phases of a row are made by shuffles.
template <class V>
bool suits_rows(const Axis& a) {
  if (a.stride == 1) return a.out >= (sizeof(V) == 2 ? 24 : 48);
  return sizeof(V) <= 2 && (a.stride == 2 || a.stride == 4) && a.out >= 24;
}

// Whether padding and strides are short enough to be written out.
inline bool can_stage(const Window& w) {
  const auto staged = [](const Axis& a) {
    return std::max(a.extent(), a.stride) <= 4 * a.size + 64;
  };
  return staged(w.d) && staged(w.h) && staged(w.w);
}

// An axis of the block: tap t of an output lies place(t) values after its first.
struct Reach {
  int64_t taps, stride, dilation;
  int64_t phase, unit;  // values from phase to phase, and to the next output

  int64_t place(int64_t t) const {
    const int64_t q = t * dilation;
    return stride == 1 ? q * unit : q % stride * phase + q / stride * unit;
  }
  // How many outputs further on the last tap lies.
  int64_t shift() const { return (taps - 1) * dilation / stride; }
};

// The windows of one axis for n outputs. `v` and `at` may be where the result goes. Sub: the cells
// are maxima already; `base` is what a step along the axis adds to the number of a tap.
template <class R, bool Exact, bool Sub>
class AxisPass {
  using V = typename R::Value;
  using L = typename R::Lane;

 public:
  void operator()(const V* v, const L* at, const Reach& reach, int64_t base, int64_t n, V* to,
                  L* to_at, bool two_steps = false) {
    const int64_t k = reach.taps;
    sources_.clear();
    if (k <= kDirect || reach.stride > 1 || !two_steps) {
      for (int64_t t = 0; t < k; ++t) add(v, at, reach.place(t), t * base);
      return fold<R, Exact, Sub>(sources_.data(), k, n, to, to_at);
    }
    int64_t p = 2;
    while ((p + 1) * (p + 1) <= k + 1) ++p;
    const int64_t more = n + reach.place(k - p);
    V* const part = part_.reserve(more + 4 * kLanes<V>);
    L* const part_at = part_at_.reserve(more + 4 * kLanes<V>);
    for (int64_t t = 0; t < p; ++t) add(v, at, reach.place(t), t * base);
    fold<R, Exact, Sub>(sources_.data(), p, more, part, part_at);
    sources_.clear();
    int64_t t = 0;
    for (; t + p <= k; t += p) add(part, part_at, reach.place(t), t * base);
    if constexpr (R::kSums)
      for (; t < k; ++t) add(v, at, reach.place(t), 0);
    else if (t < k)
      add(part, part_at, reach.place(k - p), (k - p) * base);  // a maximum may count cells twice
    fold<R, Exact, true>(sources_.data(), int64_t(sources_.size()), n, to, to_at);
  }

 private:
  void add(const V* v, const L* at, int64_t place, int64_t base) {
    sources_.push_back({v + place, lane(at, place), base});
  }
  std::vector<Source<R>> sources_;
  Buffer<V> part_;
  Buffer<L> part_at_;
};

// The windows down `out` outputs of `n` columns, `pitch` values from row to row, in the place of
// their first rows. Groups begin at rows whose number, counted from `first`, is a multiple of the
// `taps` of a window: which rows a block holds makes no difference to a sum. `base` is what a row
// adds to the number of a tap.
//
// clang-format off
//   rows      | 0 1 2 | 3 4 5 | ...     windows of three
//   window 1      1 2   3               the end of the first group, the beginning of the second
//   window 2        2   3 4             each row is met twice, whatever the taps
// clang-format on
template <class R, bool Exact>
void down_groups(typename R::Value* v, typename R::Lane* at, int64_t taps, int64_t base,
                 int64_t first, int64_t out, int64_t n, int64_t pitch) {
  using V = typename R::Value;
  using L = typename R::Lane;
  constexpr int N = kLanes<V>;
  struct Cells {
    Vec<V> best;
    typename LaneVector<L>::type at;
  };
  const auto tap = [](const auto& number, int64_t more) {
    if constexpr (R::kOffsets)
      return splat(L(more)) + number;
    else
      return NoOffset();
  };
  const auto get = [&](int64_t i) {
    Cells c{load(v + i), {}};
    if constexpr (R::kOffsets) c.at = load(at + i);
    return c;
  };
  const auto put = [&](int64_t i, const Cells& c) {
    store(v + i, c.best);
    if constexpr (R::kOffsets) store(at + i, c.at);
  };
  const auto go = [&]<int U>(int64_t i) {
    for (int64_t y = 0; y < out;) {
      const int64_t end = y + taps - (first + y) % taps;  // where the next group begins
      // Its end, from the last row up: an earlier cell goes before a later one.
      Cells run[U];
      POOLKIT_UNROLL
      for (int u = 0; u < U; ++u) run[u] = get((end - 1) * pitch + i + u * N);
      for (int64_t row = end - 2; row >= y; --row) {
        POOLKIT_UNROLL
        for (int u = 0; u < U; ++u) {
          Cells c = get(row * pitch + i + u * N);
          meet<R, Exact>(c.best, c.at, run[u].best, tap(run[u].at, base));
          put(row * pitch + i + u * N, run[u] = c);
        }
      }
      // The beginning of the next group, as far as windows of this one reach.
      for (int64_t row = end, last = std::min(end, out); y < last; ++y) {
        for (; row < y + taps; ++row) {
          POOLKIT_UNROLL
          for (int u = 0; u < U; ++u) {
            const Cells c = get(row * pitch + i + u * N);
            if (row == end)
              run[u] = c;
            else
              meet<R, Exact>(run[u].best, run[u].at, c.best, tap(c.at, (row - end) * base));
          }
        }
        if (row == end) continue;  // one whole group
        POOLKIT_UNROLL
        for (int u = 0; u < U; ++u) {
          Cells c = get(y * pitch + i + u * N);
          meet<R, Exact>(c.best, c.at, run[u].best, tap(run[u].at, (end - y) * base));
          put(y * pitch + i + u * N, c);
        }
      }
    }
  };
  int64_t i = 0;
  for (; i + 4 * N <= n; i += 4 * N) go.template operator()<4>(i);
  for (; i < n; i += N) go.template operator()<1>(i);
}

// ---- staging ----

// Where the cells of a row are, and where they go.
template <class T>
struct Staging {
  const T* end;                 // one past the last value that may be read
  int64_t step;                 // from cell to cell: 1, or the channels of a channels-last tensor
  int64_t cells, stride;        // cells of a row, and its phases
  std::vector<int64_t> firsts;  // where cell m goes, m < stride; cells m + stride ... follow it
};

// One row. Whole vectors are written: what follows in a phase is overwritten.
template <bool Watch, class T, class V>
[[gnu::always_inline]] inline void stage_cells(const T* x, const Staging<T>& s, V* to,
                                               Special<V>& found) {
  constexpr int N = kLanes<V>;
  Special<V> special = found;  // in a register: nothing else may point to it
  const int64_t cells = s.cells;
  int64_t c = 0;
  if (s.step == 1) {
    const int64_t room = s.end - x;
    const auto get = [&](int64_t i) {
      const Vec<V> v = read<V>(x + i, special);
      if constexpr (Watch) special |= v == lowest<V>();
      return v;
    };
    if (s.stride == 1) {
      V* const first = to + s.firsts[0];
      for (; c < cells && c + N <= room; c += N) store(first + c, get(c));
    } else if (s.stride == 2) {
      V *const even = to + s.firsts[0], *const odd = to + s.firsts[1];
      for (; c < cells && c + 2 * N <= room; c += 2 * N) {
        const Vec<V> a = get(c), b = get(c + N);
        store(even + c / 2, every_second<V>(a, b, 0));
        store(odd + c / 2, every_second<V>(a, b, 1));
      }
    } else if (s.stride == 4) {
      V* const first[] = {to + s.firsts[0], to + s.firsts[1], to + s.firsts[2], to + s.firsts[3]};
      for (; c < cells && c + 4 * N <= room; c += 4 * N) {
        const Vec<V> a = get(c), b = get(c + N), e = get(c + 2 * N), f = get(c + 3 * N);
        for (int odd = 0; odd < 2; ++odd) {
          const Vec<V> low = every_second<V>(a, b, odd), high = every_second<V>(e, f, odd);
          store(first[odd] + c / 4, every_second<V>(low, high, 0));
          store(first[odd + 2] + c / 4, every_second<V>(low, high, 1));
        }
      }
    }
  }
  if (c < cells)
    for (int64_t m = 0; m < s.stride; ++m) {  // c is a multiple of the stride
      V* first = to + s.firsts[size_t(m)] + c / s.stride;
      for (int64_t i = c + m; i < cells; i += s.stride) {
        const T v = x[i * s.step];
        const V cell = convert<V>(v);
        if (is_special<V>(v) || (Watch && cell == lowest<V>())) special = ~Special<V>{};
        *first++ = cell;
      }
    }
  found = special;
}

// n values and up to a vector beyond.
template <class V>
void fill(V* to, int64_t n, V value) {
  const Vec<V> v = splat(value);
  for (int64_t i = 0; i < n; i += kLanes<V>) store(to + i, v);
}

// ---- blocks ----

// How the output is cut into blocks whose staged rows fit into cache.
struct BlockPlan {
  int64_t planes, rows, columns;          // of a block, at most
  int64_t groups, strips, column_strips;  // how many there are of each

  BlockPlan(const Window& w, int64_t all_planes, int64_t value_bytes) {
    const bool large = overlaps_much(w);
    const int64_t bytes = large ? kLargeBytes : kBytes;
    const int64_t most = bytes / value_bytes / std::max<int64_t>(1, w.d.kernel);
    const auto staged = [](const Axis& a, int64_t n) { return (n - 1) * a.stride + a.extent(); };
    const auto outputs = [](const Axis& a, int64_t cells) {
      return std::clamp<int64_t>((cells - a.extent()) / a.stride + 1, 1, a.out);
    };
    // Halos, which neighbouring blocks both stage, should be a small part of a block. Large windows
    // have wide ones, and rows are best read whole; they touch each row a few times only, so that
    // the second level of cache is near enough.
    const int64_t rows_wanted =
        std::min(staged(w.h, w.h.out), std::max<int64_t>(8, (large ? 4 : 6) * w.h.extent()));
    columns = outputs(w.w, std::max(most / rows_wanted, 4 * w.w.extent()));
    rows = outputs(w.h, most / staged(w.w, columns));
    if (large) rows = std::min(rows, outputs(w.h, rows_wanted));
    planes = 1;
    if (rows == w.h.out && columns == w.w.out && w.d.out == 1)
      planes =
          std::clamp<int64_t>(most / (staged(w.h, rows) * staged(w.w, columns)), 1, all_planes);
    // Every thread should have some.
    const int64_t threads = torch::stable::get_num_threads();
    if (threads > 1 && all_planes * w.d.out * w.outputs() > kGrain) {
      while (planes > 1 && all_planes / planes * w.d.out < 4 * threads) planes = (planes + 1) / 2;
      while (rows > 8 && rows > 2 * w.h.extent() && planes == 1 &&
             all_planes * w.d.out * ((w.h.out + rows - 1) / rows) < 4 * threads)
        rows = (rows + 1) / 2;
      while (columns > 1024 && columns > 2 * w.w.extent() &&
             all_planes * w.d.out * ((w.w.out + columns - 1) / columns) * w.h.out < 4 * threads)
        columns = (columns + 1) / 2;
    }
    const auto even = [](int64_t all, int64_t& part) {
      const int64_t parts = (all + part - 1) / part;
      part = (all + parts - 1) / parts;
      return (all + part - 1) / part;
    };
    groups = even(all_planes, planes), strips = even(w.h.out, rows);
    column_strips = even(w.w.out, columns);
  }

  int64_t items(const Window& w) const { return groups * w.d.out * strips * column_strips; }

  Block block(int64_t item, const Window& w, int64_t all_planes) const {
    Block b;
    b.w0 = item % column_strips * columns, item /= column_strips;
    b.h0 = item % strips * rows, item /= strips;
    b.d0 = item % w.d.out, item /= w.d.out, b.d1 = b.d0 + 1;
    b.plane = item * planes;
    b.planes = std::min(planes, all_planes - b.plane);
    b.h1 = std::min(w.h.out, b.h0 + rows);
    b.w1 = std::min(w.w.out, b.w0 + columns);
    return b;
  }

 private:
  static constexpr int64_t kBytes = 48 << 10, kLargeBytes = 512 << 10;
};

// Reduces blocks of contiguous planes (`run` == 1), or of the channels of a channels-last tensor.
template <class T, class R, bool Exact>
class RowPool {
  using V = typename R::Value;
  using L = typename R::Lane;
  static constexpr int N = kLanes<V>;
  // Whether a cell can be the value that stands for padding: not where it is staged in a type that
  // has a lower one.
  static constexpr bool kWatch =
      R::kOffsets && (std::is_same_v<T, V> || std::is_floating_point_v<V>);

 public:
  RowPool(const T* x, int64_t planes, const Window& w, int64_t run)
      : x_(x), starts_{run, w.cells()}, w_(w) {
    staging_.end = x + planes * w.cells(), staging_.step = run;
    used_.assign(size_t(w.h.stride), 0);
    for (int64_t t = 0; t < w.h.kernel; ++t) used_[size_t(t * w.h.dilation % w.h.stride)] = 1;
    uses_all_ = std::find(used_.begin(), used_.end(), 0) == used_.end();
  }

  // Returns false if something special was met. The value of output (p, h, i) of the block is
  // then at values() + (p * rows_per_plane() + h - h0) * pitch() + i - w0, and its tap likewise.
  bool operator()(const Block& b) {
    const Axis &d = w_.d, &h = w_.h, &a = w_.w;
    const int64_t length = measure(b), slack = this->slack();
    const int64_t phase = h.stride * length + slack;
    V* const staged = staged_.reserve(a.stride * phase);
    lay_out(b, phase);
    const int64_t d0 = d.first(b.d0), nd = std::max<int64_t>(0, d.last(b.d0) - d0);
    const int64_t slice = h.stride * length;
    V* const v = values_.reserve(std::max<int64_t>(1, nd) * slice + slack);
    L* const at = taps_.reserve(std::max<int64_t>(1, nd) * slice + slack);
    const Reach along{a.kernel, a.stride, a.dilation, phase, 1};
    const Reach down{h.kernel, h.stride, h.dilation, length, pitch_};
    if (nd == 0) fill(v, length, V{});  // sums alone
    Special<V> special{};
    for (int64_t td = 0; td < nd; ++td) {
      stage(b, d.start(b.d0) + (d0 + td) * d.dilation, staged, phase, length, special);
      if (!Exact && !R::kSums && any(special)) return false;
      if constexpr (R::kSquares)
        for (int64_t i = 0; i < a.stride * phase; ++i) staged[i] *= staged[i];
      V* const reduced = v + td * slice;
      L* const reduced_at = lane(at, td * slice);
      if (a.kernel == 1 && a.stride == 1 && !R::kOffsets)
        std::copy_n(staged, slice, reduced);
      else if (uses_all_)
        first_(staged, nullptr, along, 1, slice - along.shift(), reduced, reduced_at, large_);
      else
        for (int64_t r = 0; r < h.stride; ++r)
          if (used_[size_t(r)])
            first_(staged + r * length, nullptr, along, 1, length - along.shift(),
                   reduced + r * length, lane(reduced_at, r * length), large_);
      if (large_ && h.kernel > kDirect && h.stride == 1 && h.dilation == 1)
        for (int64_t p = 0; p < b.planes; ++p)
          down_groups<R, Exact>(reduced + p * rows_ * pitch_, lane(reduced_at, p * rows_ * pitch_),
                                h.kernel, a.kernel, b.h0, b.h1 - b.h0, b.columns(), pitch_);
      else if (h.kernel > 1)
        next_(reduced, reduced_at, down, a.kernel, length - down.shift() * pitch_, reduced,
              reduced_at, large_);
    }
    if (nd > 1 || (R::kOffsets && d0 > 0)) {
      Reach through{nd, 1, 1, 0, slice};
      next_(v, at, through, a.kernel * h.kernel, length, v, at);
      if constexpr (R::kOffsets)
        if (d0 > 0)
          for (int64_t i = 0; i < length; ++i) at[i] += L(d0 * a.kernel * h.kernel);
    }
    return true;
  }

  V* values() const { return values_.get(); }
  L* taps() const { return taps_.get(); }
  int64_t pitch() const { return pitch_; }
  int64_t rows_per_plane() const { return rows_; }

 private:
  // The pitch of the block's rows, and what a phase of them takes: with room for a vector that the
  // last row spills.
  int64_t measure(const Block& b) {
    pitch_ = b.columns() + (w_.w.extent() - 1) / w_.w.stride;
    if (large_ || pitch_ >= 3 * N) pitch_ = (pitch_ + N - 1) / N * N;
    // Rows at an even distance would meet in few sets of the cache when columns are gone down.
    if (large_) pitch_ = (pitch_ / N | 1) * N;
    rows_ = b.h1 - b.h0 + (w_.h.extent() - 1) / w_.h.stride;
    return b.planes * rows_ * pitch_ + 2 * N;
  }
  // Loops read up to four vectors beyond the last window.
  int64_t slack() const { return w_.w.extent() + w_.h.extent() * pitch_ + 5 * N; }

  static constexpr V padding() {
    if constexpr (R::kSums)
      return V{};
    else
      return lowest<V>();
  }

  // Where the cells of the block's rows go.
  void lay_out(const Block& b, int64_t phase) {
    const Axis& a = w_.w;
    const int64_t s = a.stride, corner = b.w0 * s - a.before;
    const int64_t span = (b.columns() - 1) * s + a.extent();
    low_ = std::clamp<int64_t>(corner, 0, a.size);
    const int64_t cells = std::clamp<int64_t>(corner + span, low_, a.size) - low_;
    const int64_t lead = low_ - corner;
    staging_.cells = cells, staging_.stride = s;
    staging_.firsts.resize(size_t(s)), gaps_.resize(size_t(s));
    for (int64_t m = 0; m < s; ++m) {
      staging_.firsts[size_t(m)] = (lead + m) % s * phase + (lead + m) / s;
      gaps_[size_t(m)] = {(lead - m + s - 1) / s, (lead + cells - m + s - 1) / s};
    }
  }

  // The rows of one slice: row y of a plane becomes number y / stride of the rows of its phase.
  void stage(const Block& b, int64_t slice, V* staged, int64_t phase, int64_t length,
             Special<V>& special) {
    const Axis &h = w_.h, &a = w_.w;
    const int64_t input_rows = (b.h1 - b.h0 - 1) * h.stride + h.extent();
    const int64_t top = b.h0 * h.stride - h.before;
    // Rows of the block that lie in the input.
    const int64_t first = std::max<int64_t>(0, -top);
    const int64_t last = staging_.cells > 0 ? std::min(input_rows, h.size - top) : 0;
    for (int64_t r = 0; r < h.stride; ++r)
      for (int64_t m = 0; m < a.stride; ++m)
        std::fill_n(staged + r * length + m * phase, gaps_[size_t(m)].before, padding());
    const int64_t line = a.size * staging_.step;
    for (int64_t p = 0; p < b.planes; ++p) {
      const T* const plane = x_ + starts_[b.plane + p] + low_ * staging_.step;
      V* to = staged + p * rows_ * pitch_;
      for (int64_t y = 0, r = 0; y < rows_ * h.stride; ++y) {
        const bool real = first <= y && y < last;
        if (used_[size_t(r)]) {
          V* const row = to + r * length;
          if (real)
            stage_cells<kWatch>(plane + (slice * h.size + top + y) * line, staging_, row, special);
          // What follows the cells of each phase, and what comes before the next row's.
          for (int64_t m = 0; m < a.stride; ++m) {
            const Gap& gap = gaps_[size_t(m)];
            const int64_t begin = real ? gap.end : 0;
            fill(row + m * phase + begin, pitch_ + gap.before - begin, padding());
          }
        }
        if (++r == h.stride) r = 0, to += pitch_;
      }
    }
  }

  const T* const x_;
  // Of a phase: positions before the row's first cell, and one past its last.
  struct Gap {
    int64_t before, end;
  };

  const PlaneStarts starts_;
  const Window& w_;
  const bool large_ = overlaps_much(w_);
  bool uses_all_;
  Staging<T> staging_;
  std::vector<Gap> gaps_;
  std::vector<char> used_;  // the phases of rows on which some tap falls
  int64_t pitch_ = 0, rows_ = 0, low_ = 0;
  AxisPass<R, Exact, false> first_;
  AxisPass<R, Exact, true> next_;
  Buffer<V> staged_, values_;
  Buffer<L> taps_;
};

// Stores n values from `from` on at `to`, write(place, i, vector) by vector; those behind may be
// overwritten up to `end`.
template <class T, class V, class Write>
void store_row(const V* from, int64_t n, T* to, const T* end, const Write& write) {
  constexpr int N = kLanes<V>;
  for (int64_t i = 0; i < n; i += N) {
    if (end - (to + i) >= N)
      write(to + i, i, load(from + i));
    else {
      T some[N];
      write(some, i, load(from + i));
      std::memcpy(to + i, some, size_t(std::min<int64_t>(N, n - i)) * sizeof(T));
    }
  }
}

}  // namespace poolkit
