// Windows that are long runs of cells by themselves, as in global pooling: each is reduced alone.
//
// The cells of a run fill whole registers, so a vector holds neighbours of one window, and every
// lane reduces its part of it: some independent chains, and at the end lane by lane. A maximum is
// watched for what plain comparisons get wrong while it is found (one_window.h); where its place is
// wanted, or the sign of a zero, the run is searched for the first cell that equals it.
#pragma once

#include <algorithm>
#include <cstring>

#include "one_window.h"
#include "result.h"
#include "tensor.h"

namespace poolkit {

// ---- one run of cells to one value ----

// The type in which the cells of a run are compared.
template <class T>
using Compared = std::conditional_t<is_half<T>, int16_t, T>;

// The value and the tap that win among cells: the last NaN, or else the first maximum.
template <class T>
struct Winner {
  T value;
  int64_t tap;
};

// Of n >= 1 cells that are `step` apart.
template <class T>
Winner<T> winner_at_steps(const T* p, int64_t n, int64_t step) {
  Winner<T> best{p[0], 0};
  for (int64_t i = 1; i < n; ++i)
    if (beats(p[i * step], best.value)) best = {p[i * step], i};
  return best;
}

// The maximum of n cells, at least a vector of them, by the plain rule.
template <class T>
Compared<T> plain_maximum(const T* p, int64_t n, SeenOf<Compared<T>, T>& seen) {
  using V = Compared<T>;
  constexpr int N = kLanes<V>, kChains = 4;
  constexpr bool kAdds = std::is_floating_point_v<V>;
  const auto get = [&](const T* from) __attribute__((always_inline)) {
    if constexpr (kKeys<V, T>)
      return seen.read(from);
    else
      return load(from);
  };
  Vec<V> top[kChains];
  int64_t i = 0;
  const auto meet = [&](const T* from, Vec<V>& best) __attribute__((always_inline)) {
    const Vec<V> v = get(from);
    if constexpr (kAdds) seen.sum += v;
    best = greater<V>(v, best);
  };
  if (n >= kChains * N) {
    POOLKIT_UNROLL
    for (int k = 0; k < kChains; ++k) top[k] = splat(lowest<V>());
    for (; i + kChains * N <= n; i += kChains * N) {
      Vec<V> cells[kChains];
      POOLKIT_UNROLL
      for (int k = 0; k < kChains; ++k) {
        cells[k] = get(p + i + k * N);
        top[k] = greater<V>(cells[k], top[k]);
      }
      if constexpr (kAdds) seen.sum += (cells[0] + cells[1]) + (cells[2] + cells[3]);
    }
    top[0] = greater<V>(greater<V>(top[0], top[1]), greater<V>(top[2], top[3]));
  } else {
    top[0] = get(p);
    if constexpr (kAdds) seen.sum += top[0];
    i = N;
  }
  for (; i + N <= n; i += N) meet(p + i, top[0]);
  if (i < n) meet(p + n - N, top[0]);  // the last vector overlaps the one before
  return greatest_lane<V>(top[0]);
}

// The first of n cells that equals `top`; one does. (Numbers of half types are equal if bits are.)
template <class T>
int64_t first_equal(const T* p, int64_t n, T top) {
  using V = Compared<T>;
  constexpr int N = kLanes<V>;
  const auto lane = [&](int64_t i) {
    Vec<V> cells;
    std::memcpy(&cells, p + i, sizeof(cells));
    return first_lane(cells == splat(V(top)));
  };
  int64_t i = 0;
  for (; i + N <= n; i += N)
    if (const int k = lane(i); k < N) return i + k;
  return n - N + std::min(lane(n - N), N - 1);
}

// Of n cells for which the plain rule is not enough.
template <class T>
Winner<T> exact_winner(const T* p, int64_t n) {
  for (int64_t i = n; i-- > 0;)
    if (is_nan(p[i])) return {p[i], i};
  if constexpr (is_half<T>) {
    int16_t top = INT16_MIN;
    for (int64_t i = 0; i < n; ++i) top = std::max(top, order_key(p[i]));
    int64_t at = 0;
    while (order_key(p[at]) != top) ++at;
    return {p[at], at};
  }
  return winner_at_steps(p, n, 1);
}

// Of n cells one after the other. (Its tap is 0 if nobody asks for it.)
template <bool Tap, class T>
Winner<T> winner_of_run(const T* p, int64_t n) {
  using V = Compared<T>;
  if (n < kLanes<V>) return winner_at_steps(p, n, 1);
  SeenOf<V, T> seen;
  const V top = plain_maximum(p, n, seen);
  bool special;
  if constexpr (kKeys<V, T>)
    special = any(seen.template lanes<T>());
  else
    special = seen.any();
  if (special) return exact_winner(p, n);
  const T value = convert_back<T>(top);
  const bool zero = std::is_floating_point_v<V> && top == V(0);  // of either sign
  if (!Tap && !zero) return {value, 0};
  const int64_t at = first_equal(p, n, value);
  return {p[at], at};
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
  // (Of short runs, 64 bytes at a time cross a line each, and the last of them are mostly old.)
  constexpr int64_t kLeast = (kVectorBytes == 64 ? 8 : 2) * kLanes<float>;
  if constexpr (std::is_same_v<T, BFloat16>)
    if (n >= kLeast) return sum_runs_by<2>(p, n, count, sums);
  sum_runs_by<1>(p, n, count, sums);
}

// ---- every window of a tensor ----

// Windows of long runs, and those whose taps no lane can number: window by window, cell by cell
// along the row.
template <class F, class T>
void forward_long(const T* x, const Result<F, T>& result, const Window& w, int64_t planes,
                  int64_t run) {
  using R = typename F::Plain;
  const int64_t rows = w.d.out * w.h.out, step = w.w.dilation * run;
  const int64_t cost = w.w.size;
  parallel(planes * rows * run, cost, [&](int64_t item, int64_t stop) {
    for (; item < stop; ++item) {
      const int64_t line = item / run, channel = item % run;
      const int64_t plane = line / rows, d = line % rows / w.h.out, h = line % w.h.out;
      const T* const cells = x + plane * w.cells() * run + channel;
      for (int64_t i = 0; i < w.w.out; ++i) {
        const int64_t first = w.w.first(i), taps = w.w.last(i) - first;
        const int64_t start = w.w.start(i) + first * w.w.dilation;
        const int64_t to = (line * w.w.out + i) * run + channel;
        [[maybe_unused]] typename F::V sum{};
        [[maybe_unused]] Winner<T> best{};
        [[maybe_unused]] bool found = false;
        for (int64_t td = w.d.first(d); td < w.d.last(d); ++td)
          for (int64_t th = w.h.first(h); th < w.h.last(h); ++th) {
            if (taps <= 0) continue;
            const int64_t row =
                (w.d.start(d) + td * w.d.dilation) * w.h.size + w.h.start(h) + th * w.h.dilation;
            const T* const p = cells + (row * w.w.size + start) * run;
            if constexpr (R::kSums) {
              sum += sum_run(p, taps);
            } else {
              const Winner<T> of_row =
                  step == 1 ? winner_of_run<R::kOffsets>(p, taps) : winner_at_steps(p, taps, step);
              if (found && !beats(of_row.value, best.value)) continue;
              found = true;
              best = {of_row.value, w.number(td, th, first + of_row.tap)};
            }
          }
        if constexpr (R::kSums) {
          result.y[to] =
              result.divisors ? quotient<T>(sum, (*result.divisors)(d, h, i)) : narrow<T>(sum);
        } else {
          result.y[to] = best.value;
          if constexpr (R::kOffsets)
            result.offsets.template as<typename F::Offset>(
                [&]<class O>(O* offsets) { offsets[to] = O(best.tap); });
        }
      }
    }
  });
}

// Global maxima of contiguous planes.
template <class F, class T>
void forward_global_maxima(const T* x, const Result<F, T>& result, const Window& w,
                           int64_t planes) {
  constexpr bool kOffsets = F::Plain::kOffsets;
  const int64_t n = w.w.size;
  parallel(planes, n / 4, [&](int64_t plane, int64_t stop) {
    for (; plane < stop; ++plane) {
      const Winner<T> best = winner_of_run<kOffsets>(x + plane * n, n);
      result.y[plane] = best.value;
      if constexpr (kOffsets)
        result.offsets.template as<typename F::Offset>(
            [&]<class O>(O* offsets) { offsets[plane] = O(best.tap); });
    }
  });
}

// Global sums of contiguous planes.
template <class F, class T>
void forward_global_sums(const T* x, const Result<F, T>& result, const Window& w, int64_t planes) {
  using V = typename F::V;
  constexpr int N = kLanes<V>;
  const int64_t n = w.w.size, groups = (planes + N - 1) / N;
  const int64_t divisor = result.divisors ? (*result.divisors)(0, 0, 0) : 1;
  parallel(groups, n * N / 4, [&](int64_t group, int64_t stop) {
    for (; group < stop; ++group) {
      const int64_t first = group * N, count = std::min<int64_t>(N, planes - first);
      V sums[N] = {};
      if (n >= N)
        sum_runs(x + first * n, n, count, sums);
      else
        for (int64_t k = 0; k < count; ++k) sums[k] = sum_run(x + (first + k) * n, n);
      Vec<V> all = load(sums);
      if (result.divisors) all = result.divisors->quotients(all, V(divisor));
      if (count == N)
        write<T, V>(result.y + first, all);
      else
        write_some<T, V>(result.y + first, all, count);
    }
  });
}

}  // namespace poolkit
