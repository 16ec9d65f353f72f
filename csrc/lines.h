// Lines of values combined into one, vector by vector: the one loop of blurs.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "cells.h"

namespace poolkit {

// Values one behind the other, and what they are multiplied by.
template <class S, class V>
struct Line {
  const S* at;
  V weight;
};

struct WeightedSum {
  template <class V>
  static Vec<V> first(const Vec<V>& v, V weight) {
    return v * weight;
  }
  template <class V>
  static Vec<V> next(const Vec<V>& sum, const Vec<V>& v, V weight) {
    return sum + v * weight;
  }
};

// The next vector, of which n values count; nothing is read from `end` on, if it is given.
template <class V, class S>
[[gnu::always_inline]] inline Vec<V> load_ending(const S* p, int64_t n, const S* end) {
  if (!end || end - p >= kLanes<V>) return load_as<V>(p);
  S some[kLanes<V>] = {};
  std::memcpy(some, p, size_t(std::min<int64_t>(n, kLanes<V>)) * sizeof(S));
  return load_as<V>(some);
}

// put(i, vector) of what the lines' values from `from` on give, n of them, at least one line.
// Vectors are `step` apart: N, or so much that each is of another cell; then there are whole ones
// only.
template <class Op, class V, class S, class Put>
void combine(const std::vector<Line<S, V>>& lines, int64_t from, int64_t n, const S* end,
             const Put& put, int64_t step = kLanes<V>) {
  constexpr int N = kLanes<V>;
  int64_t i = 0;
  const auto blocks = [&]<int U>() {
    for (; i + U * N <= n; i += U * N) {
      const int64_t at = from + i / N * step;
      Vec<V> v[U];
      POOLKIT_UNROLL
      for (int u = 0; u < U; ++u)
        v[u] = Op::first(load_as<V>(lines[0].at + at + u * step), lines[0].weight);
      for (size_t l = 1; l < lines.size(); ++l) POOLKIT_UNROLL
      for (int u = 0; u < U; ++u)
        v[u] = Op::next(v[u], load_as<V>(lines[l].at + at + u * step), lines[l].weight);
      POOLKIT_UNROLL
      for (int u = 0; u < U; ++u) put(i + u * N, v[u]);
    }
  };
  blocks.template operator()<4>();
  blocks.template operator()<1>();
  if (i == n) return;
  Vec<V> v = Op::first(load_ending<V>(lines[0].at + from + i, n - i, end), lines[0].weight);
  for (size_t l = 1; l < lines.size(); ++l)
    v = Op::next(v, load_ending<V>(lines[l].at + from + i, n - i, end), lines[l].weight);
  put(i, v);
}

// Where combine() puts n values: whole vectors, but nothing from `end` on.
template <class T, class V>
struct Sink {
  T* to;
  int64_t n;
  const T* end;

  [[gnu::always_inline]] void operator()(int64_t i, const Vec<V>& v) const {
    if (end - (to + i) >= kLanes<V>)
      write<T, V>(to + i, v);
    else
      write_some<T, V>(to + i, v, std::min<int64_t>(kLanes<V>, n - i));
  }
};

// Into a buffer with room for a vector more.
template <class V>
struct Staged {
  V* to;

  void operator()(int64_t i, const Vec<V>& v) const { store(to + i, v); }
};

// Into one vector of each of cells that are `step` apart.
template <class T, class V>
struct Strided {
  T* to;
  int64_t step;

  void operator()(int64_t i, const Vec<V>& v) const { write<T, V>(to + i / kLanes<V> * step, v); }
};

// Calls f(c) for the vectors of a run of at least one.
template <class V, class F>
void for_vectors(int64_t run, const F& f) {
  for (int64_t c = 0; c < run; c += kLanes<V>) {
    c = std::min(c, run - kLanes<V>);  // the last overlaps the one before
    f(c);
  }
}

// Runs of fewer vectors are worked through vector by vector, and longer ones cell by cell.
constexpr int64_t kFewVectors = 4;

}  // namespace poolkit
