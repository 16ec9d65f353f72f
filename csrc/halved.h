// Backward of maxima 3/2 over contiguous planes: each vector of cells gathers from the outputs that
// hold it, where these lie.
//
// clang-format off
//   cells       a b c d e f g ...    Every second cell of a row is held by two outputs, the first by
//   output k    . . 0 1 2 . . ...    tap 2 and the next by tap 0, the cell after it by one, by tap 1.
//          k+1  . . . . 0 1 2 ...    So the outputs that hold N such cells are neighbours, too.
// clang-format on
//
// Even and odd cells are added up in a vector each and interleaved when they are stored. Rows of
// cells are held by one or two rows of outputs in the same way. The gradient is added where the
// offset equals the tap; offsets are compared and never followed.
#pragma once

#include <algorithm>
#include <vector>

#include "ahead.h"
#include "cells.h"

namespace poolkit {

// Whether all windows are of that kind, and rows fill vectors.
inline bool halves(const Window& w) {
  const auto suits = [](const Axis& a) {
    return !a.adaptive() && a.kernel == 3 && a.stride == 2 && a.dilation == 1 && a.before < 2;
  };
  return w.d.identity() && suits(w.h) && suits(w.w) && w.w.out >= 16;
}

#if defined(__AVX2__)
// V: whose lanes are compared by bytes.
template <class V>
class Halved {
  static constexpr int N = kLanes<V>;
  static constexpr int K = 3;

 public:
  // `planes` of two axes.
  Halved(const V* g, const uint8_t* offsets, V* out, const Window& w, int64_t planes)
      : g_(g),
        offsets_(offsets),
        out_(out),
        h_(w.h),
        w_(w.w),
        planes_(planes),
        far_(is_beyond<V>(planes * w.h.size * w.w.size)),
        vectors_(((w.w.size + 1) / 2 + N - 1) / N),
        held_(size_t(w.h.size)),
        beyond_(size_t(vectors_ * K * N)) {
    for (int64_t c = 0; c < h_.size; ++c)
      for_holders(h_, c, [&, &held = held_[size_t(c)]](int64_t o, int64_t tap) {
        held.at[held.rows] = o * w_.out, held.tap[held.rows++] = uint8_t(tap * K);
      });
    for (int64_t j = 0; j < vectors_; ++j)
      for (int shift = -1; shift <= 1; ++shift)
        for (int64_t k = 0; k < N; ++k) {
          const int64_t output = j * N + k + shift;
          beyond(j, shift)[k] = 0 <= output && output < w_.out ? 0 : kNone;
        }
  }

  void operator()() const {
    const int64_t cells = h_.size * w_.size;
    parallel(planes_, 2 * cells, [&](int64_t plane, int64_t stop) {
      Scratch s;
      for (; plane < stop; ++plane) {
        if (w_.before == 0)
          add<0>(plane, out_ + stop * cells, s);
        else
          add<1>(plane, out_ + stop * cells, s);
      }
    });
  }

 private:
  static constexpr uint8_t kNone = 0xff;  // no tap

  struct Scratch {
    Buffer<V> g;
    Buffer<uint8_t> offsets;
  };
  // A row of outputs, and the tap by which it holds the first of its cells in a row of cells.
  struct Row {
    const V* g;
    const uint8_t* offsets;
    uint8_t tap;
  };

  // The same of a row of cells: by outputs before these rows.
  struct Held {
    int rows = 0;
    int64_t at[2] = {};
    uint8_t tap[2] = {};
  };

  // What is or-ed to the offsets of outputs that are so far from the cells of vector j.
  uint8_t* beyond(int64_t j, int shift) { return beyond_.data() + (j * K + shift + 1) * N; }
  const uint8_t* beyond(int64_t j, int shift) const {
    return beyond_.data() + (j * K + shift + 1) * N;
  }

  // Vectors are read from one output before a plane to some behind it.
  template <class E>
  const E* readable(const E* all, int64_t plane, Buffer<E>& buffer) const {
    const int64_t outputs = h_.out * w_.out, behind = (vectors_ + 1) * N;
    const E* const from = all + plane * outputs;
    if (plane > 0 && (planes_ - plane - 1) * outputs >= behind) return from;
    E* const copy = buffer.reserve(1 + outputs + behind);
    std::fill_n(copy, 1 + outputs + behind, E{});
    std::copy_n(from, outputs, copy + 1);
    return copy + 1;
  }

  // Before: the padding before a row. What a vector spills over the end of a row is written again
  // by the rows that follow, up to `end`.
  template <int Before>
  void add(int64_t plane, const V* end, Scratch& s) const {
    const V* const g = readable(g_, plane, s.g);
    const uint8_t* const offsets = readable(offsets_, plane, s.offsets);
    V* to = out_ + plane * h_.size * w_.size;
    for (int64_t c = 0; c < h_.size; ++c, to += w_.size) {
      const Held& held = held_[size_t(c)];
      const Row rows[2] = {{g + held.at[0], offsets + held.at[0], held.tap[0]},
                           {g + held.at[1], offsets + held.at[1], held.tap[1]}};
      if (held.rows == 2)
        add_row<Before, 2>(rows, to, end);
      else if (held.rows == 1)
        add_row<Before, 1>(rows, to, end);
      else
        std::fill_n(to, w_.size, V{});
    }
  }

  template <int Before, int Rows>
  void add_row(const Row (&rows)[2], V* to, const V* end) const {
    for (int64_t j = 0; j < vectors_; ++j) {
      const int64_t ahead = j * N + kAheadBytes / int64_t(sizeof(V));
      if (far_) fetch<N>(rows[0].g + ahead), fetch<N>(rows[0].offsets + ahead);
      // Cells 2k and 2k + 1, for N numbers k: outputs that hold one are k + shift.
      Vec<V> sum[2] = {};
      POOLKIT_UNROLL
      for (int r = 0; r < Rows; ++r) {
        POOLKIT_UNROLL
        for (int tap = K - 1; tap >= 0; --tap) {
          const int odd = (tap + Before) % 2, shift = (odd + Before - tap) / 2;
          const auto bytes = load_bytes<V>(rows[r].offsets + j * N + shift);
          const auto real = _mm_or_si128(bytes, load_bytes<V>(beyond(j, shift)));
          sum[odd] += chosen<V>(real, uint8_t(rows[r].tap + tap), load(rows[r].g + j * N + shift));
        }
      }
      POOLKIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int64_t at = (2 * j + half) * N;
        if (at >= w_.size) break;
        const Vec<V> cells = interleaved<V>(sum[0], sum[1], half);
        if (end - to - at >= N)
          store(to + at, cells);
        else
          write_some<V, V>(to + at, cells, std::min<int64_t>(N, w_.size - at));
      }
    }
  }

  const V* const g_;
  const uint8_t* const offsets_;
  V* const out_;
  const Axis &h_, &w_;
  const int64_t planes_;
  const bool far_;
  const int64_t vectors_;
  std::vector<Held> held_;
  std::vector<uint8_t> beyond_;
};
#endif

}  // namespace poolkit
