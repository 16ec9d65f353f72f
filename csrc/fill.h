// Backward of windows that cut a plane into equal parts: each output fills its own cells.
//
// Cells are written in the order of memory, each once. Windows of two columns, contiguous: every
// row of cells is a row of outputs with each value doubled (average), or put where its offset says
// (maximum). Channels-last averages: the channels of an output, divided once, are copied to its
// cells; so is a global average.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include "ahead.h"
#include "cells.h"
#include "fresh.h"

namespace poolkit {

// (The stride of a single window says nothing.)
inline bool cuts(const Axis& a) {
  return a.whole() || (a.tiles() && a.kernel == a.stride && a.dilation == 1);
}
inline bool cuts(const Window& w) { return cuts(w.d) && cuts(w.h) && cuts(w.w); }

// v / divisor, and +0 for -0, as in a sum that begins with 0. For a power of two a product is the
// same to the bit, and takes a tenth of the time.
template <class V>
class Share {
 public:
  explicit Share(V divisor)
      : divisor_(divisor),
        inverse_(1 / divisor),
        exact_(std::scalbn(V(1), std::ilogb(divisor)) == std::abs(divisor)) {}
  [[gnu::always_inline]] Vec<V> operator()(const Vec<V>& v) const {
    return (exact_ ? v * inverse_ : v / divisor_) + Vec<V>{};
  }

 private:
  const V divisor_, inverse_;
  const bool exact_;
};

// put(output, n, row of taps, vector of g, even, odd) says what the two cells of n outputs get.
// What a vector spills over the end of a row is written again by the rows that follow.
template <class T, class Put>
void fill_pairs(const T* g, T* out, const Window& w, int64_t planes, const Put& put_pair) {
  using V = Wide<T>;
  constexpr int N = kLanes<V>;
  const bool far = is_far<T>(planes * w.outputs());
  const int64_t tall = w.h.kernel, last = planes * w.outputs();
  // The rows of cells of one row of outputs, slice by slice of cells.
  parallel(planes * w.d.size * w.h.out, 2 * tall * w.w.out, [=, &w](int64_t item, int64_t stop) {
    const int64_t n = w.w.out, rows = w.h.out;
    T* const end = out + stop * tall * 2 * n;
    T* to = out + item * tall * 2 * n;
    const Put put = put_pair;  // in registers: nothing else may point to it
    // Free: vectors may be read, and written, beyond the row.
    const auto fill_row = [&]<bool Free>(int64_t at, int64_t tap) __attribute__((always_inline)) {
      for (int64_t i = 0; i < n; i += N, at += N) {
        if (far) fetch<N>(g + at + kAheadBytes / int64_t(sizeof(T)));
        const T* from = g + at;
        T values[N];
        const bool inside = Free || at + N <= last;
        if (!inside) {
          std::fill_n(values, N, T{});
          std::copy_n(std::exchange(from, values), n - i, values);
        }
        Special<V> unused{};
        Vec<V> even, odd;
        put(at, inside ? N : n - i, tap, read<V>(from, unused), even, odd);
        POOLKIT_UNROLL
        for (int half = 0; half < 2; ++half) {
          T* const cells = to + 2 * i + half * N;
          if (Free || end - cells >= N)
            write<T, V>(cells, interleaved<V>(even, odd, half));
          else if (2 * (n - i) > half * N)
            write_some<T, V>(cells, interleaved<V>(even, odd, half),
                             std::min<int64_t>(N, 2 * (n - i) - half * N));
        }
      }
    };
    const int64_t spill = 2 * (n + N);
    for (int64_t h = item % rows; item < stop; h = 0) {
      const int64_t slice = item / rows, tap = slice % w.d.kernel * tall;
      int64_t at = slice / w.d.kernel * rows * n + h * n;
      for (; h < rows && item < stop; ++h, ++item, at += n)
        for (int64_t t = 0; t < tall; ++t, to += 2 * n) {
          if (end - to >= spill && at + n + N <= last)
            fill_row.template operator()<true>(at, tap + t);
          else
            fill_row.template operator()<false>(at, tap + t);
        }
    }
  });
}

template <class T, class Offset>
void fill_chosen_pairs(const T* g, const Offset* offsets, T* out, const Window& w, int64_t planes) {
  using V = Wide<T>;
  fill_pairs(g, out, w, planes,
             [=](int64_t at, int64_t n, int64_t tap, const Vec<V>& v, Vec<V>& even, Vec<V>& odd) {
               Offset some[kLanes<V>] = {};
               const Offset* from = offsets + at;
               if (n < kLanes<V>) std::copy_n(std::exchange(from, some), n, some);
               // (Sums begin with 0: -0 becomes +0.)
               even = Vec<V>{} + chosen<V>(from, Offset(2 * tap), v);
               odd = Vec<V>{} + chosen<V>(from, Offset(2 * tap + 1), v);
             });
}

template <class T>
void fill_shared_pairs(const T* g, T* out, const Window& w, int64_t planes, Wide<T> divisor) {
  using V = Wide<T>;
  fill_pairs(g, out, w, planes,
             [share = Share(divisor)](int64_t, int64_t, int64_t, const Vec<V>& v, Vec<V>& even,
                                      Vec<V>& odd) { even = odd = share(v); });
}

// The channels of one cell, at least a vector of them: those of its output, divided.
template <class T>
void fill_cell(const T* from, T* to, int64_t run, const Share<Wide<T>>& share) {
  using V = Wide<T>;
  constexpr int64_t N = kLanes<V>;
  int64_t k = 0;
  for (; k + 2 * N <= run; k += 2 * N) {
    if constexpr (std::is_same_v<T, BFloat16>) {
      Vec<V> parts[2];
      load_parts<V>(from + k, parts);
      parts[0] = share(parts[0]), parts[1] = share(parts[1]);
      store_parts<V>(to + k, parts);
    } else {
      const Vec<V> low = share(load_as<V>(from + k)), high = share(load_as<V>(from + k + N));
      store_as<T, V>(to + k, low), store_as<T, V>(to + k + N, high);
    }
  }
  for (; k < run; k += N) {
    k = std::min(k, run - N);  // the last vector overlaps the one before
    store_as<T, V>(to + k, share(load_as<V>(from + k)));
  }
}

constexpr int64_t kCopied = 4 << 10;  // bytes

// Channels-last: `run` channels, at least a vector of them.
template <class T>
void fill_channels(const T* g, T* out, const Window& w, int64_t planes, int64_t run,
                   Wide<T> divisor) {
  constexpr int64_t kFewCells = 4;  // to divide again takes less time than to copy
  const Share<Wide<T>> share(divisor);
  const int64_t width = w.w.size, wide = w.w.kernel;
  // Of long windows several cells are copied at a time.
  const int64_t most = std::clamp<int64_t>(kCopied / (run * int64_t(sizeof(T))), 1, wide / 4 + 1);
  parallel(planes * w.cells(), run, [&](int64_t cell, int64_t stop) {
    const Buffer<T> line(most * run);
    while (cell < stop) {
      const int64_t h = cell / width % w.h.size, slice = cell / width / w.h.size;
      const int64_t row = slice / w.d.kernel * w.h.out + h / w.h.kernel;
      const T* const from = g + row * w.w.out * run;
      for (int64_t c = cell % width, end = std::min(width, c + stop - cell); c < end;) {
        const int64_t output = c / wide, next = std::min(end, (output + 1) * wide);
        if (wide <= kFewCells) {
          for (; c < next; ++c, ++cell)
            fill_cell(from + output * run, out + cell * run, run, share);
          continue;
        }
        fill_cell(from + output * run, line.get(), run, share);
        const int64_t copies = std::min(most, next - c);
        for (int64_t i = 1; i < copies; ++i) std::copy_n(line.get(), run, line.get() + i * run);
        for (int64_t n; c < next; c += n, cell += n) {
          n = std::min(copies, next - c);
          copy_values<T>(line.get(), out + cell * run, n * run);
        }
      }
    }
  });
}

}  // namespace poolkit
