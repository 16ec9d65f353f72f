// From the blocks that rows.h and lane_planes.h have reduced to where results go.
#pragma once

#include "result.h"
#include "rows.h"

namespace poolkit {

// Padding may tie with -inf, and then a tap of the padding may have come first: the first real tap
// takes its place.
template <class L>
L real_tap(const Window& w, int64_t d, int64_t h, int64_t i, L tap) {
  const int64_t tw = int64_t(tap) % w.w.kernel, th = int64_t(tap) / w.w.kernel % w.h.kernel;
  const int64_t td = int64_t(tap) / w.w.kernel / w.h.kernel;
  const auto real = [](const Axis& a, int64_t o, int64_t t) {
    return a.first(o) <= t && t < a.last(o);
  };
  if (real(w.w, i, tw) && real(w.h, h, th) && real(w.d, d, td)) return tap;
  return L(w.number(w.d.first(d), w.h.first(h), w.w.first(i)));
}

// (The result begins with value `origin`.)
template <class F, class T, class R, bool Exact>
void store_rows(const RowPool<T, R, Exact>& pool, const Block& b, const Result<F, T>& result,
                const Window& w, int64_t run, int64_t origin = 0) {
  using V = typename R::Value;
  using L = typename R::Lane;
  constexpr int N = kLanes<V>;
  const PlaneStarts starts{run, w.outputs()};
  const int64_t n = b.columns(), line = w.w.out;
  const bool whole = n == line && run == 1;
  const int64_t first = (b.d0 * w.h.out + b.h0) * line + b.w0;
  const int64_t end = starts[b.plane + b.planes - 1] + first +
                      ((b.h1 - b.h0 - 1) * line + n - 1) * run + 1 - origin;
  for (int64_t p = 0; p < b.planes; ++p) {
    int64_t from = p * pool.rows_per_plane() * pool.pitch();
    int64_t to = starts[b.plane + p] + first * run - origin;
    for (int64_t h = b.h0; h < b.h1; ++h, from += pool.pitch(), to += line * run) {
      V* const values = pool.values() + from;
      L* const taps = lane(pool.taps(), from);
      const int64_t stop = whole ? end : to + n;
      [[maybe_unused]] V row{};
      if constexpr (R::kSums)
        if (result.divisors) row = V(result.divisors->row(b.d0, h));
      if constexpr (R::kOffsets && Exact)
        for (int64_t i = 0; i < n; ++i)
          if (values[i] == lowest<V>()) taps[i] = real_tap(w, b.d0, h, b.w0 + i, taps[i]);
      if (run != 1) {
        for (int64_t i = 0; i < n; i += N) {
          Vec<V> v = load(values + i);
          if constexpr (R::kSums)
            if (result.divisors) v = result.divisors->row_quotients(v + Vec<V>{}, row, b.w0 + i);
          for (int64_t k = 0; k < std::min<int64_t>(N, n - i); ++k)
            result.y[to + (i + k) * run] = convert_back<T, V>(v[k]);
        }
      } else if (R::kSums && result.divisors) {
        store_row(values, n, result.y + to, result.y + stop, [&](T* p, int64_t i, const Vec<V>& v) {
          if constexpr (R::kSums)
            write<T, V>(p, result.divisors->row_quotients(v + Vec<V>{}, row, b.w0 + i));
        });
      } else {
        store_row(values, n, result.y + to, result.y + stop,
                  [](T* p, int64_t, const Vec<V>& v) { write<T, V>(p, v); });
      }
      if constexpr (R::kOffsets)
        result.offsets.template as<typename F::Offset>([&]<class O>(O* offsets) {
          if (run != 1)
            for (int64_t i = 0; i < n; ++i) offsets[to + i * run] = O(taps[i]);
          else
            store_row(taps, n, offsets + to, offsets + stop, [](O* p, int64_t, const Vec<L>& v) {
              for (int k = 0; k < N; ++k) p[k] = O(v[k]);
            });
        });
    }
  }
}

// Lanes [first, first + N) of the block's planes, from vectors back to planes.
template <class F, class T, class R, bool Exact>
void store_planes(const PlanePool<T, R, Exact>& pool, const Block& b, int64_t first,
                  const Result<F, T>& result, const Window& w, int64_t run) {
  using V = typename R::Value;
  using L = typename R::Lane;
  constexpr int N = kLanes<V>;
  const PlaneStarts starts{run, w.outputs()};
  const int64_t count = std::min<int64_t>(N, b.planes - first), columns = b.columns();
  int64_t start[N];
  for (int k = 0; k < N; ++k) start[k] = starts[b.plane + std::min(first + k, b.planes - 1)];
  // Rows that follow each other in memory go together.
  const bool whole = columns == w.w.out && (b.d1 - b.d0 == 1 || b.h1 - b.h0 == w.h.out);
  const int64_t n = whole ? b.rows() * columns : columns;
  int64_t cell = 0;
  for (int64_t d = b.d0; d < b.d1; ++d)
    for (int64_t h = b.h0; h < b.h1; ++h, cell += columns) {
      const int64_t corner = ((d * w.h.out + h) * w.w.out + b.w0) * run;
      scatter_planes(pool.values() + cell * N, count, n,
                     [&](int64_t k, int64_t c, const Vec<V>& v, int lanes) {
                       store_cells<T, V>(result.y + start[k] + corner + c * run, run, v, lanes);
                     });
      if constexpr (R::kOffsets)
        result.offsets.template as<typename F::Offset>([&]<class O>(O* offsets) {
          scatter_planes(pool.taps() + cell * N, count, n,
                         [&](int64_t k, int64_t c, const Vec<L>& v, int lanes) {
                           store_cells<O, L>(offsets + start[k] + corner + c * run, run, v, lanes);
                         });
        });
      if (whole) return;
    }
}

}  // namespace poolkit
