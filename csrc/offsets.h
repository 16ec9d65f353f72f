// Where offsets point, one by one and with every check: they come back from Python and are not
// trusted. (Kernels for which this is too slow have checks of their own: see named.h.)
#pragma once

#include "window.h"

namespace poolkit {

// The cell that an offset of a row of outputs names, or -1.
class CheckedCells {
 public:
  CheckedCells(const Window& w, int64_t d, int64_t h) : w_(w), d_(d), h_(h) {}

  int64_t operator()(int64_t i, int64_t offset) const {
    const int64_t tw = offset % w_.w.kernel, th = offset / w_.w.kernel % w_.h.kernel;
    const int64_t td = offset / w_.w.kernel / w_.h.kernel;
    const int64_t w = cell(w_.w, i, tw), h = cell(w_.h, h_, th), d = cell(w_.d, d_, td);
    return (w | h | d) < 0 ? -1 : (d * w_.h.size + h) * w_.w.size + w;
  }

 private:
  static int64_t cell(const Axis& a, int64_t output, int64_t tap) {
    if (tap < a.first(output) || tap >= a.last(output)) return -1;
    return a.start(output) + tap * a.dilation;
  }
  const Window& w_;
  int64_t d_, h_;
};

// Calls f(output, cell, channel) for n channels of outputs [begin, end) of a plane, in row-major
// order; channel c of output i has the offset offsets[i * run + c].
template <class Offset, class F>
void for_cells(const Offset* offsets, const Window& w, int64_t begin, int64_t end, int64_t n,
               int64_t run, const F& f) {
  for (int64_t i = begin; i < end;) {
    const int64_t row = i / w.w.out, last = std::min(end, (row + 1) * w.w.out);
    const CheckedCells cells(w, row / w.h.out, row % w.h.out);
    for (; i < last; ++i)
      for (int64_t c = 0; c < n; ++c)
        f(i, cells(i - row * w.w.out, int64_t(offsets[i * run + c])), c);
  }
}

}  // namespace poolkit
