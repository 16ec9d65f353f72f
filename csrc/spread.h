// Backward of averages of stride 2 or 4 over contiguous planes: gradients go back along whole rows.
//
// clang-format off
//   outputs      o p q r ...        stride 2, kernel 3, a cell of padding:
//   cells      a b c d e f ...      a, c, e are held by one output, o, p, q,
//                                   b, d by two, o + p, p + q
// clang-format on
//
// Gradients are divided once, into rows with zeros before and behind them. The outputs of a row
// that hold every second, or every fourth, cell are neighbours: a vector of such cells adds at most
// two vectors of each row of outputs that holds it, in row-major order. Then vectors are
// interleaved and stored as they lie, and nothing is transposed.
#pragma once

#include <algorithm>
#include <vector>

#include "adjoint.h"

namespace poolkit {

// Whether rows are long enough, for sums of type V, to pay for what each costs.
template <class V>
bool spreads(const Window& w) {
  const auto plain = [](const Axis& a) {
    return !a.adaptive() && a.dilation == 1 && a.kernel <= 2 * a.stride;
  };
  const Axis& a = w.w;
  return plain(w.d) && plain(w.h) && plain(a) && (a.stride == 2 || a.stride == 4) &&
         a.before < a.kernel && 2 * a.out >= 5 * kLanes<V>;
}

template <class T>
class Spread {
  using V = Wide<T>;
  static constexpr int N = kLanes<V>;

 public:
  Spread(const T* g, T* out, const Window& w, int64_t planes)
      : g_(g),
        out_(out),
        w_(w),
        planes_(planes),
        divisors_(w),
        vectors_(((w.w.size + w.w.stride - 1) / w.w.stride + N - 1) / N),
        pitch_((std::max(w.w.out, vectors_ * N + w.w.before / w.w.stride + 1) / N + 3) * N) {
    depths_.find(w.d, 0, w.d.size), heights_.find(w.h, 0, w.h.size);
    for (int64_t d = 0; d < w.d.out; ++d)
      for (int64_t h = 0; h < w.h.out; ++h) row_divisors_.push_back(V(divisors_.row(d, h)));
  }

  // Shares out planes, and where these are few their slices, or rows.
  void operator()() const {
    const bool deep = w_.d.size > 1;
    const Axis& outer = deep ? w_.d : w_.h;
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t most = std::max<int64_t>(1, outer.size / (4 * outer.kernel));
    const int64_t parts = std::clamp<int64_t>(4 * threads / planes_, 1, most);
    const int64_t part = (outer.size + parts - 1) / parts;
    parallel(planes_ * parts, (w_.cells() + w_.outputs()) / parts, [&](int64_t item, int64_t stop) {
      Buffer<V> divided;
      for (; item < stop; ++item) {
        const int64_t begin = std::min(outer.size, item % parts * part);
        const int64_t end = std::min(outer.size, begin + part);
        if (begin == end) continue;
        Block b{item / parts, 1, 0, w_.d.size, 0, w_.h.size, 0, w_.w.size};
        (deep ? b.d0 : b.h0) = begin, (deep ? b.d1 : b.h1) = end;
        spread(b, divided);
      }
    });
  }

 private:
  // The gradients of a block of whole rows of cells.
  void spread(const Block& b, Buffer<V>& divided) const {
    const auto [d_low, d_high] = outputs_of(w_.d, b.d0, b.d1);
    const auto [h_low, h_high] = outputs_of(w_.h, b.h0, b.h1);
    const int64_t all = (d_high - d_low) * (h_high - h_low) * pitch_ + N;
    V* const rows = divided.reserve(all) + N;
    std::fill_n(divided.get(), all, V(0));
    V* to = rows;
    for (int64_t d = d_low; d < d_high; ++d)
      for (int64_t h = h_low; h < h_high; ++h, to += pitch_) divide(b.plane, d, h, to);
    // That of output row (d, h) is rows + (d * height + h) * pitch - corner.
    const int64_t height = h_high - h_low, corner = (d_low * height + h_low) * pitch_;
    const V* const shifted = rows + w_.w.before / w_.w.stride;
    const auto add = [&]<int S, int Before>() { add_rows<S, Before>(b, shifted, height, corner); };
    const int64_t phase = w_.w.before % w_.w.stride;
    if (w_.w.stride == 2)
      phase ? add.template operator()<2, 1>() : add.template operator()<2, 0>();
    else if (phase < 2)
      phase ? add.template operator()<4, 1>() : add.template operator()<4, 0>();
    else
      phase == 3 ? add.template operator()<4, 3>() : add.template operator()<4, 2>();
  }

  // What stands around the row stays zero.
  void divide(int64_t plane, int64_t d, int64_t h, V* to) const {
    const int64_t n = w_.w.out, number = d * w_.h.out + h;
    const T* const from = g_ + plane * w_.outputs() + number * n;
    const V row = row_divisors_[size_t(number)];
    int64_t i = 0;
    for (; i + N <= n; i += N) store(to + i, divisors_.row_quotients(load_as<V>(from + i), row, i));
    if (i == n) return;
    // What follows the row counts as 0, which stays 0.
    const bool last = from + i + N > g_ + planes_ * w_.outputs();
    T copy[N] = {};
    if (last) std::copy_n(from + i, n - i, copy);
    const Vec<V> v = load_as<V>(last ? copy : from + i);
    Vec<V> lanes{};
    for (int k = 0; k < N; ++k) lanes[k] = V(k);
    const Vec<V> real = lanes < splat(V(n - i)) ? v : Vec<V>{};
    store(to + i, divisors_.row_quotients(real, row, i));
  }

  // What a vector spills over the end of a row is written again by the rows that follow.
  template <int S, int Before>
  void add_rows(const Block& b, const V* divided, int64_t height, int64_t corner) const {
    const int64_t line = w_.w.size;
    const auto place = [&](int64_t d, int64_t h) {
      return out_ + b.plane * w_.cells() + (d * w_.h.size + h) * line;
    };
    const T* const end = place(b.d1 - 1, b.h1 - 1) + line;
    const V* rows[4];
    for (int64_t d = b.d0; d < b.d1; ++d)
      for (int64_t h = b.h0; h < b.h1; ++h) {
        int count = 0;
        for (const Holder* z = depths_.begin(d); z < depths_.end(d); ++z)
          for (const Holder* y = heights_.begin(h); y < heights_.end(h); ++y)
            rows[count++] = divided + ((z->output * height + y->output) * pitch_ - corner);
        T* const to = place(d, h);
        if (count == 1)
          add_row<S, Before, 1>(rows, to, end);
        else if (count == 2)
          add_row<S, Before, 2>(rows, to, end);
        else if (count == 4)
          add_row<S, Before, 4>(rows, to, end);
        else
          std::fill_n(to, line, T{});
      }
  }

  template <int S, int Before, int Rows>
  void add_row(const V* const (&rows)[4], T* to, const T* end) const {
    const int64_t kernel = w_.w.kernel;
    for (int64_t j = 0; j < vectors_; ++j) {
      // Cell S * k + m is held by output k + shift, by tap t, and by the one before if tap t + S
      // is one.
      Vec<V> cells[S] = {};
      POOLKIT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const V* const from = rows[r] + j * N;
        const Vec<V> own = load(from);
        Vec<V> next{}, previous{};
        if constexpr (Before > 0) next = load(from + 1);
        if (Before + S < kernel) previous = load(from - 1);
        POOLKIT_UNROLL
        for (int m = 0; m < S; ++m) {
          const int t = (m + Before) % S;
          const bool late = m + Before >= S;
          if (t + S < kernel) cells[m] += late ? own : previous;
          if (t < kernel) cells[m] += late ? next : own;
        }
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
  Holders depths_, heights_;
  std::vector<V> row_divisors_;
};

}  // namespace poolkit
