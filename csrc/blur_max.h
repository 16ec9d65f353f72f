// The blur of maxima of stride 1. These are reduced as sums are, row by row, into a few rows that
// stay in cache while rows of outputs are blurred from them.
#pragma once

#include "blur.h"

namespace poolkit {

// Rows of maxima of stride 1 of one plane, of which the last ones used are kept.
template <class S>
class DenseRows {
  using V = Wide<S>;
  static constexpr int N = kLanes<V>;

 public:
  DenseRows(const Axis (&axes)[3], int64_t run, int64_t kept)
      : d_(axes[0]), h_(axes[1]), w_(axes[2]), run_(run), slots_(size_t(kept)) {}

  // From now on maxima [m0, m1) of the rows of a plane.
  void begin(const PlaneRows<S>& cells, int64_t m0, int64_t m1) {
    cells_ = cells, m0_ = m0, m1_ = m1;
    pitch_ = ((m1 - m0) * run_ + 2 * N - 1) / N * N;
    values_.reserve(int64_t(slots_.size()) * pitch_);
    for (Slot& slot : slots_) slot = {};
  }

  const V* operator()(int64_t d, int64_t h) {
    const int64_t number = d * h_.out + h;
    Slot* oldest = slots_.data();
    for (Slot& slot : slots_) {
      if (slot.row == number) {
        slot.used = ++clock_;
        return values(slot);
      }
      if (slot.used < oldest->used) oldest = &slot;
    }
    *oldest = {number, ++clock_};
    V* const row = values(*oldest);
    fill(d, h, row);
    return row;
  }

 private:
  struct Slot {
    int64_t row = -1, used = 0;
  };

  V* values(const Slot& slot) const { return values_.get() + (&slot - slots_.data()) * pitch_; }

  void fill(int64_t d, int64_t h, V* row) {
    rows_.clear();
    for (int64_t td = d_.first(d); td < d_.last(d); ++td)
      for (int64_t th = h_.first(h); th < h_.last(h); ++th)
        rows_.push_back({cells_(d_.start(d) + td, h_.start(h) + th), V(1)});
    const int64_t start = m0_ - w_.before, n = m1_ - m0_ + w_.kernel - 1;
    const int64_t low = std::clamp<int64_t>(-start, 0, n);
    const int64_t high = std::clamp<int64_t>(w_.size - start, low, n);
    V* const best = best_.reserve(n * run_ + 2 * N);
    std::fill_n(best, low * run_, lowest<V>());
    if (low < high)
      combine<Largest>(rows_, (start + low) * run_, (high - low) * run_, cells_.end,
                       Staged<V>{best + low * run_});
    std::fill_n(best + high * run_, (n - high) * run_, lowest<V>());
    along_.clear();
    for (int64_t t = 0; t < w_.kernel; ++t) along_.push_back({best + t * run_, V(1)});
    combine<Largest, V, V>(along_, 0, (m1_ - m0_) * run_, nullptr, Staged<V>{row});
  }

  const Axis d_, h_, w_;
  const int64_t run_;
  PlaneRows<S> cells_{};
  int64_t m0_ = 0, m1_ = 0, pitch_ = 0, clock_ = 0;
  std::vector<Slot> slots_;
  std::vector<Line<S, V>> rows_;
  std::vector<Line<V, V>> along_;
  Buffer<V> values_, best_;
};

// The cells that outputs [i0, i1) hold, from the first to the last, in the padding too.
inline std::pair<int64_t, int64_t> cells_of(const Axis& a, PaddingMode mode, int64_t i0,
                                            int64_t i1) {
  int64_t low = a.size, high = 0;
  const auto meet = [&](int64_t cell) {
    if (cell >= 0) low = std::min(low, cell), high = std::max(high, cell + 1);
  };
  const int64_t start = a.start(i0), end = a.start(i1 - 1) + a.kernel;
  for (int64_t p = start; p < std::min<int64_t>(end, 0); ++p) meet(a.cell_at(p, mode));
  for (int64_t p = std::max(start, a.size); p < end; ++p) meet(a.cell_at(p, mode));
  if (std::max<int64_t>(start, 0) < std::min(end, a.size))
    meet(std::max<int64_t>(start, 0)), meet(std::min(end, a.size) - 1);
  return {std::min(low, high), high};
}

// The cells that maxima [m0, m1) of an axis look at.
inline std::pair<int64_t, int64_t> looked_at(const Axis& a, std::pair<int64_t, int64_t> maxima) {
  const auto [m0, m1] = maxima;
  if (m0 == m1) return {0, 0};
  return {std::max<int64_t>(0, a.start(m0)), std::min(a.size, a.start(m1 - 1) + a.kernel)};
}

// The blur of maxima, for the schemes of blur_pool.cpp.
struct MaxBlurForward {
  const Blur& b;
  const Axis (&maxima)[3];
  const Links ds = Links::of_outputs(b.d, b.mode, b.d_taps);
  const Links hs = Links::of_outputs(b.h, b.mode, b.h_taps);

  Extents in() const { return {maxima[0].size, maxima[1].size, maxima[2].size}; }
  Extents out() const { return {b.d.out, b.h.out, b.w.out}; }
  std::pair<int64_t, int64_t> slices(int64_t d0, int64_t d1) const {
    return looked_at(maxima[0], ds.reach(d0, d1));
  }
  std::pair<int64_t, int64_t> rows(int64_t h0, int64_t h1) const {
    return looked_at(maxima[1], hs.reach(h0, h1));
  }
  int64_t cost() const {
    return b.w.out * (b.steps() + maxima[0].kernel * maxima[1].kernel + maxima[2].kernel);
  }

  template <class S, class T>
  class Worker {
    using V = Wide<T>;

   public:
    Worker(const MaxBlurForward& op, int64_t run)
        : op_(op),
          run_(run),
          row_(op.b, run),
          dense_(op.maxima, run, op.b.d.kernel * op.b.h.kernel) {}

    void operator()(const PlaneRows<S>& rows, int64_t d, int64_t h0, int64_t h1, T* to) {
      const int64_t line = op_.b.w.out * run_;
      for_tiles(op_.b.w.out, op_.b.w.stride * run_, [&](int64_t i0, int64_t i1, bool whole) {
        const auto [m0, m1] = cells_of(op_.b.w, op_.b.mode, i0, i1);
        dense_.begin(rows, m0, m1);
        for (int64_t h = h0; h < h1; ++h) {
          find_lines(op_.ds[d], op_.hs[h], dense_, lines_);
          row_(lines_, m0, nullptr, i0, i1, to + (h - h0) * line + i0 * run_,
               to + ((whole ? h1 : h + 1) - h0) * line);
        }
      });
    }

   private:
    const MaxBlurForward& op_;
    const int64_t run_;
    BlurRow<V, T> row_;
    DenseRows<S> dense_;
    std::vector<Line<V, V>> lines_;
  };
};

}  // namespace poolkit
