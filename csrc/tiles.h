// Tiles: windows 3/1 over vectors, some rows and columns of outputs at a time.
//
// clang-format off
//   . . . . . .      16 windows look at 36 cells, not at 144: each cell is read once, each row of
//   . y y y y .      three is reduced once, for the three windows below each other that share it,
//   . y y y y .      and nothing leaves the registers but results. From the top to the bottom:
//   . y y y y .
//   . y y y y .          row     a b c d e f
//   . . . . . .          along   abc bcd cde def     meet what the two rows above gave
// clang-format on
//
// So four columns do; one has 18 loads for 4 windows, not 36, and reads cells as they lie in
// memory.
//
// Cells meet as in any other scheme: along the row, then down the rows. No loop knows of edges: for
// a cell that is not there a sum reads zeros, and a maximum its neighbour, which is in the window
// too, by that neighbour's number.
#pragma once

#include "one_window.h"

namespace poolkit {

// Whether an axis has such windows, in each of them a real cell beside one that is not.
inline bool has_tiles(const Axis& a) {
  return a.kernel == 3 && a.stride == 1 && a.dilation == 1 && a.before <= 1 &&
         a.start(a.out - 1) < a.size;
}

// Windows of one slice: others share what is reduced along the rows of slices.
inline bool has_tiles(const Window& w) {
  return w.d.kernel == 1 && has_tiles(w.h) && has_tiles(w.w);
}

// So many outputs are found together: of one column, so that cells are read as they lie, or of more
// if a cell must be converted every time that it is read.
constexpr int kTileRows = 4;
template <class R, class C>
constexpr int kTileColumns = std::is_same_v<C, typename R::Value>           ? 1
                             : kVectorBytes < 64 || R::kSums || R::kOffsets ? 2
                                                                            : 4;

// Rows of cells that some rows of outputs, `wanted`, look at.
template <class C>
struct TileRows {
  const C* cells[kTileRows + 2];  // null: a row of zeros
  bool above;                     // whether the first is the second again
  int wanted;
};

// The outputs [begin, end) of some rows of an axis, of windows over cells that are `p.width` values
// wide, one after the other: pitches are those of cells, and of outputs along their rows; `row` and
// `taps_row` those of rows of outputs. `zeros` is as wide as a cell.
template <class R, bool Pairs, bool Watches, class C, class D, class O, class F>
[[gnu::noinline]] void reduce_tiles(const TileRows<C>& rows, const Axis& a, int64_t begin,
                                    int64_t end, const C* zeros, const Pitches& pitches, D* to,
                                    int64_t row, O* to_taps, int64_t taps_row, const F& finish,
                                    Seen<typename R::Value>& seen) {
  using V = typename R::Value;
  using L = typename R::Lane;
  using LV = typename LaneVector<L>::type;
  constexpr int H = kTileRows, G = kTileColumns<R, C>, P = R::kSums ? kParts<Pairs> : 1;
  constexpr int64_t kStep = P * kLanes<V>;
  constexpr bool kOfKeys = kKeys<V, C>;
  constexpr bool kAdds = Watches && std::is_same_v<C, V> && std::is_floating_point_v<V>;
  struct Part {
    Vec<V> v[P];
    LV at;
  };
  const Pitches p = pitches;
  SeenOf<V, C> special{};  // in registers: nothing else may point to it
  if constexpr (!kOfKeys) special = seen;
  for (int64_t i = begin; i < end; i += G, to += G * p.to, to_taps = lane(to_taps, G * p.taps)) {
    const int64_t columns = std::min<int64_t>(G, end - i);
    const C* cells[H + 2][G + 2];
    for (int c = 0; c < G + 2; ++c) {
      const int64_t x = a.start(i) + c, near = std::clamp<int64_t>(x, 0, a.size - 1);
      for (int r = 0; r < H + 2; ++r) {
        const bool real = !R::kSums || (rows.cells[r] && x == near);
        cells[r][c] = real ? rows.cells[r] + near * p.step : zeros;
      }
    }
    decltype(finish(0, i)) finished[H][G];
    for (int j = 0; j < H; ++j)
      for (int g = 0; g < G; ++g)
        finished[j][g] = finish(std::min(j, rows.wanted - 1), std::min(i + g, end - 1) - begin);
    for (int64_t at = 0, ahead = (p.width - 1) % kStep + 1; at < p.width;
         at += ahead, ahead = kStep) {
      // The numbers of a row's taps; `first` is that of the first cell in the first window.
      LV taps[3]{}, first{};
      if constexpr (R::kOffsets) {
        for (int t = 0; t < 3; ++t) taps[t] = splat(L(t + (rows.above ? 3 : 0)));
        first = a.start(i) < 0 ? taps[1] : taps[0];
      }
      const auto get = [&](const C* cell) __attribute__((always_inline)) {
        Part part{};
        if constexpr (R::kSums) {
          get_summands<R, false, P>(cell + at, part.v);
        } else if constexpr (std::is_same_v<C, V>) {
          part.v[0] = load(cell + at);
        } else if constexpr (kOfKeys) {
          part.v[0] = special.read(cell + at);
        } else {
          part.v[0] = read<V>(cell + at, special.lanes);
        }
        return part;
      };
      const auto join = [](Part& part, const Part& late) __attribute__((always_inline)) {
        POOLKIT_UNROLL
        for (int k = 0; k < P; ++k) meet<R, false>(part.v[k], part.at, late.v[k], late.at);
      };
      Part windows[H][G];
      POOLKIT_UNROLL
      for (int r = 0; r < H + 2; ++r) {
        Part cell[G + 2];
        POOLKIT_UNROLL
        for (int c = 0; c < G + 2; ++c) cell[c] = get(cells[r][c]);
        if constexpr (kAdds) {
          // Every cell is in the middle of a window, but for the first and the last.
          POOLKIT_UNROLL
          for (int c = 1; c <= G; ++c) special.sum += cell[c].v[0];
          if (i == begin) special.sum += cell[0].v[0];
          if (i + G >= end) special.sum += cell[G + 1].v[0];
        }
        POOLKIT_UNROLL
        for (int g = 0; g < G; ++g) {
          Part along{};
          POOLKIT_UNROLL
          for (int t = 0; t < 3; ++t) {
            if constexpr (R::kOffsets) cell[g + t].at = g + t == 0 ? first : taps[t];
            t == 0 ? void(along = cell[g]) : join(along, cell[g + t]);
          }
          POOLKIT_UNROLL
          for (int j = r < 2 ? 0 : r - 2; j <= r && j < H; ++j)
            j == r ? void(windows[j][g] = along) : join(windows[j][g], along);
        }
        if constexpr (R::kOffsets) {
          const LV more = splat(L(r == 0 && rows.above ? 0 : 3));
          for (int t = 0; t < 3; ++t) taps[t] += more;
          first += more;
        }
        const int j = r - 2;
        if (j < 0 || j >= rows.wanted) continue;
        POOLKIT_UNROLL
        for (int g = 0; g < G; ++g) {
          if (g >= columns) break;
          Part& window = windows[j][g];
          D* const place = to + j * row + g * p.to + at;
          if constexpr (R::kSums) {
            POOLKIT_UNROLL
            for (int k = 0; k < P; ++k) window.v[k] += Vec<V>{};
            put_sums<P, V>(window.v, place, finished[j][g]);
          } else {
            write<D, V>(place, window.v[0]);
          }
          if constexpr (R::kOffsets)
            store_as<O, L>(to_taps + j * taps_row + g * p.taps + at, window.at - splat(L(3 * j)));
        }
      }
    }
  }
  if constexpr (kOfKeys)
    seen.lanes |= special.template lanes<C>();
  else
    seen = special;
}

}  // namespace poolkit
