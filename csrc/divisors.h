// What becomes of a sum: an average, divided by a product of one count per axis, or a norm.
#pragma once

#include <algorithm>
#include <vector>

#include "simd.h"
#include "values.h"
#include "window.h"

namespace poolkit {

template <class T>
T quotient(Wide<T> sum, int64_t divisor) {
  if constexpr (std::is_same_v<T, int64_t>)
    // Two quotients trap: by 0 (a window without cells) and int64's least number by -1.
    return divisor == 0 ? 0 : divisor == -1 ? int64_t(-sum) : int64_t(sum) / divisor;
  else
    return narrow<T>(sum / Wide<T>(divisor));
}

// For sums of type V.
template <class V>
class Divisors {
 public:
  enum Root { kNone, kNorm };

  // kNorm: sums of squares become norms. One that the end of the input clips is scaled up to the
  // whole window, as torch does it; with a divisor of its own (1) none is.
  explicit Divisors(const Window& w, Root root = kNone)
      : w_(w), root_(root), taps_(V(w.divisor ? 1 : w.taps())) {
    factor_ = common_factor();
    if (factor_ != V(0) || w.w.out > kMost) return;
    columns_.assign(size_t(w.w.out + kLanes<V>), V(1));
    for (int64_t i = 0; i < w.w.out; ++i) columns_[size_t(i)] = V(column(i));
  }

  int64_t row(int64_t d, int64_t h) const {
    return w_.divisor ? w_.divisor : capped_product(count(w_.d, d), count(w_.h, h));
  }
  int64_t column(int64_t i) const { return w_.divisor ? 1 : count(w_.w, i); }
  int64_t operator()(int64_t d, int64_t h, int64_t i) const {
    return capped_product(row(d, h), column(i));
  }

  // Calls f(first, end, column divisor) for runs of outputs in [begin, end) with one divisor.
  template <class F>
  void for_columns(int64_t begin, int64_t end, const F& f) const {
    const int64_t inner = w_.w.inner_begin(), outer = w_.w.inner_end();
    for (int64_t i = begin; i < end;) {
      int64_t next = i + 1;
      if (w_.divisor)
        next = end;
      else if (!w_.w.adaptive() && inner <= i && i < outer)
        next = std::min(end, outer);
      f(i, next, column(i));
      i = next;
    }
  }

  // The averages of outputs i, i + 1, ... of a row with this divisor.
  [[gnu::always_inline]] Vec<V> row_quotients(const Vec<V>& sums, V row, int64_t i) const {
    if (factor_ != V(0)) return sums * splat(factor_);
    if (!columns_.empty()) return divide(sums, splat(row) * load(columns_.data() + i));
    Vec<V> counts{};
    for (int64_t k = 0; k < kLanes<V>; ++k) counts[k] = V(column(std::min(i + k, w_.w.out - 1)));
    return divide(sums, splat(row) * counts);
  }

  // 1 / d if every sum is divided by the same power of two, d: then that is a multiplication, to
  // the bit. Else 0.
  V factor() const { return factor_; }

  // What the sum of output i of a row is divided by, and many sums of one output.
  V divisor(V row, int64_t i) const {
    return row * (columns_.empty() ? V(column(i)) : columns_[size_t(i)]);
  }
  Vec<V> quotients(const Vec<V>& sums, V divisor) const { return divide(sums, splat(divisor)); }
  [[gnu::always_inline]] Vec<V> quotients(const Vec<V>& sums, const Vec<V>& divisors) const {
    return divide(sums, divisors);
  }

  // Divides the sums of outputs [begin, end) of row (d, h): `width` of each, at least a vector,
  // those of the next output `cell` further on.
  void divide_cells(V* sums, int64_t d, int64_t h, int64_t begin, int64_t end, int64_t cell,
                    int64_t width) const {
    const V divisor = V(row(d, h));
    for (int64_t i = begin; i < end; ++i, sums += cell) {
      const Vec<V> by = splat(V(divisor * V(column(i))));
      int64_t k = 0;
      for (; k + kLanes<V> <= width; k += kLanes<V>) store(sums + k, divide(load(sums + k), by));
      if (k < width) {
        // The last vector overlaps: what is divided already stays.
        V rest[kLanes<V>] = {};
        std::copy_n(sums + k, width - k, rest);
        store(rest, divide(load(rest), by));
        std::copy_n(rest, width - k, sums + k);
      }
    }
  }

 private:
  [[gnu::always_inline]] Vec<V> divide(const Vec<V>& sums, const Vec<V>& divisor) const {
    if constexpr (std::is_floating_point_v<V>) {
      if (factor_ != V(0)) return sums * splat(factor_);
      return root_ == kNorm ? square_root<V>(sums / (divisor / taps_)) : sums / divisor;
    } else {
      Vec<V> result{};
      for (int k = 0; k < kLanes<V>; ++k)
        result[k] = V(quotient<int64_t>(sums[k], int64_t(divisor[k])));
      return result;
    }
  }
  V common_factor() const {
    const auto whole = [](const Axis& a) {
      return !a.adaptive() && a.inner_begin() == 0 && a.inner_end() == a.out;
    };
    const bool common = w_.divisor || (whole(w_.d) && whole(w_.h) && whole(w_.w));
    if (!std::is_floating_point_v<V> || root_ != kNone || !common || w_.outputs() == 0) return 0;
    const int64_t divisor = (*this)(0, 0, 0);
    const bool power = 0 < divisor && divisor <= 1 << 20 && (divisor & (divisor - 1)) == 0;
    return power ? V(1) / V(divisor) : V(0);
  }
  int64_t count(const Axis& axis, int64_t i) const {
    return w_.include_pad ? axis.padded_taps(i) : axis.last(i) - axis.first(i);
  }

  static constexpr int64_t kMost = 1 << 16;
  const Window& w_;
  const Root root_;
  const V taps_;  // of a window that is not clipped
  V factor_;
  std::vector<V> columns_;  // the counts of all columns, if they matter and are not too many
};

}  // namespace poolkit
