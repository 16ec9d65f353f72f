// Reductions: what becomes of the cells of a window.
//
// The schemes (rows.h, lanes.h) apply a reduction to whole vectors of windows at once.
#pragma once

#include <type_traits>
#include <utility>

#include "convert.h"

namespace poolkit {

struct NoOffset {};
struct SmallOffset {};  // up to 256 taps: stored as a byte
struct LargeOffset {};  // stored as uint16, int32 or int64

// The maximum. With Small- or LargeOffset it also carries the number of the winning tap, in a lane
// as wide as the value: comparisons of mixed widths would not become SIMD code.
template <class T, class Offset>
struct Max {
  using Value = T;
  static constexpr bool kOffsets = !std::is_same_v<Offset, NoOffset>;
  static constexpr bool kSums = false, kSquares = false;
  static constexpr int kBytes = std::is_same_v<Offset, LargeOffset> ? 4 : 1;
  using Lane =
      std::conditional_t<kOffsets, Unsigned<(int(sizeof(T)) > kBytes ? int(sizeof(T)) : kBytes)>,
                         NoOffset>;
};

// Offsets travel beside values, or not at all.
template <class L>
L* lane(L* at, int64_t offset) {
  if constexpr (std::is_same_v<std::remove_const_t<L>, NoOffset>)
    return at;
  else
    return at + offset;
}

// The sum, in a type wide enough; avg_pool divides it.
template <class T>
struct Sum {
  using Value = Wide<T>;
  static constexpr bool kOffsets = false, kSums = true, kSquares = false;
  using Lane = NoOffset;
};

// The sum of squares; lp_pool takes its root.
template <class T>
struct SumOfSquares : Sum<T> {
  static constexpr bool kSquares = true;
};

// What a cell adds to a sum.
template <class R, class V>
[[gnu::always_inline]] inline V summand(const V& v) {
  if constexpr (R::kSquares)
    return v * v;
  else
    return v;
}

}  // namespace poolkit
