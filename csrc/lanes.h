// Windows over vectors: the forward scheme where every cell is a register full of values.
//
// In channels-last memory that is what a cell is: a run of channels. Planes too small for long rows
// are brought into the same form in cache: as many planes as a register has lanes are transposed,
// so that one load has the same cell of all of them, pooled, and transposed back.
//
//   plane 0   a0 b0 c0 d0 ...            a0 a1 a2 a3   cell a of planes 0-3
//   plane 1   a1 b1 c1 d1 ...    --->    b0 b1 b2 b3
//   plane 2   a2 b2 c2 d2 ...            c0 c1 c2 c3
//   plane 3   a3 b3 c3 d3 ...            d0 d1 d2 d3
//
// A window is then a loop over its cells, whatever its geometry: edges, dilation and adaptive
// windows cost nothing. Few taps are reduced straight from the input; more go by way of rows that
// are reduced along themselves first, once for all windows that share them. Either way cells meet
// in row-major order, so ties, signed zeros and NaN come out as torch's to the bit.
//
// While the input is read it is watched for what ordinary comparisons get wrong (NaN; also -0 where
// half types are compared as integers). It is rare, so the fast loops do without; where it is
// found, the work is done again with the full rule.
#pragma once

#include <algorithm>
#include <vector>

#include "cells.h"
#include "divisors.h"
#include "tensor.h"

namespace poolkit {

// ---- windows ----

// A window along the row: where its first real cell is, the tap of that, and how many there are.
struct Column {
  int64_t first, tap, taps;
};

// The windows of outputs [begin, end), where cells are `pitch` apart.
inline void find_columns(const Axis& a, int64_t begin, int64_t end, int64_t pitch,
                         std::vector<Column>& columns) {
  columns.resize(size_t(end - begin));
  for (int64_t i = begin; i < end; ++i) {
    const int64_t tap = a.first(i);
    columns[size_t(i - begin)] = {(a.start(i) + tap * a.dilation) * pitch, tap,
                                  std::max<int64_t>(0, a.last(i) - tap)};
  }
}

// C: the type in which cells lie in memory.
template <class R, class C>
struct CellRow {
  const C* cells;
  const typename R::Lane* taps;  // of cells that are maxima already
  int64_t base;                  // the tap of the window at which the row begins
  bool opens;                    // whether the row is the first of a slice
};

template <class L>
struct LaneVector {
  using type = Vec<L>;
};
template <>
struct LaneVector<NoOffset> {
  using type = NoOffset;
};

// One step of a reduction, on a vector.
template <class R, bool Exact, class LV>
[[gnu::always_inline]] inline void meet(Vec<typename R::Value>& best, LV& at,
                                        const Vec<typename R::Value>& v, const LV& tap) {
  if constexpr (R::kSums) {
    best += v;
  } else if constexpr (!Exact && !R::kOffsets) {
    best = greater<typename R::Value>(v, best);
  } else {
    auto wins = v > best;
    if constexpr (Exact) wins |= v != v;
    best = wins ? v : best;
    if constexpr (R::kOffsets) at = wins ? tap : at;
  }
}

// What was seen of cells while they were read: lanes that are set, and a sum, which is NaN if a
// cell is (or if there are infinities of both signs). Comparisons of cells would make masks, and
// the processor has registers for few masks that wait for memory: see docs/kernels.md.
template <class V>
struct Seen {
  Special<V> lanes{};
  Vec<V> sum{};

  bool any() const { return poolkit::any(lanes) || poolkit::any(Special<V>(sum != sum)); }
};

// By which rule maxima are found: the plain one; the plain one, of cells that are watched for what
// it gets wrong; or the full one.
enum class Rule { kPlain, kWatched, kFull };

// One output: its window over `count` input rows, for U vectors of each cell; `first` is where its
// first cell is in each row. K is the number of taps in each row where that is known while
// compiling, or 0. Square: there are K rows too. Taps are stored as O, lanes or bytes.
template <class R, Rule rule, bool Sub, int U, int K, bool Square, class C, class D, class O>
[[gnu::always_inline]] inline void reduce_window(const CellRow<R, C>* rows, int64_t count,
                                                 const Column& c, int64_t first, int64_t step,
                                                 D* to, O* to_taps,
                                                 Seen<typename R::Value>& special) {
  using V = typename R::Value;
  using L = typename R::Lane;
  using LV = typename LaneVector<L>::type;
  constexpr int N = kLanes<V>;
  Vec<V> best[U] = {};
  LV at[U] = {};
  const auto tap_of = [&](int64_t r, int64_t t, int u) {
    LV tap{};
    if constexpr (R::kOffsets) {
      tap = splat(L(rows[r].base + (Sub ? 0 : c.tap + t)));
      if constexpr (Sub) tap += load(rows[r].taps + first + u * N);
    }
    return tap;
  };
  const auto get = [&](const C* p) {
    if constexpr (std::is_same_v<C, V>)
      return load(p);
    else
      return read<V>(p, special.lanes);
  };
  const auto cell = [&](int64_t r, int64_t t, int u, bool opens) __attribute__((always_inline)) {
    const Vec<V> v = get(rows[r].cells + t * step + first + u * N);
    if (opens)
      best[u] = v, at[u] = tap_of(r, t, u);
    else
      meet<R, rule == Rule::kFull>(best[u], at[u], v, tap_of(r, t, u));
    return v;
  };
  // (Integers have nothing to watch for.)
  constexpr bool kAdds =
      rule == Rule::kWatched && std::is_same_v<C, V> && std::is_floating_point_v<V>;
  const auto meet_row = [&](int64_t r, int u, bool opens) __attribute__((always_inline)) {
    Vec<V> sum = cell(r, 0, u, opens);
    POOLKIT_UNROLL
    for (int t = 1; t < K; ++t) {
      const Vec<V> v = cell(r, t, u, false);
      if constexpr (kAdds) sum += v;
    }
    if constexpr (kAdds) special.sum += sum;
  };
  const auto meet_rows = [&](int64_t r, bool opens) __attribute__((always_inline)) {
    POOLKIT_UNROLL
    for (int u = 0; u < U; ++u) meet_row(r, u, opens);
    if constexpr (K == 0)
      for (int64_t t = 1; t < c.taps; ++t) {
        POOLKIT_UNROLL
        for (int u = 0; u < U; ++u) {
          const Vec<V> v = cell(r, t, u, false);
          if constexpr (kAdds) special.sum += v;
        }
      }
  };
  if constexpr (Square) {
    POOLKIT_UNROLL
    for (int u = 0; u < U; ++u) {
      POOLKIT_UNROLL
      for (int r = 0; r < K; ++r) meet_row(r, u, r == 0);
    }
  } else {
    meet_rows(0, true);
    for (int64_t r = 1; r < count; ++r) meet_rows(r, false);
  }
  POOLKIT_UNROLL
  for (int u = 0; u < U; ++u) {
    write<D, V>(to + u * N, best[u]);
    if constexpr (R::kOffsets) store_as<O, L>(to_taps + u * N, at[u]);
  }
}

// What becomes of the sums of an output: they are multiplied, or divided. Which of these is settled
// outside the loops: the fewer instructions there are for a cell of memory, the more cells the
// processor waits for at a time.
template <class V>
struct Product {
  V by;
  [[gnu::always_inline]] Vec<V> operator()(const Vec<V>& sums) const { return sums * splat(by); }
};

template <class V>
struct Quotient {
  const Divisors<V>* divisors;
  V by;
  [[gnu::always_inline]] Vec<V> operator()(const Vec<V>& sums) const {
    return divisors->quotients(sums, by);
  }
};

// Vectors of sums that are read and stored together: twice as many bfloat16 come as those with even
// and those with odd numbers (convert.h), and stay in that order until they are stored.
template <bool Pairs>
constexpr int kParts = Pairs ? 2 : 1;

template <class R, bool Sub, int P, class C>
[[gnu::always_inline]] inline void get_summands(const C* p, Vec<typename R::Value> (&parts)[P]) {
  using V = typename R::Value;
  if constexpr (is_half<C>)
    load_parts<V>(p, parts);
  else
    POOLKIT_UNROLL
  for (int k = 0; k < P; ++k) parts[k] = load_as<V>(p + k * kLanes<V>);
  POOLKIT_UNROLL
  for (int k = 0; k < P; ++k) parts[k] = summand<std::conditional_t<Sub, Sum<V>, R>>(parts[k]);
}

template <class R, bool Sub, int P, class C>
[[gnu::always_inline]] inline void add_summands(const C* p, Vec<typename R::Value> (&sum)[P]) {
  Vec<typename R::Value> parts[P];
  get_summands<R, Sub>(p, parts);
  POOLKIT_UNROLL
  for (int k = 0; k < P; ++k) sum[k] += parts[k];
}

template <int P, class V, class D, class F>
[[gnu::always_inline]] inline void put_sums(Vec<V> (&sum)[P], D* to, const F& finish) {
  POOLKIT_UNROLL
  for (int k = 0; k < P; ++k) sum[k] = finish(sum[k]);
  if constexpr (P == 2 && is_half<D>)
    store_parts<V>(to, sum);
  else
    POOLKIT_UNROLL
  for (int k = 0; k < P; ++k) store_as<D, V>(to + k * kLanes<V>, sum[k]);
}

// The same for sums: rows are added up along themselves, then down the slice, then the slices, as
// rows.h does, so that a sum does not depend on the scheme. It begins with 0: -0 becomes +0. Cells
// of type C and sums stored as D are converted on the way. Sub: the cells are sums already. Square:
// there are K rows too, of one slice.
template <class R, bool Sub, bool Pairs, int U, int K, bool Square, class C, class D, class F>
[[gnu::always_inline]] inline void sum_window(const CellRow<R, C>* rows, int64_t count,
                                              const Column& c, int64_t first, int64_t step, D* to,
                                              const F& finish) {
  using V = typename R::Value;
  constexpr int N = kLanes<V>, P = kParts<Pairs>;
  using Parts = Vec<V>[P];
  const int64_t taps = K ? K : c.taps;
  const auto get = [](const C* p, Parts& parts) { get_summands<R, Sub, P>(p, parts); };
  const auto add = [](const C* p, Parts& sum) { add_summands<R, Sub, P>(p, sum); };
  const auto put = [&](Parts& sum, D* p) { put_sums<P, V>(sum, p, finish); };
  constexpr int kGroups = U / P;
  if constexpr (Square) {
    POOLKIT_UNROLL
    for (int u = 0; u < kGroups; ++u) {
      Parts sum;
      POOLKIT_UNROLL
      for (int r = 0; r < K; ++r) {
        const auto cell = [&](int64_t t) { return rows[r].cells + t * step + first + u * P * N; };
        Parts row;
        get(cell(0), row);
        POOLKIT_UNROLL
        for (int t = 1; t < K; ++t) add(cell(t), row);
        POOLKIT_UNROLL
        for (int k = 0; k < P; ++k) sum[k] = r == 0 ? row[k] : sum[k] + row[k];
      }
      POOLKIT_UNROLL
      for (int k = 0; k < P; ++k) sum[k] += Vec<V>{};
      put(sum, to + u * P * N);
    }
    return;
  }
  Parts total[kGroups] = {}, slice[kGroups] = {};
  const auto add_row = [&](int64_t r, bool opens) {
    const C* const p = rows[r].cells + first;
    Parts row[kGroups];
    POOLKIT_UNROLL
    for (int u = 0; u < kGroups; ++u) get(p + u * P * N, row[u]);
    const auto add_cell = [&](int64_t t) {
      POOLKIT_UNROLL
      for (int u = 0; u < kGroups; ++u) add(p + t * step + u * P * N, row[u]);
    };
    if constexpr (K > 0) {
      POOLKIT_UNROLL
      for (int t = 1; t < K; ++t) add_cell(t);
    } else {
      for (int64_t t = 1; t < taps; ++t) add_cell(t);
    }
    POOLKIT_UNROLL
    for (int u = 0; u < kGroups; ++u) {
      POOLKIT_UNROLL
      for (int k = 0; k < P; ++k) {
        if (opens) total[u][k] += slice[u][k];
        slice[u][k] = opens ? row[u][k] : slice[u][k] + row[u][k];
      }
    }
  };
  for (int64_t r = 0; r < count; ++r) add_row(r, rows[r].opens);
  POOLKIT_UNROLL
  for (int u = 0; u < kGroups; ++u) {
    POOLKIT_UNROLL
    for (int k = 0; k < P; ++k) total[u][k] += slice[u][k];
    put(total[u], to + u * P * N);
  }
}

// The same for one row of many cells, each longer than U vectors: a few cells at a time, all of
// each, so that memory is read as it lies. `sums` has room for a cell and two vectors.
template <class R, bool Pairs, class C, class D, class F>
void sum_long_window(const C* cells, int64_t taps, int64_t width, int64_t step,
                     typename R::Value* sums, D* to, const F& finish) {
  using V = typename R::Value;
  constexpr int P = kParts<Pairs>;
  constexpr int64_t N = kLanes<V>, kStep = P * N, kCells = 8;
  const auto saved = [&](int64_t v, Vec<V>(&sum)[P]) {
    for (int k = 0; k < P; ++k) sum[k] = load(sums + v + k * N);
  };
  for (int64_t t = 0; t < taps; t += kCells) {
    const C* const from = cells + t * step;
    const int64_t n = std::min(kCells, taps - t);
    for (int64_t v = 0; v < width; v += kStep) {
      const C* const p = from + std::min(v, width - kStep);  // the last has cells of the one before
      Vec<V> sum[P] = {};
      if (t > 0) saved(v, sum);
      if (n == kCells) {
        POOLKIT_UNROLL
        for (int64_t k = 0; k < kCells; ++k) add_summands<R, false>(p + k * step, sum);
      } else {
        for (int64_t k = 0; k < n; ++k) add_summands<R, false>(p + k * step, sum);
      }
      for (int k = 0; k < P; ++k) store(sums + v + k * N, sum[k]);
    }
  }
  for (int64_t v = 0; v < width; v += kStep) {
    Vec<V> sum[P];
    saved(v, sum);
    for (int k = 0; k < P; ++k) sum[k] += Vec<V>{};
    put_sums<P, V>(sum, to + std::min(v, width - kStep), finish);
  }
}

// Cells that are `width` values wide, at least U vectors: the taps of a window are `step` values
// apart, outputs `to` and their taps `taps`.
struct Pitches {
  int64_t width, step, to, taps;
};

// Outputs [i, end) of a row, whose windows have the same number of taps, K, in each input row (0:
// any number). All values of one output come before the next output: long cells are read as they
// lie. finish(i) is what becomes of sum i.
//
// Not inlined, so that the loops have the registers to themselves: an address that waits in a
// vector register waits behind all vectors that wait for memory.
template <class R, Rule rule, bool Sub, bool Pairs, int U, int K, bool Square, class C, class D,
          class O, class F>
[[gnu::noinline]] void reduce_cells(const CellRow<R, C>* rows, int64_t count,
                                    const std::vector<Column>& columns, int64_t i, int64_t end,
                                    const Pitches& pitches, D* to, O* to_taps, const F& finish,
                                    Seen<typename R::Value>& seen) {
  constexpr int64_t kStep = U * kLanes<typename R::Value>;
  const Pitches p = pitches;
  Seen<typename R::Value> special = seen;  // in a register: nothing else may point to it
  const Column* c = columns.data() + i;
  const Column* const last = columns.data() + end;
  to += i * p.to, to_taps = lane(to_taps, i * p.taps);
  for (; c < last; ++c, to += p.to, to_taps = lane(to_taps, p.taps)) {
    [[maybe_unused]] const auto finished = finish(c - columns.data());
    const auto all = [&](const CellRow<R, C>* from, int64_t first) {
      // The first step is short where the second overlaps it.
      for (int64_t at = 0, ahead = (p.width - 1) % kStep + 1; at < p.width;
           at += ahead, ahead = kStep)
        if constexpr (R::kSums)
          sum_window<R, Sub, Pairs, U, K, Square>(from, count, *c, first + at, p.step, to + at,
                                                  finished);
        else
          reduce_window<R, rule, Sub, U, K, Square>(from, count, *c, first + at, p.step, to + at,
                                                    lane(to_taps, at), special);
    };
    if constexpr (Square) {
      CellRow<R, C> from[K];
      for (int r = 0; r < K; ++r) from[r] = rows[r], from[r].cells += c->first;
      all(from, 0);
    } else {
      all(rows, c->first);
    }
  }
  seen = special;
}

// One output row. Sub: the cells bring taps of their own, or are sums.
template <class R, Rule rule, bool Sub, bool Pairs, int U, class C, class D, class O, class F>
void reduce_row(const CellRow<R, C>* rows, int64_t count, const std::vector<Column>& columns,
                const Pitches& p, D* to, O* to_taps, const F& finish,
                Seen<typename R::Value>& special) {
  const auto n = int64_t(columns.size());
  const auto taps = [&](int64_t i) { return columns[size_t(i)].taps; };
  for (int64_t i = 0, end; i < n; i = end) {
    for (end = i + 1; end < n && taps(end) == taps(i);) ++end;
    if constexpr (R::kSums && !Sub)
      if (count == 1 && taps(i) >= 32 && p.width > U * kLanes<typename R::Value>) {
        Buffer<typename R::Value> sums(p.width + U * kLanes<typename R::Value>);
        for (; i < end; ++i)
          sum_long_window<R, Pairs>(rows[0].cells + columns[size_t(i)].first, taps(i), p.width,
                                    p.step, sums.get(), to + i * p.to, finish(i));
        continue;
      }
    const auto go = [&]<int K, bool Square = false>(int64_t some) {
      reduce_cells<R, rule, Sub, Pairs, U, K, Square>(rows, some, columns, i, end, p, to, to_taps,
                                                      finish, special);
    };
    if (Sub || taps(i) == 1)
      go.template operator()<1>(count);
    else if (taps(i) == 2 && count == 2 && !rows[1].opens)
      go.template operator()<2, true>(count);
    else if (taps(i) == 2)
      go.template operator()<2>(count);
    else if (taps(i) == 3 && count == 3 && !rows[1].opens && !rows[2].opens)
      go.template operator()<3, true>(count);
    else if (taps(i) == 3)
      go.template operator()<3>(count);
    else
      go.template operator()<0>(taps(i) > 0 ? count : 0);  // sums alone: padding is zeros
  }
}

// Outputs of planes [plane, plane + planes): depths [d0, d1), rows [h0, h1), columns [w0, w1).
struct Block {
  int64_t plane, planes, d0, d1, h0, h1, w0, w1;

  int64_t columns() const { return w1 - w0; }
  int64_t rows() const { return (d1 - d0) * (h1 - h0); }
};

// The cells [low, high) of an axis that outputs [begin, end) look at.
struct Span {
  int64_t low, high;

  Span(const Axis& a, int64_t begin, int64_t end) {
    const int64_t start = a.start(end - 1);
    const int64_t last = a.adaptive() ? start + a.last(end - 1) : start + a.extent();
    low = std::clamp<int64_t>(a.start(begin), 0, a.size);
    high = std::clamp<int64_t>(last, low, a.size);
  }
  int64_t size() const { return high - low; }
};

// Cells in memory: (d, h, w) is at p + (d * slice + h * row + w * cell) - origin.
template <class V>
struct View {
  const V* p;
  int64_t origin, slice, row, cell;
  const V* line(int64_t d, int64_t h) const { return p + (d * slice + h * row - origin); }
};

// Reduces blocks of cells that are `width` values wide, U vectors at a time. Sums are divided.
// Pairs: of bfloat16, whose width is a multiple of U vectors.
template <class R, Rule rule, int U, bool Pairs = false>
class LanePool {
  using V = typename R::Value;
  using L = typename R::Lane;

 public:
  LanePool(const Window& w, int64_t width, const Divisors<V>* divisors)
      : w_(w), width_(width), divisors_(divisors) {}

  // The results of output row r of the block go to `to` + r * row, cells `cell` apart, and the taps
  // likewise to `taps`.
  template <class C, class D, class O>
  void operator()(const View<C>& in, const Block& b, D* to, int64_t row, int64_t cell, O* taps,
                  int64_t taps_row, int64_t taps_cell) {
    const Span d_seen(w_.d, b.d0, b.d1), h_seen(w_.h, b.h0, b.h1);
    const int64_t line = b.columns() * width_;
    const bool straight = is_straight(w_, std::is_same_v<C, V> ? 1 : 3);
    if (b.w0 != begin_ || b.w1 != end_) {
      begin_ = b.w0, end_ = b.w1;
      find_columns(w_.w, begin_, end_, in.cell, columns_);
      units_.clear();
      for (int64_t i = 0; i < b.columns(); ++i) units_.push_back({i * width_, 0, 1});
    }
    if (!straight) {
      done_.assign(size_t(d_seen.size() * h_seen.size()), 0);
      reduced_.reserve(int64_t(done_.size()) * line);
      reduced_taps_.reserve(int64_t(done_.size()) * line);
    }
    std::vector<CellRow<R, C>> list;
    std::vector<CellRow<R, V>> reduced;
    const auto keep = [](int64_t) { return Product<V>{V(1)}; };
    const int64_t step = w_.w.dilation * in.cell;
    // What all sums are multiplied by, or 0 if they are divided.
    const V factor = divisors_ ? divisors_->factor() : V(1);
    for (int64_t d = b.d0; d < b.d1; ++d)
      for (int64_t h = b.h0; h < b.h1; ++h, to += row, taps = lane(taps, taps_row)) {
        list.clear(), reduced.clear();
        for (int64_t td = w_.d.first(d); td < w_.d.last(d); ++td)
          for (int64_t th = w_.h.first(h); th < w_.h.last(h); ++th) {
            const int64_t base = w_.number(td, th, 0);
            const int64_t id = w_.d.start(d) + td * w_.d.dilation;
            const int64_t ih = w_.h.start(h) + th * w_.h.dilation;
            const bool opens = th == w_.h.first(h);
            if (straight) {
              list.push_back({in.line(id, ih), nullptr, base, opens});
              continue;
            }
            const int64_t number = (id - d_seen.low) * h_seen.size() + ih - h_seen.low;
            V* const cells = reduced_.get() + number * line;
            L* const cell_taps = lane(reduced_taps_.get(), number * line);
            if (!done_[size_t(number)]) {
              done_[size_t(number)] = 1;
              const CellRow<R, C> one{in.line(id, ih), nullptr, 0, true};
              reduce_row<R, rule, false, Pairs, U>(&one, 1, columns_,
                                                   {width_, step, width_, width_}, cells, cell_taps,
                                                   keep, special_);
            }
            reduced.push_back({cells, cell_taps, base, opens});
          }
        const auto reduce = [&](const auto& finish) {
          if (straight)
            reduce_row<R, rule, false, Pairs, U>(list.data(), int64_t(list.size()), columns_,
                                                 {width_, step, cell, taps_cell}, to, taps, finish,
                                                 special_);
          else
            reduce_row<R, rule == Rule::kWatched ? Rule::kPlain : rule, true, Pairs, U>(
                reduced.data(), int64_t(reduced.size()), units_, {width_, 0, cell, taps_cell}, to,
                taps, finish, special_);
        };
        if constexpr (R::kSums)
          if (factor == V(0)) {
            const auto row_divisor = V(divisors_->row(d, h));
            reduce([&](int64_t i) {
              return Quotient<V>{divisors_, divisors_->divisor(row_divisor, b.w0 + i)};
            });
            continue;
          }
        reduce([&](int64_t) { return Product<V>{factor}; });
      }
  }

  // Whether cells were read that need the full rule.
  bool special() const { return special_.any(); }

 private:
  // Whether so few taps are reduced that row buffers would cost more. `cost` of reading a cell.
  static bool is_straight(const Window& w, int64_t cost) {
    // (A kernel may be far longer than the axis: padding has no limit.)
    const auto taps = [](const Axis& a) { return std::min(a.kernel, a.size); };
    const int64_t rows = capped_product(taps(w.d), taps(w.h));
    if (rows == 1 || w.w.kernel == 1) return true;
    if (rows > 64) return false;
    // Rows of input that come new with each row of outputs; the others are reduced already.
    const int64_t fresh = std::min<int64_t>(
        64, capped_product(std::max<int64_t>(1, w.h.stride), std::max<int64_t>(1, w.d.stride)));
    const int64_t along = capped_product(cost, taps(w.w));
    return capped_product(rows, along) <= fresh * std::min<int64_t>(along + 3, 1 << 20) + rows + 2;
  }

  const Window& w_;
  const int64_t width_;
  const Divisors<V>* const divisors_;
  int64_t begin_ = 0, end_ = 0;  // the outputs that columns_ are of
  std::vector<Column> columns_, units_;
  std::vector<char> done_;
  Buffer<V> reduced_;
  Buffer<L> reduced_taps_;
  Seen<V> special_{};
};

// ---- planes as lanes ----

// The planes of a tensor: contiguous ones (`run` == 1), or the channels of a channels-last one.
struct PlaneStarts {
  int64_t run, values;  // values of one plane

  int64_t operator[](int64_t plane) const { return plane / run * values * run + plane % run; }
};

// `n` cells, `step` apart, of as many planes as there are lanes, to vectors of the same cell of all
// of them, `pitch` apart; values from `end` on must not be read. Returns whether there was anything
// special among them.
template <class T, class V>
bool gather_planes(const T* const (&plane)[kLanes<V>], int64_t step, int64_t n, const T* end, V* to,
                   int64_t pitch = kLanes<V>) {
  constexpr int N = kLanes<V>;
  Special<V> special{};
  if (n <= 0) return false;  // an empty tensor has no address
  if (step != 1) {
    for (int64_t c = 0; c < n; ++c) {
      T some[N];
      for (int k = 0; k < N; ++k) some[k] = plane[k][c * step];
      store(to + c * pitch, read<V>(some, special));
    }
    return any(special);
  }
  if (n < N) {
    Vec<V> rows[N];
    for (int k = 0; k < N; ++k) {
      if (end - plane[k] >= N) {
        rows[k] = read<V>(plane[k], special);
      } else {
        T some[N] = {};
        std::memcpy(some, plane[k], size_t(n) * sizeof(T));
        rows[k] = read<V>(some, special);
      }
    }
    transpose<V>(rows);
    for (int64_t k = 0; k < n; ++k) store(to + k * pitch, rows[k]);
    return any(special);
  }
  for (int64_t c = 0; c < n; c += N) {
    c = std::min(c, n - N);  // the last square overlaps the one before
    Vec<V> rows[N];
    POOLKIT_UNROLL
    for (int k = 0; k < N; ++k) rows[k] = read<V>(plane[k] + c, special);
    transpose<V>(rows);
    POOLKIT_UNROLL
    for (int k = 0; k < N; ++k) store(to + (c + k) * pitch, rows[k]);
  }
  return any(special);
}

// The way back: put(plane, cell, vector, n) stores n cells of a plane.
template <class V, class Put>
void scatter_planes(const V* from, int64_t planes, int64_t n, const Put& put,
                    int64_t pitch = kLanes<V>) {
  constexpr int N = kLanes<V>;
  if (n < N) {
    Vec<V> rows[N] = {};
    for (int64_t k = 0; k < n; ++k) rows[k] = load(from + k * pitch);
    transpose<V>(rows);
    for (int64_t k = 0; k < planes; ++k) put(k, int64_t(0), rows[k], int(n));
    return;
  }
  for (int64_t c = 0; c < n; c += N) {
    c = std::min(c, n - N);
    Vec<V> rows[N];
    POOLKIT_UNROLL
    for (int k = 0; k < N; ++k) rows[k] = load(from + (c + k) * pitch);
    transpose<V>(rows);
    POOLKIT_UNROLL
    for (int k = 0; k < N; ++k)
      if (k < planes) put(int64_t(k), c, rows[k], N);
  }
}

// Reduces blocks of planes as lanes.
template <class T, class R, bool Exact>
class PlanePool {
  using V = typename R::Value;
  using L = typename R::Lane;
  static constexpr int N = kLanes<V>;

 public:
  PlanePool(const T* x, int64_t planes, const Window& w, int64_t run, const Divisors<V>* divisors)
      : x_(x),
        end_(x + planes * w.cells()),
        w_(w),
        starts_{run, w.cells()},
        pool_(w, N, divisors) {}

  // Pools lanes [first, first + N) of the block's planes. False if something special was met.
  bool operator()(const Block& b, int64_t first) {
    const Span d(w_.d, b.d0, b.d1), h(w_.h, b.h0, b.h1), w(w_.w, b.w0, b.w1);
    const int64_t run = starts_.run, row = w.size() * N, slice = h.size() * row;
    V* const in = in_.reserve(std::max<int64_t>(1, d.size() * slice));
    const bool whole_rows = w.size() == w_.w.size;
    for (int64_t s = d.low; s < d.high; ++s)
      for (int64_t r = h.low; r < h.high; r = whole_rows ? h.high : r + 1) {
        const int64_t corner = ((s * w_.h.size + r) * w_.w.size + w.low) * run;
        const T* plane[N];
        for (int k = 0; k < N; ++k) {
          const int64_t p = std::min(first + k, b.planes - 1);
          plane[k] = x_ + starts_[b.plane + p] + corner;
        }
        const int64_t n = w.size() * (whole_rows ? h.size() : 1);
        const bool special =
            gather_planes<T, V>(plane, run, n, end_, in + (s - d.low) * slice + (r - h.low) * row);
        if (special && !Exact && !R::kSums) return false;
      }
    const int64_t line = b.columns() * N;
    values_.reserve(b.rows() * line), taps_.reserve(b.rows() * line);
    const View<V> view{in, d.low * slice + h.low * row + w.low * N, slice, row, N};
    pool_(view, b, values_.get(), line, N, taps_.get(), line, N);
    return true;
  }

  V* values() const { return values_.get(); }
  L* taps() const { return taps_.get(); }

 private:
  const T *const x_, *const end_;
  const Window& w_;
  const PlaneStarts starts_;
  LanePool<R, Exact ? Rule::kFull : Rule::kPlain, 1> pool_;
  Buffer<V> in_, values_;
  Buffer<L> taps_;
};

}  // namespace poolkit
