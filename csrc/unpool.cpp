// Values at indices of their plane: unpooling, and the derivatives of whatever names its cells so.
//
// A window's inputs are the cells of the plane here, and its outputs the values. Two adjoint pairs:
// - put leaves in each cell the last value that names it, in row-major order of the values;
//   put_backward hands a cell's gradient to that value alone.
// - add_at leaves the sum of the values that name the cell, added in that order, starting from 0;
//   take reads the cell that each value names.
// A plane belongs to one thread, which clears and fills it while it is in cache. Indices come from
// Python and are not trusted: each is compared with the plane's end before it is followed, and one
// that is outside is an error, so that nobody sees what was written until then.
#include <atomic>

#include "cells.h"
#include "operators.h"
#include "parts.h"

namespace poolkit {
namespace {

// A plane, or n of its channels.
struct Part {
  int64_t plane, channel, n;
};

// Calls f(part) for all planes in parallel; where they are few, for parts of their channels.
template <class F>
void for_parts(const Window& w, int64_t planes, int64_t run, const F& f) {
  constexpr int64_t kLine = 16;  // channels that are worth a part of their own
  const int64_t wanted = (4 * torch::stable::get_num_threads() + planes - 1) / planes;
  const int64_t least = std::max<int64_t>(1, std::min(run / kLine, wanted));
  const int64_t width = (run + least - 1) / least, parts = (run + width - 1) / width;
  parallel(planes * parts, (w.cells() + 4 * w.outputs()) * width, [&](int64_t item, int64_t stop) {
    for (; item < stop; ++item) {
      const int64_t first = item % parts * width;
      f(Part{item / parts, first, std::min(width, run - first)});
    }
  });
}

// The indices of all values, and whether one of them was outside its plane.
class Indices {
 public:
  Indices(const Tensor& t, const Window& w, bool channels_last)
      : planes_(dense(t, channels_last, w.rank)), cells_(w.cells()), outputs_(w.outputs()) {
    check_extents(t, w.out, w.rank);
    STD_TORCH_CHECK(t.scalar_type() == ScalarType::Long, "poolkit: indices must be int64");
  }
  void match(const Planes& values) const {
    STD_TORCH_CHECK(values.planes == planes_.planes && values.run == planes_.run,
                    "poolkit: values and indices must have the same planes");
  }
  // Calls f(value, cell, channel) for a part's values, in row-major order.
  template <class F>
  void operator()(const Part& part, const F& f) const {
    bool outside = false;
    each(part, [&, cells = uint64_t(cells_)](int64_t value, int64_t cell, int64_t c) {
      if (uint64_t(cell) < cells)
        f(value, cell, c);
      else
        outside = true;
    });
    if (outside) outside_ = true;
  }
  // The same once a part's indices are known to be inside, for loops that become SIMD code.
  template <class F>
  void unchecked(const Part& part, const F& f) const {
    if (!outside_) each(part, f);
  }
  // Calls f(value, cell) for the values of a contiguous plane of which each is sure to name a cell
  // of its own; where that turns out not to be sure it stops, and returns false. Sure are the
  // maxima of windows that do not overlap: a row of them goes from left to right, and has rows of
  // cells for itself.
  template <class F>
  bool distinct(const Part& part, const Window& w, const F& f) const {
    const int64_t line = w.w.out;
    if (planes_.run != 1 || w.d.size != 1 || line <= kLanes<int64_t> || w.h.out < 1) return false;
    const int64_t rows = (w.h.size + w.h.out / 2) / w.h.out;
    if (rows < 1 || rows > 4) return false;
    const int64_t* row = indices(part);
    int64_t value = part.plane * outputs_;
    for (int64_t h = 0; h < w.h.out; ++h, row += line, value += line) {
      const int64_t some = std::min(rows, w.h.size - rows * h);
      if (!ascends(row, line, rows * h * w.w.size, some, w.w.size)) return false;
      for (int64_t i = 0; i < line; ++i) f(value + i, row[i]);
    }
    return true;
  }
  void check() const {
    STD_TORCH_CHECK(!outside_, "poolkit: indices must be from 0 to ", cells_ - 1);
  }

 private:
  const int64_t* indices(const Part& part) const {
    return static_cast<const int64_t*>(planes_.tensor.const_data_ptr()) +
           part.plane * outputs_ * planes_.run + part.channel;
  }
  template <class F>
  void each(const Part& part, const F& f) const {
    const int64_t run = planes_.run, n = part.n, outputs = outputs_;
    const int64_t first = part.plane * outputs * run + part.channel;
    const int64_t* const cells = indices(part);
    if (run == 1)
      for (int64_t k = 0; k < outputs; ++k) f(first + k, cells[k], 0);
    else
      for (int64_t k = 0; k < outputs; ++k)
        for (int64_t c = 0; c < n; ++c) f(first + k * run + c, cells[k * run + c], c);
  }
  // Whether n indices, more than a vector, are in so many rows of cells from `low` on, and each is
  // in a column to the right of the one before.
  static bool ascends(const int64_t* at, int64_t n, int64_t low, int64_t rows, int64_t width) {
    constexpr int N = kLanes<int64_t>;
    using Bits = Vec<uint64_t>;
    const Bits start = splat(uint64_t(low)), top = splat(uint64_t(rows * width - 1));
    const auto column = [=](Bits v) {
      for (int64_t r = rows - 1; r > 0; --r)
        v -= Bits(Vec<int64_t>(v) >= splat(width)) & splat(uint64_t(width));
      return v;
    };
    Bits wrong{};  // its sign, where a number is below 0
    for (int64_t i = 0; i < n - 1; i += N) {
      const int64_t k = std::min(i, n - 1 - N);  // the last two overlap
      const Bits a = Bits(load(at + k)) - start, b = Bits(load(at + k + 1)) - start;
      wrong |= a | b | (top - a) | (top - b) | (column(b) - column(a) - 1);
    }
    return !any(Vec<int64_t>(wrong));
  }

  const Planes planes_;
  const int64_t cells_, outputs_;
  mutable std::atomic<bool> outside_ = false;
};

// Calls f for the unsigned integer as wide as a value: copies need no more.
template <class F>
void dispatch_width(const Tensor& t, const F& f) {
  const auto bytes = t.element_size();
  if (bytes == 1) return f.template operator()<uint8_t>();
  if (bytes == 2) return f.template operator()<uint16_t>();
  if (bytes == 4) return f.template operator()<uint32_t>();
  STD_TORCH_CHECK(bytes == 8, "poolkit: no kernel for this dtype");
  f.template operator()<uint64_t>();
}

// What all four do: from values to cells, or the other way; work(from, to, indices) does it.
template <class F>
Tensor moved(const Tensor& x, const Tensor& at, const Window& w, bool to_cells, const F& work) {
  check_extents(x, to_cells ? w.out : w.in, w.rank);
  const bool runs = has_channel_run(w.channels_last, x.dim(), w.rank);
  const Planes from = dense(x, runs, w.rank);
  const Indices indices(at, w, runs);
  indices.match(from);
  Planes to = empty_planes(x, to_cells ? w.in : w.out, w.rank, runs, x.scalar_type());
  if (from.planes > 0 && from.run > 0) work(from, to, indices);
  indices.check();
  return in_format(to.tensor, w.channels_last, w.rank);
}

template <class T>
const T* values(const Planes& p) {
  return static_cast<const T*>(p.tensor.const_data_ptr());
}

template <class T>
T* results(Planes& p) {
  return static_cast<T*>(p.tensor.mutable_data_ptr());
}

Tensor put(const Tensor& x, const Tensor& at, const Window& w) {
  return moved(x, at, w, true, [&](const Planes& from, Planes& to, const Indices& indices) {
    dispatch_width(x, [&]<class T>() {
      const T* const v = values<T>(from);
      for_parts(w, to.planes, to.run, [&, y = results<T>(to)](const Part& part) {
        const int64_t run = to.run;
        T* const cells = y + part.plane * w.cells() * run + part.channel;
        clear_cells(cells, w.cells(), part.n, run);
        indices(part, [=](int64_t i, int64_t cell, int64_t c) { cells[cell * run + c] = v[i]; });
      });
    });
  });
}

// Each value leaves its number in its cell, and those whose number is still there were the last.
template <class T, class Number>
void to_last(const T* g, T* y, const Indices& indices, const Window& w, const Planes& to) {
  for_parts(w, to.planes, to.run, [&](const Part& part) {
    const int64_t run = to.run, n = part.n, first = part.plane * w.outputs() * run + part.channel;
    const T* const cells = g + part.plane * w.cells() * run + part.channel;
    if (indices.distinct(part, w, [=](int64_t i, int64_t cell) { y[i] = cells[cell]; })) return;
    Buffer<Number> numbers(w.cells() * n);  // only those of named cells are read
    Number* const last = numbers.get();
    indices(part,
            [=](int64_t i, int64_t cell, int64_t c) { last[cell * n + c] = Number(i - first); });
    const auto mine = [=](int64_t i, int64_t at) { return last[at] == Number(i - first); };
    if (run == 1)  // here some values do share cells: a branch would be mispredicted
      indices.unchecked(part, [=](int64_t i, int64_t cell, int64_t) {
        y[i] = T(cells[cell] & T(-T(mine(i, cell))));
      });
    else
      indices.unchecked(part, [=](int64_t i, int64_t cell, int64_t c) {
        y[i] = mine(i, cell * n + c) ? cells[cell * run + c] : T(0);
      });
  });
}

Tensor put_backward(const Tensor& g, const Tensor& at, const Window& w) {
  return moved(g, at, w, false, [&](const Planes& from, Planes& to, const Indices& indices) {
    dispatch_width(g, [&]<class T>() {
      if (w.outputs() * to.run <= UINT32_MAX)
        to_last<T, uint32_t>(values<T>(from), results<T>(to), indices, w, to);
      else
        to_last<T, uint64_t>(values<T>(from), results<T>(to), indices, w, to);
    });
  });
}

Tensor take(const Tensor& x, const Tensor& at, const Window& w) {
  return moved(x, at, w, false, [&](const Planes& from, Planes& to, const Indices& indices) {
    dispatch_width(x, [&]<class T>() {
      const T* const v = values<T>(from);
      for_parts(w, to.planes, to.run, [&, y = results<T>(to)](const Part& part) {
        const int64_t run = to.run;
        const T* const cells = v + part.plane * w.cells() * run + part.channel;
        indices(part, [=](int64_t i, int64_t cell, int64_t c) { y[i] = cells[cell * run + c]; });
      });
    });
  });
}

Tensor add_at(const Tensor& g, const Tensor& at, const Window& w) {
  return moved(g, at, w, true, [&](const Planes& from, Planes& to, const Indices& indices) {
    dispatch<kFloats | kInt64>(g.scalar_type(), "add_at", [&]<class T>() {
      using V = Wide<T>;
      constexpr bool kConverts = sizeof(T) != sizeof(V);  // half types add up in wider values
      const T* const v = values<T>(from);
      for_parts(w, to.planes, to.run, [&, y = results<T>(to)](const Part& part) {
        T* const cells = y + part.plane * w.cells() * to.run + part.channel;
        Buffer<V> wide(kConverts ? w.cells() * part.n : 0);
        V* sums = wide.get();
        if constexpr (!kConverts) sums = reinterpret_cast<V*>(cells);  // int64 as uint64
        const int64_t step = kConverts ? part.n : to.run;
        clear_cells(sums, w.cells(), part.n, step);
        indices(part,
                [=](int64_t i, int64_t cell, int64_t c) { sums[cell * step + c] += widen(v[i]); });
        if constexpr (kConverts) narrow_cells(sums, step, cells, to.run, w.cells(), part.n);
      });
    });
  });
}

}  // namespace
}  // namespace poolkit

STABLE_TORCH_LIBRARY_IMPL(poolkit, CPU, m) {
  poolkit::implement<poolkit::put>(m, "put");
  poolkit::implement<poolkit::put_backward>(m, "put_backward");
  poolkit::implement<poolkit::add_at>(m, "add_at");
  poolkit::implement<poolkit::take>(m, "take");
}
