// Planes as lanes: contiguous planes become what channels-last cells are, in cache.
//
// Planes too small for long rows are taken as many at a time as a register has lanes, and
// transposed, so that one load has the same cell of all of them; pooled by lanes.h; and transposed
// back.
//
//   plane 0   a0 b0 c0 d0 ...            a0 a1 a2 a3   cell a of planes 0-3
//   plane 1   a1 b1 c1 d1 ...    --->    b0 b1 b2 b3
//   plane 2   a2 b2 c2 d2 ...            c0 c1 c2 c3
//   plane 3   a3 b3 c3 d3 ...            d0 d1 d2 d3
#pragma once

#include <algorithm>

#include "lanes.h"

namespace poolkit {

// The planes of a tensor: contiguous ones (`run` == 1), or the channels of a channels-last one.
struct PlaneStarts {
  int64_t run, values;  // values of one plane

  int64_t operator[](int64_t plane) const { return plane / run * values * run + plane % run; }
};

// `n` cells, `step` apart, of as many planes as there are lanes, to vectors of the same cell of all
// of them, `pitch` apart; values from `end` on must not be read. Returns whether there was anything
// special among them, if they are Watched.
template <bool Watched, class T, class V>
bool gather_planes(const T* const (&plane)[kLanes<V>], int64_t step, int64_t n, const T* end, V* to,
                   int64_t pitch = kLanes<V>) {
  constexpr int N = kLanes<V>;
  if (n <= 0) return false;  // an empty tensor has no address
  WatchedCells<V, T> watch;
  const auto get = [&](const T* p) __attribute__((always_inline)) {
    if constexpr (kKeys<V, T>)
      return watch.keys.read(p);
    else
      return load_as<V>(p);
  };
  const auto look = [&](const Vec<V>(&rows)[N]) __attribute__((always_inline)) {
    if constexpr (Watched) {
      POOLKIT_UNROLL
      for (int k = 0; k < N; k += 2) watch.unordered(rows[k], rows[k + 1]);
    }
  };
  if (step != 1) {
    for (int64_t c = 0; c < n; ++c) {
      T some[N];
      for (int k = 0; k < N; ++k) some[k] = plane[k][c * step];
      const Vec<V> v = get(some);
      if constexpr (Watched) watch.unordered(v, v);
      store(to + c * pitch, v);
    }
    return Watched && watch.any();
  }
  if (n < N) {
    Vec<V> rows[N];
    for (int k = 0; k < N; ++k) {
      if (end - plane[k] >= N) {
        rows[k] = get(plane[k]);
      } else {
        T some[N] = {};
        std::memcpy(some, plane[k], size_t(n) * sizeof(T));
        rows[k] = get(some);
      }
    }
    look(rows);
    transpose<V>(rows);
    for (int64_t k = 0; k < n; ++k) store(to + k * pitch, rows[k]);
    return Watched && watch.any();
  }
  for (int64_t c = 0; c < n; c += N) {
    c = std::min(c, n - N);  // the last square overlaps the one before
    Vec<V> rows[N];
    POOLKIT_UNROLL
    for (int k = 0; k < N; ++k) rows[k] = get(plane[k] + c);
    look(rows);
    transpose<V>(rows);
    POOLKIT_UNROLL
    for (int k = 0; k < N; ++k) store(to + (c + k) * pitch, rows[k]);
  }
  return Watched && watch.any();
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
        // (Of few planes other schemes take windows one by one: a sum must come out the same.)
        pool_(w, N, divisors, !R::kSums) {}

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
        constexpr bool kWatched = !Exact && !R::kSums;
        const bool special = gather_planes<kWatched, T, V>(
            plane, run, n, end_, in + (s - d.low) * slice + (r - h.low) * row);
        if (special) return false;
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
