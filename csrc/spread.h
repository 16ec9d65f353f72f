// Backward of averages of stride 2 or 4 over contiguous planes: gradients go back along whole rows.
//
// clang-format off
//   outputs      o p q r ...        stride 2, kernel 3, a cell of padding:
//   cells      a b c d e f ...      a, c, e are held by one output, o, p, q,
//                                   b, d by two, o + p, p + q
// clang-format on
//
// A plane of gradients is divided once, into rows with zeros before and behind them. What a row of
// cells gets is the sum of the few rows of outputs that hold it, at most three vectors that begin
// an output apart; its cells are one of these or the sum of two, by their number modulo the stride.
// So vectors are interleaved and stored as they lie, and nothing is transposed.
#pragma once

#include <algorithm>
#include <vector>

#include "backward.h"
#include "divisors.h"

namespace poolkit {

// Whether rows are long enough, for sums of type V, to pay for what each costs.
template <class V>
bool spreads(const Window& w, int64_t planes) {
  const auto plain = [](const Axis& a) {
    return !a.adaptive() && a.dilation == 1 && a.kernel <= 2 * a.stride;
  };
  const Axis& a = w.w;
  return plain(w.d) && plain(w.h) && plain(a) && (a.stride == 2 || a.stride == 4) &&
         a.before < a.kernel && 2 * a.out >= 5 * kLanes<V> && planes >= 16;
}

template <class T>
class Spread {
  using V = Wide<T>;
  static constexpr int N = kLanes<V>;

 public:
  // `planes` of any axes.
  Spread(const T* g, T* out, const Window& w, int64_t planes)
      : g_(g),
        out_(out),
        w_(w),
        planes_(planes),
        divisors_(w),
        vectors_(((w.w.size + w.w.stride - 1) / w.w.stride + N - 1) / N),
        pitch_((std::max(w.w.out, vectors_ * N + w.w.before / w.w.stride + 1) / N + 3) * N),
        depths_(held(w.d)),
        heights_(held(w.h)) {
    for (int64_t d = 0; d < w.d.out; ++d)
      for (int64_t h = 0; h < w.h.out; ++h) row_divisors_.push_back(V(divisors_.row(d, h)));
  }

  void operator()() const {
    const int64_t rows = w_.d.out * w_.h.out;
    parallel(planes_, w_.cells() + w_.outputs(), [&](int64_t plane, int64_t stop) {
      Buffer<V> divided(rows * pitch_ + N);
      std::fill_n(divided.get(), rows * pitch_ + N, V(0));
      const T* const end = out_ + stop * w_.cells();
      for (; plane < stop; ++plane) {
        divide(plane, divided.get() + N);
        T* const to = out_ + plane * w_.cells();
        if (w_.w.stride == 2)
          w_.w.before % 2 ? add<2, 1>(divided.get() + N, to, end)
                          : add<2, 0>(divided.get() + N, to, end);
        else if (w_.w.before % 4 < 2)
          w_.w.before % 4 ? add<4, 1>(divided.get() + N, to, end)
                          : add<4, 0>(divided.get() + N, to, end);
        else
          w_.w.before % 4 == 3 ? add<4, 3>(divided.get() + N, to, end)
                               : add<4, 2>(divided.get() + N, to, end);
      }
    });
  }

 private:
  // The outputs that hold a cell of an axis: at most two.
  struct Held {
    int count = 0;
    int64_t at[2] = {};
  };

  static std::vector<Held> held(const Axis& a) {
    std::vector<Held> all(size_t(a.size));
    for (int64_t c = 0; c < a.size; ++c)
      for_holders(a, c,
                  [&, &one = all[size_t(c)]](int64_t o, int64_t) { one.at[one.count++] = o; });
    return all;
  }

  // What stands around the rows stays zero.
  void divide(int64_t plane, V* to) const {
    const T* from = g_ + plane * w_.outputs();
    const int64_t n = w_.w.out;
    Vec<V> number{};
    for (int k = 0; k < N; ++k) number[k] = V(k);
    for (const V row : row_divisors_) {
      int64_t i = 0;
      for (; i + N <= n; i += N)
        store(to + i, divisors_.row_quotients(load_as<V>(from + i), row, i));
      if (i < n) {
        // What follows the row counts as 0, which stays 0.
        const bool last = from + i + N > g_ + planes_ * w_.outputs();
        T copy[N] = {};
        if (last) std::copy_n(from + i, n - i, copy);
        const Vec<V> v = load_as<V>(last ? copy : from + i);
        const Vec<V> real = number < splat(V(n - i)) ? v : Vec<V>{};
        store(to + i, divisors_.row_quotients(real, row, i));
      }
      from += n, to += pitch_;
    }
  }

  // What a vector spills over the end of a row is written again by the rows that follow.
  template <int S, int Before>
  void add(const V* divided, T* to, const T* end) const {
    const V* rows[4];
    for (int64_t d = 0; d < w_.d.size; ++d)
      for (int64_t h = 0; h < w_.h.size; ++h, to += w_.w.size) {
        const Held &depth = depths_[size_t(d)], &height = heights_[size_t(h)];
        int count = 0;
        for (int k = 0; k < depth.count; ++k)
          for (int j = 0; j < height.count; ++j)
            rows[count++] =
                divided + (depth.at[k] * w_.h.out + height.at[j]) * pitch_ + w_.w.before / S;
        if (count == 1)
          add_row<S, Before, 1>(rows, to, end);
        else if (count == 2)
          add_row<S, Before, 2>(rows, to, end);
        else if (count == 4)
          add_row<S, Before, 4>(rows, to, end);
        else
          std::fill_n(to, w_.w.size, T{});
      }
  }

  template <int S, int Before, int Rows>
  void add_row(const V* const (&rows)[4], T* to, const T* end) const {
    const int64_t kernel = w_.w.kernel;
    for (int64_t j = 0; j < vectors_; ++j) {
      // Cell S * k + m is held by output k + shift, by tap r, and by the one before if tap r + S
      // is one.
      const auto sum = [&](int shift) __attribute__((always_inline)) {
        Vec<V> all = Vec<V>{} + load(rows[0] + j * N + shift);
        POOLKIT_UNROLL
        for (int r = 1; r < Rows; ++r) all += load(rows[r] + j * N + shift);
        return all;
      };
      const Vec<V> previous = Before + S < kernel ? sum(-1) : Vec<V>{};
      const Vec<V> own = sum(0);
      Vec<V> next{};
      if constexpr (Before > 0) next = sum(1);
      Vec<V> cells[S];
      POOLKIT_UNROLL
      for (int m = 0; m < S; ++m) {
        const int r = (m + Before) % S;
        const bool late = m + Before >= S;
        cells[m] = r < kernel ? late ? next : own : Vec<V>{};
        if (r + S < kernel) cells[m] = (late ? own : previous) + cells[m];
      }
      POOLKIT_UNROLL
      for (int part = 0; part < S; ++part) {
        const int64_t at = (S * j + part) * N;
        if (at >= w_.w.size) break;
        Vec<V> v;
        if constexpr (S == 2) {
          v = interleaved<V>(cells[0], cells[1], part);
        } else {
          const Vec<V> even = interleaved<V>(cells[0], cells[2], part / 2);
          const Vec<V> odd = interleaved<V>(cells[1], cells[3], part / 2);
          v = interleaved<V>(even, odd, part % 2);
        }
        if (end - to - at >= N)
          store_as<T, V>(to + at, v);
        else
          write_some<T, V>(to + at, v, std::min<int64_t>(N, w_.w.size - at));
      }
    }
  }

  const T* const g_;
  T* const out_;
  const Window& w_;
  const int64_t planes_;
  const Divisors<V> divisors_;
  const int64_t vectors_, pitch_;
  const std::vector<Held> depths_, heights_;
  std::vector<V> row_divisors_;
};

}  // namespace poolkit
