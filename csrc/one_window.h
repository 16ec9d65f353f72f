// One window over vectors: how its maximum, and its sum, are found.
//
// A window is a loop over its cells, each of them U vectors, in row-major order. While cells are
// read they are watched for what ordinary comparisons get wrong (NaN; also -0 where half types are
// compared as integers). It is rare, so the fast loops do without; where it is found, the work is
// done again with the full rule.
#pragma once

#include <algorithm>
#include <vector>

#include "ahead.h"
#include "cells.h"
#include "divisors.h"

namespace poolkit {

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

// Cells that are `width` values wide, at least U vectors: the taps of a window are `step` values
// apart, outputs `to` and their taps `taps`.
struct Pitches {
  int64_t width, step, to, taps;
  bool far;          // whether cells come from beyond the cache
  int64_t ahead;     // how far ahead the cells of windows 2/2 and 3/2 are asked for, or 0
  int64_t together;  // windows that go together, or 1
  bool mixed;        // whether the sizes of windows change from output to output
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

// What watches cells of type C that are compared as V.
template <class V, class C>
using SeenOf = std::conditional_t<kKeys<V, C>, SeenKeys, Seen<V>>;

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
                                                 SeenOf<typename R::Value, C>& special) {
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
    if constexpr (std::is_same_v<C, V>) {
      return load(p);
    } else if constexpr (kKeys<V, C>) {
      return special.read(p);
    } else {
      return read<V>(p, special.lanes);
    }
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

// The same for output i of the j-th row of outputs.
template <class V>
struct Products {
  V by;
  Product<V> operator()(int64_t, int64_t) const { return {by}; }
};

template <class V, int Rows>
struct Quotients {
  const Divisors<V>* divisors;
  int64_t first;  // the number of output 0
  V rows[Rows];
  Quotient<V> operator()(int64_t j, int64_t i) const {
    return {divisors, divisors->divisor(rows[j], first + i)};
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
// rows.h does, so that a sum does not depend on the scheme unless windows are large. It begins with
// 0: -0 becomes +0. Cells of type C and sums stored as D are converted on the way. Sub: the cells
// are sums already. Square: there are K rows too, of one slice.
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
// each, so that memory is read nearly as it lies. `sums` has room for a cell and two vectors.
template <class R, bool Pairs, class C, class D, class F>
void sum_long_window(const C* cells, int64_t taps, int64_t width, int64_t step, bool far,
                     typename R::Value* sums, D* to, const F& finish) {
  using V = typename R::Value;
  constexpr int P = kParts<Pairs>;
  constexpr int64_t N = kLanes<V>, kStep = P * N, kCells = 8;
  constexpr int64_t kAhead = (8 << 10) / sizeof(C);
  const auto saved = [&](int64_t v, Vec<V>(&sum)[P]) {
    for (int k = 0; k < P; ++k) sum[k] = load(sums + v + k * N);
  };
  for (int64_t t = 0; t < taps; t += kCells) {
    const C* const from = cells + t * step;
    const int64_t n = std::min(kCells, taps - t);
    const auto some = [&]<bool Far>() {
      for (int64_t v = 0; v < width; v += kStep) {
        const C* const p =
            from + std::min(v, width - kStep);  // the last has cells of the one before
        if constexpr (Far) fetch<kCells * kStep>(from + kCells * v + kAhead);
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
    };
    far&& step == width ? some.template operator()<true>() : some.template operator()<false>();
  }
  for (int64_t v = 0; v < width; v += kStep) {
    Vec<V> sum[P];
    saved(v, sum);
    for (int k = 0; k < P; ++k) sum[k] += Vec<V>{};
    put_sums<P, V>(sum, to + std::min(v, width - kStep), finish);
  }
}

}  // namespace poolkit
