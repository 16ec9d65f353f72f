// Reductions: what becomes of the cells of a window.
//
// The schemes (rows.h, lanes.h) apply a reduction to whole vectors of windows at once. Here are
// also the two loops for a window that is itself a long run of cells, as in global pooling.
#pragma once

#include <algorithm>
#include <cstring>
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

// ---- one long run of cells to one value ----

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

// The same for cells that are `step` apart.
template <class T>
int64_t winner(const T* p, int64_t n, int64_t step) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; ++i)
    if (beats(p[i * step], p[best * step])) best = i;
  return best;
}

// The sum of n cells in as many independent lanes as 64 bytes hold, which are added pairwise.
template <class T>
Wide<T> sum_run(const T* p, int64_t n) {
  using V = Wide<T>;
  constexpr int N = kLanes<V>, kAll = 64 / int(sizeof(V)), kVectors = kAll / N;
  Vec<V> sum[kVectors] = {};
  int64_t i = 0;
  for (; i + kAll <= n; i += kAll) {
    POOLKIT_UNROLL
    for (int u = 0; u < kVectors; ++u) sum[u] += load_as<V>(p + i + u * N);
  }
  V rest{};
  for (; i < n; ++i) rest += widen(p[i]);
  V lane[kAll];
  std::memcpy(lane, sum, sizeof(sum));
  for (int half = kAll / 2; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) lane[k] += lane[k + half];
  return lane[0] + rest;
}

// The sums of as many runs of n cells, one after the other, as a vector has lanes. Each is added up
// in independent lanes, and a transposition adds these for all runs at once. Cells are read Parts
// vectors at a time, and n is at least that.
template <int Parts, class T>
void sum_runs_by(const T* p, int64_t n, int64_t count, Wide<T>* sums) {
  using V = Wide<T>;
  constexpr int N = kLanes<V>, kStep = Parts * N;
  // The last step of a run overlaps the one before: of it only the cells that are new count.
  const int64_t old = (kStep - n % kStep) % kStep;
  decltype(Vec<V>{} != Vec<V>{}) fresh[Parts] = {};
  for (int k = 0; k < kStep; ++k) fresh[k % Parts][k / Parts] = -(k >= old);
  Vec<V> total[N];
  POOLKIT_UNROLL
  for (int k = 0; k < N; ++k) {
    const T* const from = p + std::min<int64_t>(k, count - 1) * n;
    Vec<V> sum[Parts] = {}, cells[Parts];
    int64_t i = 0;
    if (n >= 16 * N) {  // long runs: four chains of additions
      Vec<V> more[4] = {};
      for (; i + 4 * N <= n; i += 4 * N)
        for (int c = 0; c < 4; c += Parts) {
          load_parts<V>(from + i + c * N, cells);
          for (int a = 0; a < Parts; ++a) more[c + a] += cells[a];
        }
      sum[0] = (more[0] + more[1]) + (more[2] + more[3]);
    }
    for (; i + kStep <= n; i += kStep) {
      load_parts<V>(from + i, cells);
      for (int a = 0; a < Parts; ++a) sum[a] += cells[a];
    }
    if (old > 0) {
      load_parts<V>(from + n - kStep, cells);
      for (int a = 0; a < Parts; ++a) sum[a] += fresh[a] ? cells[a] : Vec<V>{};
    }
    total[k] = sum[0];
    for (int a = 1; a < Parts; ++a) total[k] += sum[a];
  }
  transpose<V>(total);
  for (int half = N / 2; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) total[k] += total[k + half];
  store(sums, total[0]);
}

// The same, by as many parts as are quick; n is at least a vector.
template <class T>
void sum_runs(const T* p, int64_t n, int64_t count, Wide<T>* sums) {
  if constexpr (std::is_same_v<T, BFloat16>)
    if (n >= 2 * kLanes<float>) return sum_runs_by<2>(p, n, count, sums);
  sum_runs_by<1>(p, n, count, sums);
}

}  // namespace poolkit
