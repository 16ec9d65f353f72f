// Slices: windows of three axes over contiguous planes, slice by slice.
//
//   slice 0   strips.h  --->  y y y y      some rows of a slice are pooled as those of a plane of
//   two slice 1             --->  y y y y      axes are, as they lie in memory, once for all
//   windows that slice 2             --->  y y y y      hold the slice; what they give stays in
//   cache for the step
//                             y y y y      down the slices
//
// Cells meet in the order in which they always do: along the row, down the rows, then through the
// slices. What a slice gives is exact already, NaN included, so the last step goes by the full
// rule: it is short.
#pragma once

#include <algorithm>
#include <optional>

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
  if (d.adaptive() || d.dilation > 1 || d.stride >= d.kernel || d.kernel > kMostSlices)
    return false;
  if (std::max(d.before, d.after) >= d.kernel || (w.w.kernel < 3 && w.w.stride > 1)) return false;
  if ((F::Plain::kOffsets || w.w.kernel < 3) && w.w.out < 24) return false;
  const Window slice = in_slices(w);
  using V = typename F::V;
  const bool shared = w.w.out < kLanes<V> && planes_together<V>(slice) > 1;
  return suits_strips<F>(slice, false) && !shared;
}

template <class F, class T>
class SlicePool {
  using R = typename F::Plain;
  using V = typename R::Value;
  using L = typename R::Lane;
  using LV = typename LaneVector<L>::type;
  static constexpr int N = kLanes<V>;

 public:
  // Of so many rows of outputs at a time.
  SlicePool(const T* x, int64_t planes, const Window& w, const Result<F, T>& result, int64_t rows)
      : x_(x), w_(w), slice_(in_slices(w)), result_(result), room_(rows * w.w.out) {
    const int64_t all = w.d.kernel * room_ + N;  // vectors are read beyond the last slice
    pooled_ = {values_.reserve(all), {offsets_.reserve(all), ScalarType::Byte}, nullptr};
    strips_.emplace(x, planes * w.d.size, slice_, pooled_, 1);
  }

  // The outputs [d0, d1) and rows [h0, h1) of a block.
  void operator()(const Block& b) {
    const Axis& d = w_.d;
    int64_t next = 0;  // slice that is not pooled yet
    for (int64_t od = b.d0; od < b.d1; ++od) {
      next = std::max(next, d.start(od));
      for (; next < d.start(od) + d.last(od); ++next) pool_slice(b, next);
      join(b, od);
    }
  }

 private:
  // The slices that a window holds are kept side by side.
  int64_t place(int64_t slice) const { return slice % w_.d.kernel * room_; }

  void pool_slice(const Block& b, int64_t slice) {
    const int64_t number = b.plane * w_.d.size + slice, rows = strip_rows<T>(slice_);
    // The result begins with the first row of the block, at the place of the slice.
    const int64_t before = b.h0 * slice_.w.out - place(slice);
    for (int64_t h0 = b.h0; h0 < b.h1; h0 += rows) {
      Block some{number, 1, 0, 1, h0, std::min(b.h1, h0 + rows), 0, slice_.w.out};
      if ((*strips_)(some, b.h1, number + 1, number * slice_.outputs() + before)) continue;
      if constexpr (F::kMayFail) {
        RowPool<T, typename F::Full, true> full(x_ + number * slice_.cells(), 1, slice_, 1);
        some.plane = 0;
        full(some);
        store_rows<F>(full, some, pooled_, slice_, 1, before);
      }
    }
  }

  // The outputs of one depth, of the slices that their windows hold.
  void join(const Block& b, int64_t od) {
    const Axis& d = w_.d;
    const int64_t line = slice_.w.out, first = d.first(od);
    const int64_t taps = std::max<int64_t>(0, d.last(od) - first);
    int64_t from[kMostSlices];
    for (int64_t t = 0; t < taps; ++t) from[t] = place(d.start(od) + first + t);
    const auto cells = [&](int64_t t, int64_t i) {
      Part part{load(values_.get() + from[t] + i), {}};
      if constexpr (R::kOffsets)
        part.at = load_as<L>(offsets_.get() + from[t] + i) + splat(L(w_.number(first + t, 0, 0)));
      return part;
    };
    const auto joined = [&](int64_t i, [[maybe_unused]] V row, [[maybe_unused]] int64_t column) {
      Part best{};
      if (taps > 0) best = cells(0, i);
      for (int64_t t = 1; t < taps; ++t) {
        const Part next = cells(t, i);
        meet<R, true>(best.v, best.at, next.v, next.at);
      }
      if constexpr (R::kSums) {
        best.v += Vec<V>{};
        if (result_.divisors) best.v = result_.divisors->row_quotients(best.v, row, column);
      }
      return best;
    };
    int64_t to = ((b.plane * d.out + od) * slice_.h.out + b.h0) * line, i = 0;
    for (int64_t h = b.h0; h < b.h1; ++h, i += line, to += line) {
      V row{};
      if constexpr (R::kSums)
        if (result_.divisors) row = V(result_.divisors->row(od, h));
      for (int64_t column = 0; column < line; column += N) {
        if (line >= N) column = std::min(column, line - N);
        put(to + column, joined(i + column, row, column), std::min<int64_t>(N, line - column));
      }
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
  const int64_t room_;  // values of a slice
  Buffer<T> values_;
  Buffer<std::conditional_t<R::kOffsets, uint8_t, NoOffset>> offsets_;
  Result<F, T> pooled_{};
  std::optional<StripPool<F, T>> strips_;
};

template <class F, class T>
void forward_slices(const T* x, const Result<F, T>& result, const Window& w, int64_t planes) {
  constexpr int64_t kBytes = 256 << 10;
  // Rows for which what the slices of a window give stays in cache, and every thread has some.
  const int64_t least = strip_rows<T>(w), threads = torch::stable::get_num_threads();
  int64_t rows = kBytes / (w.d.kernel * w.w.out * int64_t(sizeof(T))) / least * least;
  rows = std::clamp(rows, std::min(least, w.h.out), w.h.out);
  if (planes * ((w.h.out + rows - 1) / rows) < 4 * threads) rows = least;
  const int64_t strips = (w.h.out + rows - 1) / rows;
  // Where there is little else the depth is shared out; neighbouring parts both pool some slices.
  int64_t depth = w.d.out;
  const auto parts = [&] { return (w.d.out + depth - 1) / depth; };
  while (depth > 2 * w.d.kernel && planes * strips * parts() < 4 * threads) depth = (depth + 1) / 2;
  const int64_t each = parts(), cost = depth * w.d.stride * rows * w.h.stride * w.w.size;
  parallel(planes * each * strips, cost, [&](int64_t item, int64_t stop) {
    SlicePool<F, T> slices(x, planes, w, result, rows);
    for (; item < stop; ++item) {
      const int64_t h0 = item % strips * rows, d0 = item / strips % each * depth;
      slices({item / strips / each, 1, d0, std::min(w.d.out, d0 + depth), h0,
              std::min(w.h.out, h0 + rows), 0, w.w.out});
    }
  });
}

}  // namespace poolkit
