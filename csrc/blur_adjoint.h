// The adjoint of a blur: each cell's sum of the outputs that hold it, weighted.
//
// The blur's own way backwards: down the rows of gradients that hold a row of cells, then along, by
// phases if there is a stride. Cells that stand in the padding too are summed up by lists of their
// outputs.
#pragma once

#include "blur.h"

namespace poolkit {

// A cell that stands in the padding too, and all outputs that hold it.
struct Folded {
  int64_t cell;
  std::vector<Link> outputs;
};

// The folded cells of an axis, in ascending order.
inline std::vector<Folded> folded_cells(const Axis& a, PaddingMode mode, const double* taps) {
  std::vector<Folded> found;
  if (mode == PaddingMode::kZeros) return found;
  const int64_t inner = a.inner_begin(), last = a.inner_end();
  const auto for_edges = [&](const auto& f) {
    for (int64_t i = 0; i < a.out; ++i) {
      if (i == inner) i = last;
      for (int64_t t = 0; t < a.kernel && i < a.out; ++t) f(i, t, a.start(i) + t);
    }
  };
  for_edges([&](int64_t, int64_t, int64_t position) {
    const int64_t cell = a.cell_at(position, mode);
    if (cell == position) return;
    const auto place = std::lower_bound(found.begin(), found.end(), cell,
                                        [](const Folded& f, int64_t c) { return f.cell < c; });
    if (place == found.end() || place->cell != cell) found.insert(place, Folded{cell, {}});
  });
  for (Folded& f : found) {
    for (int64_t i = std::max(inner, a.lowest_output(f.cell));
         i < std::min(last, a.highest_output(f.cell)); ++i)
      f.outputs.push_back({i, taps[a.tap(i, f.cell)]});
  }
  for_edges([&](int64_t i, int64_t t, int64_t position) {
    const int64_t cell = a.cell_at(position, mode);
    const auto place = std::lower_bound(found.begin(), found.end(), cell,
                                        [](const Folded& f, int64_t c) { return f.cell < c; });
    if (place != found.end() && place->cell == cell) place->outputs.push_back({i, taps[t]});
  });
  return found;
}

// Cells of a row from the rows of gradients that hold them.
template <class S, class T>
class BlurAdjointRow {
  using V = Wide<T>;
  static constexpr int N = kLanes<V>;

 public:
  BlurAdjointRow(const Blur& blur, const std::vector<Folded>& folded, int64_t run)
      : b_(blur), a_(blur.w), folded_(folded), run_(run) {}

  // Cells [c0, c1); nothing is read from `end` on.
  void operator()(const std::vector<Line<S, V>>& lines, const S* end, int64_t c0, int64_t c1, T* to,
                  const T* to_end) {
    // Positions of the padded row: output o has position p by tap p - o * stride.
    const int64_t s = a_.stride, p0 = c0 + a_.before, p1 = c1 + a_.before;
    const int64_t reach = (a_.kernel - 1) / s + 1;
    const int64_t low = p0 / s - reach, high = (p1 - 1) / s + 1;
    down(lines, end, low, high);
    if (s == 1) {
      along_.clear();
      for (int64_t t = a_.kernel - 1; t >= 0; --t)
        along_.push_back({sums_.get() + (p0 - t - low) * run_, V(b_.w_taps[t])});
      put_along((c1 - c0) * run_, to, to_end);
    } else if (run_ >= kFewVectors * N) {
      for (int64_t p = p0; p < p1; ++p) {
        find_holders(p % s, p / s - low);
        put_along(run_, to + (p - p0) * run_, to_end);
      }
    } else if (run_ >= N) {
      for (int64_t p = p0; p < std::min(p1, p0 + s); ++p)
        for_vectors<V>(run_, [&](int64_t c) {
          find_holders(p % s, p / s - low);
          put_every(p1 - p, c, to + (p - p0) * run_ + c);
        });
    } else if (s == 2 && run_ == 1) {
      by_pairs(p0, p1, low, to, to_end);
    } else {
      by_phases(p0, p1, low, high, to, to_end);
    }
    fold(lines, end, low, high, c0, c1, to);
  }

 private:
  void put_along(int64_t n, T* to, const T* to_end) const {
    const Sink<T, V> sink{to, n, to_end};
    if (along_.empty())
      for (int64_t i = 0; i < n; i += N) sink(i, Vec<V>{});
    else
      combine<WeightedSum, V, V>(along_, 0, n, nullptr, sink);
  }

  // Vector c of every stride-th of `cells` cells.
  void put_every(int64_t cells, int64_t c, T* to) const {
    const int64_t n = (cells + a_.stride - 1) / a_.stride * N;
    const Strided<T, V> put{to, a_.stride * run_};
    if (along_.empty())
      for (int64_t i = 0; i < n; i += N) put(i, Vec<V>{});
    else
      combine<WeightedSum, V, V>(along_, c, n, nullptr, put, run_);
  }

  // The lines that a position of phase `phase` adds up, of outputs up to the one at `place`.
  void find_holders(int64_t phase, int64_t place) {
    const int64_t s = a_.stride;
    along_.clear();
    for (int64_t t = (a_.kernel - 1 - phase) / s * s + phase; t >= phase; t -= s)
      if (t < a_.kernel) along_.push_back({sums_.get() + (place - t / s) * run_, V(b_.w_taps[t])});
  }

  // The sums of outputs [low, high), 0 for those that there are not.
  void down(const std::vector<Line<S, V>>& lines, const S* end, int64_t low, int64_t high) {
    V* const sums = sums_.reserve((high - low) * run_ + 2 * N);
    const int64_t begin = std::clamp<int64_t>(0, low, high);
    const int64_t stop = lines.empty() ? begin : std::clamp(a_.out, begin, high);
    std::fill_n(sums, (begin - low) * run_, V(0));
    if (begin < stop)
      combine<WeightedSum>(lines, begin * run_, (stop - begin) * run_, end,
                           Staged<V>{sums + (begin - low) * run_});
    std::fill_n(sums + (stop - low) * run_, (high - stop) * run_, V(0));
  }

  // Stride 2: the cells of even and of odd places, side by side in registers.
  void by_pairs(int64_t p0, int64_t p1, int64_t low, T* to, const T* to_end) {
    find_holders(p0 % 2, p0 / 2 - low), first_.swap(along_);
    find_holders((p0 + 1) % 2, (p0 + 1) / 2 - low);
    const int64_t n = p1 - p0;
    if (first_.size() == 2 && along_.size() == 1)
      put_pairs<2, 1>(n, Sink<T, V>{to, n, to_end});
    else if (first_.size() == 1 && along_.size() == 2)
      put_pairs<1, 2>(n, Sink<T, V>{to, n, to_end});
    else
      put_pairs<-1, -1>(n, Sink<T, V>{to, n, to_end});
  }

  template <int First, int Second>
  void put_pairs(int64_t n, const Sink<T, V>& sink) const {
    const auto sum = [](const std::vector<Line<V, V>>& lines, int count, int64_t j) {
      if (count == 0) return Vec<V>{};
      Vec<V> v = WeightedSum::first(load(lines[0].at + j), lines[0].weight);
      for (int l = 1; l < count; ++l)
        v = WeightedSum::next(v, load(lines[size_t(l)].at + j), lines[size_t(l)].weight);
      return v;
    };
    const int first = First < 0 ? int(first_.size()) : First;
    const int second = Second < 0 ? int(along_.size()) : Second;
    for (int64_t i = 0; i < n; i += 2 * N) {
      const Vec<V> even = sum(first_, first, i / 2), odd = sum(along_, second, i / 2);
      sink(i, interleaved<V>(even, odd, 0));
      if (i + N < n) sink(i + N, interleaved<V>(even, odd, 1));
    }
  }

  void by_phases(int64_t p0, int64_t p1, int64_t low, int64_t high, T* to, const T* to_end) {
    const int64_t s = a_.stride, j0 = p0 / s, length = high - j0, pitch = length * run_ + 2 * N;
    V* const phases = phases_.reserve(s * pitch);
    for (int64_t r = 0; r < s; ++r) {
      find_holders(r, j0 - low);
      V* const phase = phases + r * pitch;
      if (along_.empty())
        std::fill_n(phase, length * run_, V(0));
      else
        combine<WeightedSum, V, V>(along_, 0, length * run_, nullptr, Staged<V>{phase});
    }
    V* const row = row_.reserve(s * length * run_ + 2 * N);
    for (int64_t p = p0; p < p1; ++p)
      std::copy_n(phases + p % s * pitch + (p / s - j0) * run_, run_, row + (p - j0 * s) * run_);
    const int64_t n = (p1 - p0) * run_;
    const V* const from = row + (p0 - j0 * s) * run_;
    const Sink<T, V> sink{to, n, to_end};
    for (int64_t i = 0; i < n; i += N) sink(i, load(from + i));
  }

  // Folded cells, from the sums of their outputs; [low, high) are there.
  void fold(const std::vector<Line<S, V>>& lines, const S* end, int64_t low, int64_t high,
            int64_t c0, int64_t c1, T* to) {
    for (const Folded& f : folded_) {
      if (f.cell < c0 || f.cell >= c1) continue;
      const int64_t pitch = run_ + N;
      V* other = others_.reserve(int64_t(f.outputs.size()) * pitch);
      along_.clear();
      for (const Link& link : f.outputs) {
        const V* sums = sums_.get() + (link.at - low) * run_;
        if (link.at < low || high <= link.at) {
          std::fill_n(other, run_, V(0));
          if (!lines.empty())
            combine<WeightedSum>(lines, link.at * run_, run_, end, Staged<V>{other});
          sums = other, other += pitch;
        }
        along_.push_back({sums, V(link.weight)});
      }
      T* const cell = to + (f.cell - c0) * run_;
      put_along(run_, cell, cell + run_);
    }
  }

  const Blur& b_;
  const Axis& a_;
  const std::vector<Folded>& folded_;
  const int64_t run_;
  Buffer<V> sums_, phases_, row_, others_;
  std::vector<Line<V, V>> along_, first_;
};

// The adjoint, for the schemes of blur_pool.cpp.
struct BlurBackward {
  const Blur& b;
  const Links ds = Links::of_cells(b.d, b.mode, b.d_taps);
  const Links hs = Links::of_cells(b.h, b.mode, b.h_taps);
  const std::vector<Folded> folded = folded_cells(b.w, b.mode, b.w_taps);

  Extents in() const { return {b.d.out, b.h.out, b.w.out}; }
  Extents out() const { return {b.d.size, b.h.size, b.w.size}; }
  std::pair<int64_t, int64_t> slices(int64_t d0, int64_t d1) const { return ds.reach(d0, d1); }
  std::pair<int64_t, int64_t> rows(int64_t h0, int64_t h1) const { return hs.reach(h0, h1); }
  int64_t cost() const { return b.w.size * (b.steps() / b.w.stride + 1); }

  template <class S, class T>
  BlurAdjointRow<S, T> row(int64_t run) const {
    return BlurAdjointRow<S, T>(b, folded, run);
  }
  int64_t cells_each() const { return 1; }

  template <class S, class T>
  using Worker = RowWorker<BlurBackward, S, T>;
};

}  // namespace poolkit
