// Reductions, and `fold`, the one loop that all forward kernels spend their time in.
//
// A reduction says what becomes of the cells of a window. It is applied to whole rows at once: fold
// combines source rows element by element into an accumulator row, in order. Values of a row are
// contiguous (or have a fixed step) and never interact, so the compiler makes SIMD code of the
// loop; up to four sources are combined in registers before the accumulator is touched again. All
// rows of a strip go in one call, and rows without gaps between them as one long row: planes of 7 x
// 7 would otherwise spend their time on loop ends.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "values.h"

// The loop's rows do not overlap: no need to look for overlaps when it runs (gcc gives up at ten
// pairs).
#ifdef __clang__
#define POOLKIT_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define POOLKIT_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace poolkit {

struct NoOffset {};
struct SmallOffset {};  // up to 256 taps: stored as a byte
struct LargeOffset {};  // stored as uint16 or int32

template <int Bytes>
using Unsigned = std::conditional_t<
    Bytes == 1, uint8_t,
    std::conditional_t<Bytes == 2, uint16_t, std::conditional_t<Bytes == 4, uint32_t, uint64_t>>>;

// The maximum. With Small- or LargeOffset it also carries the number of the winning tap, in a lane
// as wide as the value: comparisons of mixed widths would not become SIMD code.
template <class T, class Offset>
struct Max {
  using Element = T;
  using Value = T;
  static constexpr bool kOffsets = !std::is_same_v<Offset, NoOffset>;
  static constexpr int kBytes = std::is_same_v<Offset, LargeOffset> ? 4 : 1;
  using Lane =
      std::conditional_t<kOffsets, Unsigned<(int(sizeof(T)) > kBytes ? int(sizeof(T)) : kBytes)>,
                         NoOffset>;
  static T combine(T best, T v) { return beats(v, best) ? v : best; }
};

// The sum, in a type wide enough; avg_pool divides it.
template <class T>
struct Sum {
  using Element = T;
  using Value = Wide<T>;
  static constexpr bool kOffsets = false;
  using Lane = NoOffset;
  static Value combine(Value sum, Value v) { return sum + v; }
};

// A row to combine: its values, the offsets of these (null: all are 0), and what to add to those.
template <class R>
struct Source {
  const typename R::Value* v;
  const typename R::Lane* at = nullptr;
  int64_t base = 0;
};

// Where rows of sources and of the accumulator are: `rows` of them, each of n values `step` apart.
struct Shape {
  int64_t n;
  int64_t rows = 1, from_pitch = 0, to_pitch = 0;
  int64_t step = 1;
  bool spills = false;  // what follows a row in the accumulator may be overwritten; see fold
  int64_t first = 0;    // the row to begin with
};

// K numbers the sources. Packs and not loops over them: the compiler must see separate pointers,
// and straight code between them, to make SIMD code of the loop over i.
template <class R, bool Init, bool Sub, int Step, size_t... K>
void fold_some(const Source<R>* s, typename R::Value* to, typename R::Lane* to_at,
               const Shape& shape, std::index_sequence<K...>) {
  using V = typename R::Value;
  using L = typename R::Lane;
  const int64_t by = Step ? Step : shape.step, n = shape.n;
  for (int64_t row = shape.first; row < shape.rows; ++row) {
    const int64_t from = row * shape.from_pitch;
    const V* const v[] = {s[K].v + from...};
    V* __restrict acc = to + row * shape.to_pitch;
    if constexpr (!R::kOffsets) {
      POOLKIT_INDEPENDENT
      for (int64_t i = 0; i < n; ++i) {
        V best = Init ? v[0][i * by] : acc[i];
        ((best = Init && K == 0 ? best : R::combine(best, v[K][i * by])), ...);
        acc[i] = best;
      }
    } else {
      const L* const o[] = {(Sub ? s[K].at + from : nullptr)...};
      const L base[] = {L(s[K].base)...};
      L* __restrict at = to_at + row * shape.to_pitch;
      POOLKIT_INDEPENDENT
      for (int64_t i = 0; i < n; ++i) {
        V best = Init ? v[0][i * by] : acc[i];
        L tap = Init ? L((Sub ? o[0][i] : L(0)) + base[0]) : at[i];
        const auto meet = [&](V c, L c_tap) {
          const bool wins = beats(c, best);
          best = wins ? c : best;
          tap = wins ? c_tap : tap;
        };
        ((Init && K == 0 ? void() : meet(v[K][i * by], L((Sub ? o[K][i] : L(0)) + base[K]))), ...);
        acc[i] = best;
        at[i] = tap;
      }
    }
  }
}

template <class R, bool Sub, int Step, class F>
void fold_exactly(int64_t count, const F& source, typename R::Value* acc, typename R::Lane* at,
                  const Shape& shape) {
  // Strides above 2 are rare, one loop serves them all; 3 x 3 windows are common.
  constexpr int kMost = Step == 0 ? 1 : 4, kWhole = Step != 0 && !Sub ? 9 : kMost;
  Source<R> s[kWhole];
  for (int64_t done = 0; done < count;) {
    const int64_t left = count - done;
    const int some = done == 0 && left == kWhole ? kWhole : int(std::min<int64_t>(kMost, left));
    for (int k = 0; k < some; ++k) s[k] = source(done + k);
    const auto go = [&]<int N>() {
      if (done == 0)
        fold_some<R, true, Sub, Step>(s, acc, at, shape, std::make_index_sequence<N>());
      else if constexpr (N <= kMost)
        fold_some<R, false, Sub, Step>(s, acc, at, shape, std::make_index_sequence<N>());
    };
    if (some == 1) go.template operator()<1>();
    if constexpr (kMost > 1) {
      if (some == 2) go.template operator()<2>();
      if (some == 3) go.template operator()<3>();
      if (some == 4) go.template operator()<4>();
    }
    if constexpr (kWhole > kMost)
      if (some == kWhole) go.template operator()<kWhole>();
    done += some;
  }
}

// acc = source(0) combined with source(1) ... source(count - 1), in order, over all of `shape`.
// Sub: the sources carry offsets of their own.
template <class R, bool Sub, class F>
void fold(int64_t count, const F& source, typename R::Value* acc, typename R::Lane* at,
          Shape shape) {
  const auto run = [&](const Shape& s) {
    if (s.step == 1) return fold_exactly<R, Sub, 1>(count, source, acc, at, s);
    if constexpr (!Sub) {
      if (s.step == 2) return fold_exactly<R, false, 2>(count, source, acc, at, s);
      fold_exactly<R, false, 0>(count, source, acc, at, s);
    }
  };
  if (shape.rows == 1 || (shape.from_pitch == shape.n * shape.step && shape.to_pitch == shape.n)) {
    shape.n *= shape.rows, shape.rows = 1;  // rows without gaps are one long row
    return run(shape);
  }
  // Loops over whole registers alone are several times faster on short rows. So where a row may
  // spill into the next, which is written later, all rows but the last few are rounded up to
  // registers. (Not with more than four sources, when the accumulator may be read back.)
  constexpr int64_t kLanes = 64 / int64_t(sizeof(typename R::Value));
  // (Loads of every second value read one register ahead, so gcc leaves the last value to the
  // loop's end.)
  const int64_t spill = (kLanes - shape.n % kLanes) % kLanes + (shape.step == 2);
  if (shape.spills && spill > 0 && count <= 4 && shape.step <= 2) {
    const int64_t exact = std::max((spill + shape.to_pitch - 1) / shape.to_pitch,
                                   (spill * shape.step + shape.from_pitch - 1) / shape.from_pitch);
    if (exact < shape.rows) {
      Shape whole = shape;
      whole.n += spill;
      whole.rows -= exact;
      run(whole);
      shape.first = whole.rows;
    }
  }
  run(shape);
}

// ---- one long run of cells to one value
// -----------------------------------------------------------

// The tap that wins among n >= 1 cells: the last NaN, or else the first maximum. The first pass
// finds the greatest value in independent lanes, the second finds where it is.
template <class T>
int64_t winner(const T* p, int64_t n) {
  constexpr int kLanes = 64 / int(sizeof(T));
  T top[kLanes];
  Unsigned<sizeof(T)> nan[kLanes] = {};
  for (T& v : top) v = lowest<T>();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int k = 0; k < kLanes; ++k) {
      top[k] = beats(p[i + k], top[k]) ? p[i + k] : top[k];
      nan[k] |= Unsigned<sizeof(T)>(is_nan(p[i + k]));
    }
  bool any_nan = false;
  for (int k = 0; k < kLanes; ++k) any_nan |= nan[k] != 0;
  for (; i < n; ++i) {
    if (beats(p[i], top[0])) top[0] = p[i];
    any_nan |= is_nan(p[i]);
  }
  if (any_nan) {
    for (i = n - 1; !is_nan(p[i]);) --i;
    return i;
  }
  for (int k = 1; k < kLanes; ++k)
    if (beats(top[k], top[0])) top[0] = top[k];
  for (i = 0; beats(top[0], p[i]);) ++i;
  return i;
}

// The sum of n cells in independent lanes, which are added pairwise.
template <class T>
Wide<T> sum_run(const T* p, int64_t n) {
  using V = Wide<T>;
  using Lanes [[gnu::vector_size(64)]] = V;
  constexpr int kLanes = 64 / int(sizeof(V));
  Lanes sum{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Lanes more;
    if constexpr (std::is_same_v<T, V>)
      std::memcpy(&more, p + i, sizeof(more));
    else
      for (int k = 0; k < kLanes; ++k) more[k] = widen(p[i + k]);
    sum += more;
  }
  V rest{};
  for (; i < n; ++i) rest += widen(p[i]);
  V lane[kLanes];
  std::memcpy(lane, &sum, sizeof(sum));
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) lane[k] += lane[k + half];
  return lane[0] + rest;
}

}  // namespace poolkit
