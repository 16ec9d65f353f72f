// Averages whose windows lie at no fixed distance, and whose rows of outputs fit a register: the
// adaptive ones of contiguous planes, both ways. Nothing is transposed.
//
//   cells of a row   a b c d e f g h | i j k l . . . .     what every output of a row takes of
//   added up         a c f . + b d g . + . e h . + ...     each vector, tap by tap
//
// Then the rows of a window are added, in the order in which lanes would be: to the bit. Backward
// it is the other way round: a row of gradients is divided, and put in order for the cells that its
// outputs hold, once; then every row of cells adds those of the rows of outputs that hold it, in
// row-major order, from 0 on.
#pragma once

#include <algorithm>
#include <vector>

#include "backward.h"
#include "result.h"

namespace poolkit {

#if defined(__AVX2__)
constexpr bool kHasOrders = true;
#else
constexpr bool kHasOrders = false;
struct Order {
  void take(int, int) {}
  Vec<float> operator()(const Vec<float>& v) const { return v; }
};
#endif

// Whether windows are such, a row of cells fits four registers, and what rows give stays in cache.
inline bool has_few_outputs(const Window& w) {
  constexpr int64_t kMostVectors = 4, kMostRows = 4096;
  return kHasOrders && w.w.adaptive() && w.h.dilation == 1 && !w.h.identity() &&
         w.w.out <= kLanes<float> && w.w.size <= kMostVectors * kLanes<float> &&
         w.h.size <= kMostRows && w.h.out <= kMostRows;
}

// Forward: R is a sum.
template <class F, class T>
class FewOutputSums {
  using R = typename F::Plain;
  using V = typename R::Value;
  static constexpr int N = kLanes<V>;

 public:
  FewOutputSums(const T* x, int64_t planes, const Window& w, const Result<F, T>& result)
      : x_(x), end_(x + planes * w.cells()), w_(w), result_(result) {
    const Axis &a = w.w, &h = w.h;
    vectors_ = (a.size + N - 1) / N;
    for (int64_t i = 0; i < h.out; ++i)
      rows_.push_back({h.start(i) + h.first(i), h.last(i) - h.first(i),
                       result.divisors ? V(result.divisors->row(0, i)) : V(1)});
    for (int64_t v = 0; v < vectors_; ++v) {
      // The cells of an output come in ascending order: all orders of a vector, then the next.
      std::vector<Order> orders;
      for (int64_t i = 0; i < a.out; ++i) {
        size_t used = 0;
        for (int64_t t = a.first(i); t < a.last(i); ++t) {
          const int64_t cell = a.start(i) + t * a.dilation;
          if (cell / N != v) continue;
          if (used == orders.size()) orders.emplace_back();
          orders[used++].take(int(i), int(cell % N));
        }
      }
      for (const Order& order : orders) orders_.push_back(order);
      ends_.push_back(orders_.size());
    }
  }

  // All windows of planes [begin, end).
  void operator()(int64_t begin, int64_t end) const {
    T* const result_end = result_.y + end * w_.outputs();
    Buffer<T> copy;
    Buffer<V> along(w_.h.size * N);
    for (int64_t plane = begin; plane < end; ++plane) {
      const T* cells = x_ + plane * w_.cells();
      if (end_ - cells < w_.cells() + N) {  // vectors would end behind the last plane
        T* const to = copy.reserve(w_.cells() + N);
        std::copy_n(cells, w_.cells(), to);
        std::fill_n(to + w_.cells(), N, T{});
        cells = to;
      }
      T* const y = result_.y + plane * w_.outputs();
      switch (vectors_) {
        case 1:
          pool<1>(cells, along.get(), y, result_end);
          break;
        case 2:
          pool<2>(cells, along.get(), y, result_end);
          break;
        case 3:
          pool<3>(cells, along.get(), y, result_end);
          break;
        default:
          pool<4>(cells, along.get(), y, result_end);
      }
    }
  }

 private:
  template <int M>
  void pool(const T* cells, V* rows_along, T* y, const T* end) const {
    for (int64_t h = 0; h < w_.h.size; ++h, cells += w_.w.size) {
      Vec<V> along{};
      const Order* order = orders_.data();
      POOLKIT_UNROLL
      for (int v = 0; v < M; ++v) {
        const Vec<V> some = summand<R>(load_as<V>(cells + v * N));
        for (const Order* const last = orders_.data() + ends_[size_t(v)]; order != last; ++order)
          along += (*order)(some);
      }
      store(rows_along + h * N, along);
    }
    for (const Rows& rows : rows_) {
      Vec<V> all{};
      for (int64_t t = 0; t < rows.count; ++t) all += load(rows_along + (rows.first + t) * N);
      if (result_.divisors) all = result_.divisors->row_quotients(all, rows.divisor, 0);
      if (end - y >= N)
        write<T, V>(y, all);
      else
        write_some<T, V>(y, all, w_.w.out);
      y += w_.w.out;
    }
  }

  // What a row of outputs holds.
  struct Rows {
    int64_t first, count;
    V divisor;
  };

  const T *const x_, *const end_;
  const Window& w_;
  const Result<F, T>& result_;
  int64_t vectors_;
  std::vector<Rows> rows_;
  std::vector<Order> orders_;  // of all vectors of a row, one after the other
  std::vector<size_t> ends_;   // where those of each end
};

// Whether there are so few orders for it that lanes, which need none, take more time: measured.
inline bool sums_few_outputs(const Window& w) {
  return has_few_outputs(w) && w.w.size <= 4 * w.w.out;
}

template <class F, class T>
void forward_few_outputs(const T* x, const Result<F, T>& result, const Window& w, int64_t planes) {
  const FewOutputSums<F, T> sums(x, planes, w, result);
  parallel(planes, w.cells(), sums);
}

// Backward of averages.
template <class T>
class FewOutputAdjoint {
  using V = Wide<T>;
  static constexpr int N = kLanes<V>;
  static constexpr int kMost = 3;  // outputs of a row that hold a cell

 public:
  // (Where the last vector of a row is mostly empty, planes as lanes take less time: measured.)
  static bool suits(const Window& w) {
    const int64_t lanes = (w.w.size + N - 1) / N * N;
    if (!std::is_same_v<V, float> || !has_few_outputs(w) || 4 * w.w.size < 3 * lanes) return false;
    for (int64_t c = 0; c < w.w.size; ++c)
      if (w.w.highest_output(c) - w.w.lowest_output(c) > kMost) return false;
    return true;
  }

  FewOutputAdjoint(const T* g, T* out, const Window& w, int64_t planes)
      : g_(g), out_(out), w_(w), planes_(planes), divisors_(w), vectors_((w.w.size + N - 1) / N) {
    const Axis& a = w.w;
    for (int64_t c = 0; c < a.size; ++c)
      held_ = std::max(held_, a.highest_output(c) - a.lowest_output(c));
    for (int64_t i = 0; i < w.h.out; ++i) divisor_of_row_.push_back(V(divisors_.row(0, i)));
    for (int64_t h = 0; h < w.h.size; ++h) {
      const int64_t line = vectors_ * held_ * N, low = w.h.lowest_output(h);
      held_rows_.push_back({low * line, std::max<int64_t>(0, w.h.highest_output(h) - low)});
    }
    orders_.resize(size_t(vectors_ * held_));
    for (int64_t c = 0; c < a.size; ++c)
      for (int64_t i = a.lowest_output(c); i < a.highest_output(c); ++i)
        if (a.tap(i, c) >= 0)
          orders_[size_t(c / N * held_ + i - a.lowest_output(c))].take(int(c % N), int(i));
  }

  void operator()() const {
    parallel(planes_, w_.cells(), [&](int64_t begin, int64_t end) {
      Buffer<V> ordered(w_.h.out * vectors_ * held_ * N);
      for (int64_t plane = begin; plane < end; ++plane) {
        put_in_order(g_ + plane * w_.outputs(), ordered.get());
        T* const to = out_ + plane * w_.cells();
        const T* const stop = out_ + end * w_.cells();
        if (held_ == 2)
          add<2>(ordered.get(), to, stop);
        else
          add<3>(ordered.get(), to, stop);
      }
    });
  }

 private:
  void put_in_order(const T* g, V* to) const {
    const T* const end = g_ + planes_ * w_.outputs();
    for (const V divisor : divisor_of_row_) {
      Vec<V> v;
      if (end - g >= N) {
        v = load_as<V>(g);
      } else {
        T some[N] = {};
        std::copy_n(g, w_.w.out, some);
        v = load_as<V>(some);
      }
      v = divisors_.row_quotients(v, divisor, 0);
      for (const Order& order : orders_) store(to, order(v)), to += N;
      g += w_.w.out;
    }
  }

  template <int K>
  void add(const V* ordered, T* to, const T* end) const {
    for (const Held& held : held_rows_) {
      const V* const first = ordered + held.first;
      if (held.count == 1)
        add_rows<K, 1>(first, 1, to, end);
      else if (held.count == 2)
        add_rows<K, 2>(first, 2, to, end);
      else
        add_rows<K, 0>(first, held.count, to, end);
      to += w_.w.size;
    }
  }

  // A row of cells, from C rows of outputs, or `count`.
  template <int K, int C>
  [[gnu::always_inline]] void add_rows(const V* first, int64_t count, T* to, const T* end) const {
    const int64_t line = vectors_ * K * N;
    const auto sum_at = [&](int64_t v) __attribute__((always_inline)) {
      Vec<V> sum{};
      const V* row = first + v * K * N;
      POOLKIT_UNROLL
      for (int64_t c = 0; c < (C ? C : count); ++c, row += line) {
        POOLKIT_UNROLL
        for (int k = 0; k < K; ++k) sum += load(row + k * N);
      }
      return sum;
    };
    const int64_t inner = end - to >= vectors_ * N ? vectors_ : vectors_ - 1;
    for (int64_t v = 0; v < inner; ++v) write<T, V>(to + v * N, sum_at(v));
    if (inner < vectors_) write_some<T, V>(to + inner * N, sum_at(inner), w_.w.size - inner * N);
  }

  // The rows of outputs that hold a row of cells.
  struct Held {
    int64_t first, count;  // where they begin in order
  };

  const T* const g_;
  T* const out_;
  const Window& w_;
  const int64_t planes_;
  const Divisors<V> divisors_;
  const int64_t vectors_;  // of a row of cells
  int64_t held_ = 2;       // the most outputs of a row that hold a cell; such windows overlap
  std::vector<V> divisor_of_row_;
  std::vector<Held> held_rows_;
  std::vector<Order> orders_;
};

}  // namespace poolkit
