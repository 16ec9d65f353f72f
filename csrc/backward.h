// Backward kernels write each cell of the input once. What they share: which outputs hold a row,
// and the rows kept as phases.
//
// With stride s, the cells that tap t reaches are s apart. So the row under way is kept as s rows,
// the phases: phase r holds the cells r, r + s, r + 2s, ... Neighbours in a phase belong to
// neighbouring outputs, and adding tap t of all outputs is one plain loop over a run:
//
//   outputs        o0   o1   o2          stride 2, kernel 3
//   tap 0, 2  ->   phase 0:  c0 c2 c4 c6      (tap 2 lands one position further on)
//   tap 1     ->   phase 1:  c1 c3 c5 c7
//   written    ->  c0 c1 c2 c3 c4 c5 c6 c7    interleaved once, when all outputs have been added
#pragma once

#include <algorithm>

#include "cells.h"

namespace poolkit {

// Longer rows are done in pieces, so that the phases stay in cache.
constexpr int64_t kPieceCells = 2048;
constexpr int64_t kMaxPhases = 16;

// Calls f(row of outputs, d of that row, h of that row, first tap of that row of taps) for the
// output rows that hold input row (d, h), in ascending order.
template <class F>
void for_output_rows(const Window& w, int64_t d, int64_t h, const F& f) {
  for_holders(w.d, d, [&](int64_t od, int64_t td) {
    for_holders(w.h, h,
                [&](int64_t oh, int64_t th) { f(od * w.h.out + oh, od, oh, w.number(td, th, 0)); });
  });
}

// Outputs that are looked at for one cell.
inline int64_t outputs_per_cell(const Window& w) {
  const auto along = [](const Axis& a) {
    return a.adaptive() ? a.out / a.size + 2
                        : std::min(a.out, (a.kernel + a.stride - 1) / a.stride);
  };
  return along(w.d) * along(w.h) * along(w.w);
}

// Phases look at every tap: not worth it where most of them are padding.
inline bool suits_phases(const Axis& a) {
  return !a.adaptive() && a.stride <= kMaxPhases && a.kernel <= 4 * (a.size + a.out);
}

template <class T>
class Phases {
  using V = Wide<T>;

 public:
  explicit Phases(const Axis& axis)
      : a_(axis),
        length_(kPieceCells / axis.stride + 1),
        spread_((axis.extent() - 1) / axis.stride),
        phases_(axis.stride * length_) {}

  // The most outputs that one piece asks for.
  int64_t most_outputs() const { return length_ + spread_; }

  // For each piece of the row: calls add(begin, end) with the outputs that reach it, then writes
  // the piece to `row`.
  template <class F>
  void operator()(T* row, const F& add) {
    const int64_t last = (a_.size - 1 + a_.before) / a_.stride;
    for (from_ = a_.before / a_.stride; from_ <= last; from_ += length_) {
      n_ = std::min(last + 1 - from_, length_);
      std::fill_n(phases_.get(), a_.stride * n_, V(0));
      const int64_t begin = std::clamp<int64_t>(from_ - spread_, 0, a_.out);
      add(begin, std::clamp(from_ + n_, begin, a_.out));
      const int64_t low = std::max<int64_t>(0, from_ * a_.stride - a_.before);
      const int64_t high = std::min(a_.size, (from_ + n_) * a_.stride - a_.before);
      interleave(row + low, high - low, low + a_.before - from_ * a_.stride);
    }
  }

  // Calls f(t, cells, i, n) for each tap: its cells of outputs i ... i + n - 1 (of those in [begin,
  // end)) are cells[0] ... cells[n - 1]. Descending taps visit the outputs of a cell in ascending
  // order.
  template <class F>
  void for_taps(int64_t begin, int64_t end, const F& f) {
    for (int64_t t = a_.kernel - 1; t >= 0; --t) {
      const int64_t phase = t * a_.dilation % a_.stride, shift = t * a_.dilation / a_.stride;
      const int64_t low = std::max(begin, from_ - shift), high = std::min(end, from_ + n_ - shift);
      if (low < high) f(t, phases_.get() + phase * n_ + low + shift - from_, low, high - low);
    }
  }

 private:
  // out[i] = cell i + skip of the interleaved phases
  void interleave(T* __restrict out, int64_t count, int64_t skip) const {
    const V* __restrict p = phases_.get();
    const int64_t s = a_.stride;
    int64_t i = 0;
    if (s == 1) {
      for (; i < count; ++i) out[i] = narrow<T>(p[skip + i]);
      return;
    }
    if (s == 2) {
      if (skip % 2 == 1 && count > 0) out[i++] = narrow<T>(p[n_ + skip / 2]);
      const V* even = p + (skip + i) / 2;
      const V* odd = even + n_;
      T* __restrict to = out + i;
      const int64_t pairs = (count - i) / 2;
      for (int64_t k = 0; k < pairs; ++k) {
        to[2 * k] = narrow<T>(even[k]);
        to[2 * k + 1] = narrow<T>(odd[k]);
      }
      i += 2 * pairs;
    }
    for (; i < count; ++i) out[i] = narrow<T>(p[(skip + i) % s * n_ + (skip + i) / s]);
  }

  const Axis a_;
  const int64_t length_, spread_;
  int64_t from_ = 0, n_ = 0;  // the piece under way: positions [from, from + n) of every phase
  Buffer<V> phases_;
};

}  // namespace poolkit
