// Backward over outputs: each adds its gradient to the one cell that its offset names.
//
// An addition per output, however many cells its window holds: the way for large windows, and for
// few outputs among many cells. A plane is done in bands of outputs, in row-major order, as torch
// adds them. For each band:
// - the cells that it may name, and that none before it could, are cleared;
// - the named cells are worked out, a vector of offsets at a time. A tap's number has up to three
//   digits, one per axis, and each must be a real tap of its window: offsets come back from Python
//   and are not trusted. (Where all taps of all windows are real, a few taps are looked up.) A band
//   in which one is not is done with every check;
// - the gradients are added, one by one. The cells are known by then: a processor that learns late
//   where it will store holds back the loads that follow.
// Some small planes of few outputs, one behind the other, are one band.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "backward.h"
#include "cells.h"
#include "fresh.h"
#include "offsets.h"

namespace poolkit {

// Outputs [begin, end) of a plane, all of whose cells are in [low, high).
struct Band {
  int64_t begin, end, low, high;
};

// Cuts the outputs of a plane into bands of about so many cells.
class Bands {
 public:
  Bands(const Window& w, int64_t cells) : w_(w), cells_(cells) {
    int64_t piece = w.w.out;
    while (piece > 1 && (piece > kMostOutputs || high(w.w, piece - 1) > cells_))
      piece = (piece + 1) / 2;
    for (int64_t row = 0; row < w.d.out * w.h.out; ++row)
      for (int64_t i = 0; i < w.w.out; i += piece) add(row, i, std::min(w.w.out, i + piece));
    for (const Band& b : bands_) {
      most_outputs_ = std::max(most_outputs_, b.end - b.begin);
      most_cells_ = std::max(most_cells_, b.high - b.low);
    }
  }
  auto begin() const { return bands_.begin(); }
  auto end() const { return bands_.end(); }
  int64_t most_outputs() const { return most_outputs_; }
  int64_t most_cells() const { return most_cells_; }

 private:
  static constexpr int64_t kMostOutputs = 4096;

  // Where the cells of a window begin and end; both grow with the output.
  static int64_t low(const Axis& a, int64_t i) {
    return std::clamp<int64_t>(a.start(i), 0, a.size);
  }
  static int64_t high(const Axis& a, int64_t i) {
    return std::min(a.size, a.start(i) + (a.adaptive() ? a.last(i) : a.extent()));
  }

  void add(int64_t row, int64_t begin, int64_t end) {
    const int64_t d = row / w_.h.out, h = row % w_.h.out;
    const int64_t d0 = low(w_.d, d), h0 = low(w_.h, h), w0 = low(w_.w, begin);
    const int64_t d1 = high(w_.d, d), h1 = high(w_.h, h), w1 = high(w_.w, end - 1);
    Band b{row * w_.w.out + begin, row * w_.w.out + end, w_.cells(), 0};
    if (d0 < d1 && h0 < h1 && w0 < w1) {
      b.low = (d0 * w_.h.size + h0) * w_.w.size + w0;
      b.high = ((d1 - 1) * w_.h.size + h1 - 1) * w_.w.size + w1;
    }
    if (!bands_.empty()) {
      Band& last = bands_.back();
      const Band both{last.begin, b.end, std::min(last.low, b.low), std::max(last.high, b.high)};
      if (both.high - both.low <= cells_ && both.end - both.begin <= kMostOutputs) {
        last = both;
        return;
      }
    }
    bands_.push_back(b);
  }

  const Window& w_;
  const int64_t cells_;
  int64_t most_outputs_ = 0, most_cells_ = 0;
  std::vector<Band> bands_;
};

// The cells that offsets name, as the low 16 bits of their numbers: exact where a band has so few.
class NamedCells {
 public:
  // Of so many planes, one behind the other.
  explicit NamedCells(const Window& w, int64_t planes = 1)
      : corners_(size_t(planes * w.outputs())) {
    count_ = one_digit(w) ? 1 : w.d.identity() ? 2 : 3;
    add_axis(w, w.w, 1), add_axis(w, w.h, w.w.size), add_axis(w, w.d, w.h.size * w.w.size);
    const auto outputs = size_t(w.outputs());  // (so many outputs further on it is the next plane)
    for (size_t o = outputs; o < corners_.size(); ++o)
      corners_[o] = uint16_t(corners_[o - outputs] + w.cells());
    fill_table(w);
  }

  // Whether 16 bits are enough to take the numbers of taps apart.
  static bool fit(const Window& w) {
    const auto exact = [](int64_t numbers, int64_t base) {
      return numbers * (reciprocal(base) * base - kOne) < kOne;
    };
    return w.taps() < kOne && (one_digit(w) || exact(w.taps(), w.w.kernel)) &&
           (w.d.identity() || exact(w.d.kernel * w.h.kernel, w.h.kernel));
  }

  // The cells of n outputs from `first` on (Same: of n channels of that output), counted from
  // `low`. False if an offset names no cell.
  template <bool Same, class Offset>
  bool find(const Offset* offsets, int64_t first, int64_t n, int64_t low, uint16_t* cells) const {
#if defined(__AVX2__)
    if constexpr (sizeof(Offset) == 1)
      if (taps_ > 0 && n >= kTable) return look_up<Same>(offsets, first, n, low, cells);
#endif
    if (count_ == 1) return find<Same, 1>(offsets, first, n, low, cells);
    if (count_ == 2) return find<Same, 2>(offsets, first, n, low, cells);
    return find<Same, 3>(offsets, first, n, low, cells);
  }

 private:
  static constexpr int64_t kOne = 1 << 16;
  static int64_t reciprocal(int64_t base) { return (kOne - 1) / base + 1; }
  static bool one_digit(const Window& w) { return w.h.identity() && w.d.identity(); }

  // One digit of a tap's number, which is below `base` and counts for `step` cells.
  struct Digit {
    uint16_t base, reciprocal, itself, step;
    std::vector<uint16_t> first, count;  // of each output: its real taps

    uint16_t rest(uint16_t number) const {  // number / base; `itself` is for a base of 1
      return uint16_t((uint32_t(number) * reciprocal >> 16) + (number & itself));
    }
  };

  void add_axis(const Window& w, const Axis& a, int64_t step) {
    Digit& digit = digits_[&a == &w.w ? 0 : &a == &w.h ? 1 : 2];
    digit.base = uint16_t(a.kernel), digit.step = uint16_t(step * a.dilation);
    digit.reciprocal = uint16_t(reciprocal(a.kernel));
    digit.itself = a.kernel == 1 ? 0xffff : 0;
    std::vector<uint16_t> start, first, count;
    for (int64_t i = 0; i < a.out; ++i) {
      start.push_back(uint16_t(a.start(i) * step)), first.push_back(uint16_t(a.first(i)));
      count.push_back(uint16_t(std::max<int64_t>(0, a.last(i) - a.first(i))));
    }
    digit.first.resize(corners_.size()), digit.count.resize(corners_.size());
    // Neighbours on this axis are so many outputs apart.
    const size_t apart = size_t(&a == &w.w ? 1 : &a == &w.h ? w.w.out : w.h.out * w.w.out);
    for (size_t o = 0; o < corners_.size();)
      for (size_t i = 0; i < start.size(); ++i)
        for (const size_t end = o + apart; o < end; ++o) {
          corners_[o] = uint16_t(corners_[o] + start[i]);
          digit.first[o] = first[i], digit.count[o] = count[i];
        }
  }

  // How far the taps of a window are from its first cell, if these are few and near and all are
  // real in every window: then one instruction finds those of as many offsets.
  static constexpr int64_t kTable = 16;
  void fill_table(const Window& w) {
    const auto whole = [](const Axis& a) {
      return !a.adaptive() && a.inner_begin() == 0 && a.inner_end() == a.out;
    };
    const auto reach = [](const Axis& a) { return a.extent() - 1; };
    if (w.taps() > kTable || !whole(w.d) || !whole(w.h) || !whole(w.w)) return;
    if ((reach(w.d) * w.h.size + reach(w.h)) * w.w.size + reach(w.w) > UINT8_MAX) return;
    for (int64_t d = 0; d < w.d.kernel; ++d)
      for (int64_t h = 0; h < w.h.kernel; ++h)
        for (int64_t i = 0; i < w.w.kernel; ++i) {
          const int64_t row = d * w.d.dilation * w.h.size + h * w.h.dilation;
          table_[taps_++] = uint8_t(row * w.w.size + i * w.w.dilation);
        }
  }

#if defined(__AVX2__)
  template <bool Same>
  bool look_up(const uint8_t* offsets, int64_t at, int64_t n, int64_t low, uint16_t* cells) const {
    const auto table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table_));
    const auto most = _mm_set1_epi8(char(taps_ - 1));
    const auto origin = _mm256_set1_epi16(int16_t(low));
    const uint16_t* const corners = corners_.data() + at;
    __m128i beyond = _mm_setzero_si128();
    for (int64_t k = 0; k < n; k += kTable) {
      k = std::min(k, n - kTable);  // the last overlap those before
      const auto taps = _mm_loadu_si128(reinterpret_cast<const __m128i*>(offsets + k));
      const auto corner = Same ? _mm256_set1_epi16(int16_t(*corners))
                               : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(corners + k));
      const auto steps = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(table, taps));
      beyond = _mm_or_si128(beyond, _mm_subs_epu8(taps, most));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(cells + k),
                          _mm256_add_epi16(_mm256_sub_epi16(corner, origin), steps));
    }
    return _mm_testz_si128(beyond, beyond);
  }
#endif

  template <bool Same, int Digits, class Offset>
  bool find(const Offset* offsets, int64_t at, int64_t n, int64_t low, uint16_t* cells) const {
    constexpr int64_t kBlock = 32;
    const int64_t whole = n < kBlock ? n : n / kBlock * kBlock, last = n - kBlock;
    bool real = block<Same, Digits>(offsets, at, whole, low, cells);
    // No shorter loop for the rest: the last block overlaps the one before.
    if (whole < n)
      real &= block<Same, Digits>(offsets + last, Same ? at : at + last, kBlock, low, cells + last);
    return real;
  }

  template <bool Same, int Digits, class Offset>
  [[gnu::always_inline]] bool block(const Offset* __restrict offsets, int64_t at, int64_t n,
                                    int64_t low, uint16_t* __restrict cells) const {
    const uint16_t* const corners = corners_.data() + at;
    const auto origin = uint16_t(low);
    uint16_t bad = 0;
    for (int64_t k = 0; k < n; ++k) {
      const int64_t o = Same ? 0 : k;
      auto number = uint16_t(offsets[k]), cell = uint16_t(corners[o] - origin);
      POOLKIT_UNROLL
      for (int a = 0; a < Digits; ++a) {
        const Digit& digit = digits_[a];
        const uint16_t rest = a + 1 < Digits ? digit.rest(number) : uint16_t(0);
        const auto value = uint16_t(number - rest * digit.base);
        bad |=
            uint16_t(uint16_t(value - digit.first[size_t(at + o)]) >= digit.count[size_t(at + o)]);
        cell = uint16_t(cell + value * digit.step);
        number = rest;
      }
      cells[k] = cell;
    }
    return !bad;
  }

  int count_ = 0;
  Digit digits_[3];
  std::vector<uint16_t> corners_;  // the first cell of each output's window
  uint8_t table_[kTable] = {};
  int taps_ = 0;  // in the table; 0 if there is none
};

template <class T, class Offset>
class Named {
  using V = Wide<T>;
  static constexpr bool kConverts = !std::is_same_v<T, V>;

 public:
  Named(const T* g, const Offset* offsets, T* out, const Window& w, int64_t planes, int64_t run)
      : g_(g),
        offsets_(offsets),
        out_(out),
        w_(w),
        planes_(planes),
        run_(run),
        width_(width()),
        bands_(w, kBandCells / std::max<int64_t>(1, width_)) {}

  // Whether 16 bits tell the cells of a band apart, and the taps of a window. A plane must not be
  // so large that what is kept of its outputs fills the memory.
  bool fits() const {
    return w_.outputs() <= kMostOutputs && bands_.most_cells() <= 1 << 16 && NamedCells::fit(w_);
  }

  void operator()() const {
    const int64_t threads = torch::stable::get_num_threads();
    if (run_ == 1 && 2 * w_.outputs() <= w_.cells())
      if (const int64_t n = std::min(kBandCells / w_.cells(), planes_ / (4 * threads)); n >= 8)
        return add_together(n);
    const NamedCells named(w_);
    // Neighbouring outputs often name one cell, the more so the more windows overlap, and an
    // addition there waits for the one before: other planes fill the time.
    const int64_t wanted = run_ > 1 ? 1 : outputs_per_cell(w_) > 32 ? 4 : 2;
    const int64_t group = planes_ >= wanted * threads ? wanted : 1;
    const int64_t groups = (planes_ + group - 1) / group;
    const int64_t parts = (run_ + width_ - 1) / width_, cells = w_.cells();
    parallel(groups * parts, group * (cells + 4 * w_.outputs()) * width_,
             [&](int64_t item, int64_t stop) {
               Scratch s{named};
               for (; item < stop; ++item) {
                 const int64_t plane = item / parts * group, channel = item % parts * width_;
                 if (run_ > 1)
                   channels(plane, channel, std::min(width_, run_ - channel), s);
                 else if (group == 4 && plane + 4 <= planes_)
                   planes<4>(plane, s);
                 else if (group == 2 && plane + 2 <= planes_)
                   planes<2>(plane, s);
                 else
                   for (int64_t p = plane; p < std::min(planes_, plane + group); ++p)
                     planes<1>(p, s);
               }
             });
  }

 private:
  static constexpr int64_t kBandCells = 4096, kMostOutputs = 1 << 22;

  struct Scratch {
    const NamedCells& named;
    Buffer<V> sums{}, g{};
    Buffer<uint16_t> cells{};
  };

  // Channels are shared among the threads where batches are few.
  int64_t width() const {
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t parts = std::max<int64_t>(1, 2 * threads / planes_);
    return std::min(run_, (run_ / parts / 16 + 1) * 16);
  }

  // Adds up `count` planes, one after the other, or n channels of one, whose cells are `step` apart
  // in `sums`: calls add(band) for each band when its cells are cleared.
  template <class F>
  void for_bands(V* sums, int64_t count, int64_t n, int64_t step, const F& add) const {
    int64_t cleared = 0;
    const auto clear = [&](int64_t end) {
      if (end <= cleared) return;
      for (int64_t p = 0; p < count; ++p) {
        V* const plane = sums + p * w_.cells() * step;
        if (n == step)
          clear_values(plane + cleared * step, (end - cleared) * step);
        else
          for (int64_t i = cleared; i < end; ++i) clear_values(plane + i * step, n);
      }
      cleared = end;
    };
    for (const Band& band : bands_) clear(band.high), add(band);
    clear(w_.cells());
  }

  // `most` planes at a time.
  void add_together(int64_t most) const {
    const NamedCells named(w_, most);
    const int64_t outputs = w_.outputs(), cells = w_.cells();
    parallel((planes_ + most - 1) / most, most * (cells + 4 * outputs),
             [&](int64_t item, int64_t stop) {
               Buffer<V> sums(kConverts ? most * cells : 0), g(kConverts ? most * outputs : 0);
               Buffer<uint16_t> at(most * outputs);
               for (; item < stop; ++item) {
                 const int64_t plane = item * most, count = std::min(most, planes_ - plane);
                 add_band(named, plane, count, sums.get(), g.get(), at.get());
               }
             });
  }

  void add_band(const NamedCells& named, int64_t plane, int64_t count, V* sums, V* wide,
                uint16_t* at) const {
    const int64_t n = count * w_.outputs(), cells = count * w_.cells();
    const T* const g = g_ + plane * w_.outputs();
    const Offset* const offsets = offsets_ + plane * w_.outputs();
    T* const out = out_ + plane * w_.cells();
    const V* from;
    if constexpr (kConverts)
      widen_values(g, wide, n), from = wide;
    else
      sums = out, from = g;
    clear_values(sums, cells);
    if (named.find<false>(offsets, 0, n, 0, at))
      add<1>(from, n, at, n, sums, cells);
    else
      for (int64_t p = 0; p < count; ++p)
        for_cells(offsets + p * w_.outputs(), w_, 0, w_.outputs(), 1, 1,
                  [&](int64_t i, int64_t cell, int64_t) {
                    if (cell >= 0) sums[p * w_.cells() + cell] += from[p * w_.outputs() + i];
                  });
    if constexpr (kConverts)
      for (int64_t i = 0; i < cells; ++i) out[i] = narrow<T>(sums[i]);
  }

  template <int P>
  void planes(int64_t plane, Scratch& s) const {
    const int64_t outputs = w_.outputs(), cells = w_.cells();
    const T* const g = g_ + plane * outputs;
    const Offset* const offsets = offsets_ + plane * outputs;
    T* const out = out_ + plane * cells;
    V* sums;
    if constexpr (kConverts)
      sums = s.sums.reserve(P * cells);
    else
      sums = out;
    const NamedCells& named = s.named;
    uint16_t* const at = s.cells.reserve(P * bands_.most_outputs());
    for_bands(sums, P, 1, 1, [&](const Band& b) {
      const int64_t n = b.end - b.begin;
      bool real = true;
      for (int p = 0; p < P; ++p)
        real &= named.find<false>(offsets + p * outputs + b.begin, b.begin, n, b.low, at + p * n);
      if (!real) {
        for (int p = 0; p < P; ++p)
          for_cells(offsets + p * outputs, w_, b.begin, b.end, 1, 1,
                    [&](int64_t i, int64_t cell, int64_t) {
                      if (cell >= 0) sums[p * cells + cell] += widen(g[p * outputs + i]);
                    });
        return;
      }
      V* const to = sums + b.low;
      if constexpr (kConverts) {
        V* const wide = s.g.reserve(P * n);
        for (int p = 0; p < P; ++p) widen_values(g + p * outputs + b.begin, wide + p * n, n);
        add<P>(wide, n, at, n, to, cells);
      } else {
        add<P>(g + b.begin, outputs, at, n, to, cells);
      }
    });
    if constexpr (kConverts)
      for (int64_t i = 0; i < P * cells; ++i) out[i] = narrow<T>(sums[i]);
  }

  // n outputs of P planes, whose gradients are `pitch` apart. (A function of its own has registers
  // for all that the loop needs.)
  template <int P>
  [[gnu::noinline]] static void add(const V* g, int64_t pitch, const uint16_t* at, int64_t n, V* to,
                                    int64_t cells) {
    const V* from[P];
    V* sums[P];
    for (int p = 0; p < P; ++p) from[p] = g + p * pitch, sums[p] = to + p * cells;
    for (int64_t i = 0; i < n; ++i) {
      POOLKIT_UNROLL
      for (int p = 0; p < P; ++p) sums[p][at[i + p * n]] += from[p][i];
    }
  }

  void channels(int64_t plane, int64_t channel, int64_t n, Scratch& s) const {
    const T* const g = g_ + plane * w_.outputs() * run_ + channel;
    const Offset* const offsets = offsets_ + plane * w_.outputs() * run_ + channel;
    T* const out = out_ + plane * w_.cells() * run_ + channel;
    const int64_t step = kConverts ? n : run_;
    V* sums;
    if constexpr (kConverts)
      sums = s.sums.reserve(w_.cells() * n);
    else
      sums = out;
    const NamedCells& named = s.named;
    uint16_t* const at = s.cells.reserve(n);
    for_bands(sums, 1, n, step, [&](const Band& b) {
      for (int64_t i = b.begin; i < b.end; ++i) {
        const T* const from = g + i * run_;
        V* const to = sums + b.low * step;
        if (named.find<true>(offsets + i * run_, i, n, b.low, at))
          for (int64_t c = 0; c < n; ++c) to[at[c] * step + c] += widen(from[c]);
        else
          for_cells(offsets, w_, i, i + 1, n, run_, [&](int64_t, int64_t cell, int64_t c) {
            if (cell >= 0) sums[cell * step + c] += widen(from[c]);
          });
      }
    });
    if constexpr (kConverts)
      for (int64_t i = 0; i < w_.cells(); ++i)
        for (int64_t c = 0; c < n; ++c) out[i * run_ + c] = narrow<T>(sums[i * n + c]);
  }

  const T* const g_;
  const Offset* const offsets_;
  T* const out_;
  const Window& w_;
  const int64_t planes_, run_, width_;  // channels that are done together
  const Bands bands_;
};

}  // namespace poolkit
