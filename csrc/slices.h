// Slices: windows of three axes over contiguous planes, slice by slice.
//
//   slice 0   strips.h  --->  y y y y      a slice is pooled as a plane of two axes is, as it lies
//   slice 1             --->  y y y y      in memory, once for all windows that hold it; what it
//   slice 2             --->  y y y y      gives is a fourth of it, or a ninth, and stays in cache
//                             y y y y      for the step down the slices
//
// Cells meet in the order in which they always do: along the row, down the rows, then through the
// slices. What a slice gives is exact already, NaN included, so the last step goes by the full
// rule: it is short.
#pragma once

#include <optional>
#include <vector>

#include "store.h"
#include "strips.h"

namespace poolkit {

// From the first slice of a window to its last.
constexpr int64_t kMostSlices = 8;

// Where what a slice gives can be kept in the type of the result.
template <class F, class T>
constexpr bool kHasSlices = kHasStrips<F> && std::is_same_v<typename F::V, T>;

// Windows that share slices. (Others, and offsets of short rows, are as fast in one step.)
template <class F>
bool suits_slices(const Window& w) {
  const Axis& d = w.d;
  if (d.adaptive() || d.stride >= d.extent() || d.extent() > kMostSlices) return false;
  if (std::max(d.before, d.after) >= d.extent() || w.w.kernel < 3) return false;
  if (F::Plain::kOffsets && w.w.out < 24) return false;
  Window slice = w;
  slice.d = Axis{};
  return suits_strips<F>(slice) && planes_together<typename F::V>(slice) == 1;
}

template <class F, class T>
class SlicePool {
  using R = typename F::Plain;
  using V = typename R::Value;
  using L = typename R::Lane;
  using LV = typename LaneVector<L>::type;
  static constexpr int N = kLanes<V>;

 public:
  SlicePool(const T* x, int64_t planes, const Window& w, const Result<F, T>& result)
      : x_(x), w_(w), slice_(in_slices(w)), result_(result) {
    const int64_t n = slice_.outputs();
    // Vectors are read beyond the last slice.
    pooled_ = {values_.reserve(w.d.extent() * n + N),
               {offsets_.reserve(w.d.extent() * n + N), ScalarType::Byte},
               nullptr};
    strips_.emplace(x, planes * w.d.size, slice_, pooled_);
  }

  // The outputs [d0, d1) of a plane.
  void operator()(int64_t plane, int64_t d0, int64_t d1) {
    const Axis& d = w_.d;
    int64_t next = 0;
    for (int64_t od = d0; od < d1; ++od) {
      const int64_t first = d.first(od), taps = d.last(od) - first, start = d.start(od);
      next = std::max(next, start);
      for (; taps > 0 && next <= start + (first + taps - 1) * d.dilation; ++next)
        pool_slice(plane, next);
      join(plane, od, first, taps);
    }
  }

 private:
  static Window in_slices(Window w) {
    w.d = Axis{};
    return w;
  }

  // Slices that a window holds are kept side by side.
  int64_t place(int64_t slice) const { return slice % w_.d.extent(); }

  void pool_slice(int64_t plane, int64_t slice) {
    const int64_t number = plane * w_.d.size + slice, rows = strip_rows<T>(slice_);
    Block b{number, 1, 0, 1, 0, 0, 0, slice_.w.out};
    for (; b.h0 < slice_.h.out; b.h0 = b.h1) {
      b.h1 = std::min(slice_.h.out, b.h0 + rows);
      if ((*strips_)(b, slice_.h.out, number + 1, number - place(slice))) continue;
      if constexpr (F::kMayFail) {
        Block one = b;
        one.plane = 0;
        RowPool<T, typename F::Full, true> full(x_ + number * slice_.cells(), 1, slice_, 1);
        full(one);
        const int64_t to = place(slice) * slice_.outputs();
        const Offsets offsets{offsets_.get() + (F::Plain::kOffsets ? to : 0), ScalarType::Byte};
        store_rows<F>(full, one, Result<F, T>{values_.get() + to, offsets, nullptr}, slice_, 1);
      }
    }
  }

  // The outputs of one depth: what `taps` slices from tap `first` on give.
  void join(int64_t plane, int64_t od, int64_t first, int64_t taps) {
    const Axis& d = w_.d;
    const int64_t n = slice_.outputs(), line = slice_.w.out;
    int64_t from[kMostSlices];
    for (int64_t t = 0; t < taps; ++t) from[t] = place(d.start(od) + (first + t) * d.dilation) * n;
    const int64_t to = (plane * d.out + od) * n;
    const auto cells = [&](int64_t t, int64_t i) {
      Part part{load(values_.get() + from[t] + i), {}};
      if constexpr (R::kOffsets)
        part.at = load_as<L>(offsets_.get() + from[t] + i) + splat(L(w_.number(first + t, 0, 0)));
      return part;
    };
    const auto joined = [&](int64_t i, int64_t h, int64_t column) {
      Part best{};
      if (taps > 0) best = cells(0, i);
      for (int64_t t = 1; t < taps; ++t) {
        const Part next = cells(t, i);
        meet<R, true>(best.v, best.at, next.v, next.at);
      }
      if constexpr (R::kSums) {
        best.v += Vec<V>{};
        if (result_.divisors) best.v = result_.divisors->quotients(best.v, od, h, column);
      }
      return best;
    };
    for (int64_t h = 0, i = 0; h < slice_.h.out; ++h, i += line)
      for (int64_t column = 0; column < line; column += N) {
        if (line >= N) column = std::min(column, line - N);
        put(to + i + column, joined(i + column, h, column), std::min<int64_t>(N, line - column));
      }
  }

  struct Part {
    Vec<V> v;
    LV at;
  };

  void put(int64_t to, const Part& part, int64_t count) {
    if (count == N)
      store(result_.y + to, part.v);
    else
      write_some<T, V>(result_.y + to, part.v, count);
    if constexpr (R::kOffsets) {
      uint8_t* const offsets = static_cast<uint8_t*>(result_.offsets.data) + to;
      if (count == N) return store_as<uint8_t, L>(offsets, part.at);
      uint8_t some[N];
      store_as<uint8_t, L>(some, part.at);
      std::copy_n(some, count, offsets);
    }
  }

  const T* const x_;
  const Window& w_;
  const Window slice_;
  const Result<F, T>& result_;
  Buffer<T> values_;
  Buffer<std::conditional_t<R::kOffsets, uint8_t, NoOffset>> offsets_;
  Result<F, T> pooled_{};
  std::optional<StripPool<F, T>> strips_;
};

template <class F, class T>
void forward_slices(const T* x, const Result<F, T>& result, const Window& w, int64_t planes) {
  // Where planes are few their depth is shared out; neighbouring parts both pool a slice or two.
  const int64_t threads = torch::stable::get_num_threads();
  int64_t depth = w.d.out;
  const auto parts = [&] { return (w.d.out + depth - 1) / depth; };
  while (depth > 4 * w.d.kernel && planes * parts() < 4 * threads) depth = (depth + 1) / 2;
  const int64_t each = parts(), cost = depth * w.h.size * w.w.size;
  parallel(planes * each, cost, [&](int64_t item, int64_t stop) {
    SlicePool<F, T> slices(x, planes, w, result);
    for (; item < stop; ++item) {
      const int64_t d0 = item % each * depth;
      slices(item / each, d0, std::min(w.d.out, d0 + depth));
    }
  });
}

}  // namespace poolkit
