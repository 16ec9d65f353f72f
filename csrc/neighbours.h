// Neighbouring windows of five taps and more: what they hold together is reduced once.
//
// Eight windows of nine that begin a cell apart, or four of five, are found from registers: 16
// cells are read once, in place of 72, and met in 21 steps, in place of 64.
//
// clang-format off
//   cells        a b c d e f g h     four windows of five
//   window 0     a b c d e           d e, which all hold; then c d e, b c d e, a b c d e,
//   window 1       b c d e f         and beginnings, f, f g, f g h,
//   window 2         c d e f g       meet these
//   window 3           d e f g h
// clang-format on
//
// Along a row the cells are runs of channels; down the rows, cells that are reduced along their row
// already. At the edges some windows begin with the same cell, or end with the last one. A sum is
// put together in this order, so which windows go together must not depend on how the work is cut:
// groups begin at multiples. (Small windows, whose sums do not depend on where an axis begins
// either, share only what is read: each is added up in order.)
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "one_window.h"

namespace poolkit {

// G windows of at least G taps, each a step further on than the one before, as far as there are
// cells.
struct Neighbours {
  int64_t clipped;  // taps of the first window before the first cell: so many windows begin with it
  int64_t taps;     // cells of the first window
  int64_t cells;    // of all windows
  int64_t step;     // from cell to cell
  int64_t number, base;  // of the first window's tap at the first cell, and what a step adds
};

template <class R, Rule rule, bool Sub, bool Pairs, int G, class C, class D, class O, class F>
[[gnu::always_inline]] inline void reduce_neighbours(const Neighbours& n, const C* cells,
                                                     const typename R::Lane* cell_taps, D* to,
                                                     int64_t to_step, O* to_taps, int64_t taps_step,
                                                     const F& finish,
                                                     SeenOf<typename R::Value, C>& special) {
  using V = typename R::Value;
  using L = typename R::Lane;
  constexpr int P = R::kSums ? kParts<Pairs> : 1;
  constexpr bool kAdds =
      rule == Rule::kWatched && std::is_same_v<C, V> && std::is_floating_point_v<V>;
  struct Part {
    Vec<V> v[P];
    typename LaneVector<L>::type at;
  };
  using LV = typename LaneVector<L>::type;
  // Numbers of taps go from cell to cell in registers.
  LV base{}, tap{};
  if constexpr (R::kOffsets) base = splat(L(n.base));
  const auto number = [&](int64_t t) {
    if constexpr (R::kOffsets) tap = splat(L(n.number + t * n.base));
  };
  // Cell t, and how much further the next one is.
  const auto get = [&](int64_t t, auto by) __attribute__((always_inline)) {
    const C* const p = cells + t * n.step;
    Part part{};
    if constexpr (R::kSums) {
      get_summands<R, Sub, P>(p, part.v);
    } else if constexpr (std::is_same_v<C, V>) {
      part.v[0] = load(p);
      if constexpr (kAdds) special.sum += part.v[0];
    } else if constexpr (kKeys<V, C>) {
      part.v[0] = special.read(p);
    } else {
      part.v[0] = read<V>(p, special.lanes);
    }
    if constexpr (R::kOffsets) {
      part.at = tap;
      if constexpr (Sub) part.at += load(cell_taps + t * n.step);
      tap = by > 0 ? tap + base : tap - base;
    }
    return part;
  };
  // `late` follows `part` in the window.
  const auto join = [](Part& part, const Part& late) __attribute__((always_inline)) {
    POOLKIT_UNROLL
    for (int k = 0; k < P; ++k)
      meet<R, rule == Rule::kFull>(part.v[k], part.at, late.v[k], late.at);
  };
  constexpr std::integral_constant<int, 1> kNext;
  constexpr std::integral_constant<int, -1> kPrevious;
  Part window[G];
  const int64_t common = std::max<int64_t>(0, G - 1 - n.clipped);
  number(common);
  window[G - 1] = get(common, kNext);
  for (int64_t t = common + 1; t < n.taps; ++t) join(window[G - 1], get(t, kNext));
  number(G - 2 - n.clipped);
  POOLKIT_UNROLL
  for (int j = G - 2; j >= 0; --j) {
    window[j] = window[j + 1];
    if (j >= n.clipped) window[j] = get(j - n.clipped, kPrevious), join(window[j], window[j + 1]);
  }
  number(n.taps);
  Part late{};
  LV shift{};
  POOLKIT_UNROLL
  for (int j = 0; j < G; ++j) {
    if (j > 0 && n.taps + j <= n.cells) {
      const Part part = get(n.taps + j - 1, kNext);
      j == 1 ? void(late = part) : join(late, part);
    }
    if (j > 0 && n.taps < n.cells) join(window[j], late);
    if constexpr (R::kSums) {
      POOLKIT_UNROLL
      for (int k = 0; k < P; ++k) window[j].v[k] += Vec<V>{};
      put_sums<P, V>(window[j].v, to + j * to_step, finish(j));
    } else {
      write<D, V>(to + j * to_step, window[j].v[0]);
      if constexpr (R::kOffsets) {
        store_as<O, L>(to_taps + j * taps_step, window[j].at - shift);
        shift += base;
      }
    }
  }
}

// Neighbouring windows of an axis that go together: so many, half of that, or one.
constexpr int kTogether = 8;

inline int64_t together(const Axis& a) {
  const bool steps = a.stride == 1 && a.dilation == 1 && a.kernel > kTogether / 2;
  if (!steps || a.before >= a.kernel || a.start(a.out - 1) >= a.size) return 1;
  return a.kernel >= kTogether ? kTogether : kTogether / 2;
}

// At least so many outputs, in whole groups.
inline int64_t in_groups(int64_t outputs) {
  return (outputs + kTogether - 1) / kTogether * kTogether;
}

// Whole groups of neighbours among the outputs from `i` on of one input row. Returns the first
// output that is left.
template <class R, Rule rule, bool Pairs, int G, class C, class D, class O, class F>
[[gnu::noinline]] int64_t reduce_groups(const CellRow<R, C>& row,
                                        const std::vector<Column>& columns, int64_t i,
                                        const Pitches& pitches, D* to, O* to_taps, const F& finish,
                                        Seen<typename R::Value>& seen) {
  using V = typename R::Value;
  constexpr int64_t kStep = kLanes<V> * (R::kSums ? kParts<Pairs> : 1);
  const Pitches p = pitches;
  constexpr bool kOfKeys = kKeys<V, C>;
  SeenOf<V, C> special{};
  if constexpr (!kOfKeys) special = seen;
  for (; i + G <= int64_t(columns.size()); i += G) {
    const Column &c = columns[size_t(i)], &last = columns[size_t(i + G - 1)];
    const int64_t cells = std::max<int64_t>(0, G - 1 - c.tap) + last.taps;
    const Neighbours n{c.tap, c.taps, cells, p.step, row.base + c.tap, 1};
    decltype(finish(0, i)) finished[G];
    for (int j = 0; j < G; ++j) finished[j] = finish(0, i + j);
    for (int64_t at = 0, ahead = (p.width - 1) % kStep + 1; at < p.width;
         at += ahead, ahead = kStep)
      reduce_neighbours<R, rule, false, Pairs, G>(
          n, row.cells + c.first + at, static_cast<const typename R::Lane*>(nullptr),
          to + i * p.to + at, p.to, lane(to_taps, i * p.taps + at), p.taps,
          [&](int j) { return finished[j]; }, special);
  }
  if constexpr (kOfKeys)
    seen.lanes |= special.template lanes<C>();
  else
    seen = special;
  return i;
}

// Small sums: each is added up cell by cell in any case, but a cell that neighbours share is read
// once. Whole groups of G windows of at least G taps each, all of one size, a tap apart, among the
// outputs [i, end) of one input row. Returns the first output that is left.
template <class R, bool Pairs, int G, class C, class D, class F>
[[gnu::noinline]] int64_t add_groups(const C* cells, const std::vector<Column>& columns, int64_t i,
                                     int64_t end, const Pitches& pitches, D* to, const F& finish) {
  using V = typename R::Value;
  constexpr int P = kParts<Pairs>;
  constexpr int64_t kStep = P * kLanes<V>;
  using Parts = Vec<V>[P];
  const Pitches p = pitches;
  for (; i + G <= end; i += G) {
    const int64_t taps = columns[size_t(i)].taps;
    const C* const first = cells + columns[size_t(i)].first;
    decltype(finish(0, i)) finished[G];
    for (int j = 0; j < G; ++j) finished[j] = finish(0, i + j);
    for (int64_t at = 0, ahead = (p.width - 1) % kStep + 1; at < p.width;
         at += ahead, ahead = kStep) {
      const C* cell = first + at;
      Parts sums[G], v;
      const auto next = [&]() __attribute__((always_inline)) {
        get_summands<R, false, P>(cell, v), cell += p.step;
      };
      const auto add = [&](int j, bool opens) __attribute__((always_inline)) {
        POOLKIT_UNROLL
        for (int k = 0; k < P; ++k) sums[j][k] = opens ? v[k] : sums[j][k] + v[k];
      };
      POOLKIT_UNROLL
      for (int t = 0; t < G; ++t) {
        next();
        POOLKIT_UNROLL
        for (int j = 0; j <= t; ++j) add(j, j == t);
      }
      for (int64_t t = G; t < taps; ++t) {
        next();
        POOLKIT_UNROLL
        for (int j = 0; j < G; ++j) add(j, false);
      }
      POOLKIT_UNROLL
      for (int t = 1; t < G; ++t) {
        next();
        POOLKIT_UNROLL
        for (int j = t; j < G; ++j) add(j, false);
      }
      POOLKIT_UNROLL
      for (int j = 0; j < G; ++j) {
        POOLKIT_UNROLL
        for (int k = 0; k < P; ++k) sums[j][k] += Vec<V>{};
        put_sums<P, V>(sums[j], to + (i + j) * p.to + at, finished[j]);
      }
    }
  }
  return i;
}

// G rows of outputs from `first` and the rows below it, which are reduced along themselves.
template <class R, Rule rule, bool Pairs, int G, class D, class O, class F>
[[gnu::noinline]] void reduce_down(const Neighbours& n, const CellRow<R, typename R::Value>& first,
                                   int64_t columns, int64_t width, D* to, int64_t row, int64_t cell,
                                   O* to_taps, int64_t taps_row, int64_t taps_cell,
                                   const F& finish) {
  using V = typename R::Value;
  constexpr int64_t kStep = kLanes<V> * (R::kSums ? kParts<Pairs> : 1);
  SeenOf<V, V> none{};
  for (int64_t i = 0; i < columns; ++i) {
    decltype(finish(0, i)) finished[G];
    for (int j = 0; j < G; ++j) finished[j] = finish(j, i);
    for (int64_t at = 0, ahead = (width - 1) % kStep + 1; at < width; at += ahead, ahead = kStep)
      reduce_neighbours<R, rule, true, Pairs, G>(
          n, first.cells + i * width + at, lane(first.taps, i * width + at), to + i * cell + at,
          row, lane(to_taps, i * taps_cell + at), taps_row, [&](int j) { return finished[j]; },
          none);
  }
}

}  // namespace poolkit
