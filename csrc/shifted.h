// Backward of maxima with stride 1 over contiguous planes: each vector of cells gathers from the
// outputs that hold it, where these lie.
//
// Where rows of outputs are as long as rows of cells, a tap is a distance: the outputs that hold
// cells c, c + 1, ... by it are neighbours too, also across the ends of rows.
//
//   cells       a b c d | e f g h | ...       tap (0, 0) of a 3/1/1 window: outputs that lie one
//   outputs     . . . . | . a b c | d e f g   row and one column further on (their numbers + 5)
//
// Lanes whose output lies beyond an edge take nothing: a table says by bits, for every vector of a
// plane and every tap, which lanes do. The gradient is added where the offset equals the tap;
// offsets are compared and never followed. Nothing is transposed.
#pragma once

#include <algorithm>
#include <vector>

#include "cells.h"

namespace poolkit {

// Whether outputs and cells are numbered alike, up to a shift: all rows of a plane are one.
inline bool shifts(const Window& w) {
  const auto one = [](const Axis& a) { return !a.adaptive() && a.stride == 1; };
  const bool rows = w.h.identity() && w.h.size == 1, slices = w.d.identity() && w.d.size == 1;
  return one(w.d) && one(w.h) && one(w.w) && (slices || w.h.out == w.h.size) &&
         ((slices && rows) || w.w.out == w.w.size);
}

// Which lanes of a vector of cells a tap reaches: bits, where bytes are compared to bits, or the
// tap's number in these lanes and one that no offset has in the others.
template <class V>
struct Reached {
  using L = Unsigned<sizeof(V)>;
  static constexpr bool kBits = kComparesBytes<V, uint8_t> && kMasks;
  static constexpr int kSize = kBits ? 1 : kLanes<V>;
  using Entry = std::conditional_t<kBits, uint16_t, L>;

  static void set(Entry* entry, int64_t begin, int64_t end, uint8_t tap) {
    if constexpr (kBits)
      *entry = Entry(*entry | ((1u << end) - (1u << begin)));
    else
      std::fill(entry + begin, entry + end, L(tap));
  }

  // sum[k] += g[k] where offsets[k] == tap and the lane is reached.
  [[gnu::always_inline]] static void add(Vec<V>& sum, const Entry* entry, const uint8_t* offsets,
                                         [[maybe_unused]] uint8_t tap, const V* g) {
#if defined(__AVX512BW__)
    if constexpr (kBits) {
      const auto some = _mm_loadu_si128(reinterpret_cast<const __m128i*>(offsets));
      const __mmask16 equal = _mm_mask_cmpeq_epi8_mask(*entry, some, _mm_set1_epi8(char(tap)));
      sum = Vec<V>(_mm512_mask_add_ps(__m512(sum), equal, __m512(sum), _mm512_loadu_ps(g)));
      return;
    }
#endif
    if constexpr (!kBits) sum += load_as<L>(offsets) == load(entry) ? load(g) : Vec<V>{};
  }
};

// Whether all that takes less time than an addition per output (named.h): vectors are full, and
// taps few. The table must stay small.
template <class V>
bool shifts_fast(const Window& w) {
  using R = Reached<V>;
  const int64_t vectors = (w.cells() + kLanes<V> - 1) / kLanes<V>;
  const int64_t entries = capped_product(vectors, w.taps());
  // (With AVX2 a byte becomes a lane in one instruction.)
  return entries <= w.outputs() * (kVectorBytes == 32 ? 22 : 11) / 16 &&
         entries * R::kSize * int64_t(sizeof(typename R::Entry)) <=
             (R::kBits ? 8 << 20 : 128 << 10);
}

template <class T>
class Shifted {
  using V = Wide<T>;
  using R = Reached<V>;
  static constexpr int N = kLanes<V>;
  static constexpr int64_t kPiece = 4096 / N;  // vectors; planes are done in such pieces
  static constexpr int kVectors = 4;

 public:
  Shifted(const T* g, const uint8_t* offsets, T* out, const Window& w, int64_t planes)
      : g_(g), offsets_(offsets), out_(out), w_(w), planes_(planes) {
    reached_.assign(size_t(vectors_ * w.taps() * R::kSize), R::kBits ? 0 : ~typename R::Entry(0));
    // Outputs in ascending order hold a cell by descending taps.
    for (int64_t td = w.d.kernel; td-- > 0;)
      for (int64_t th = w.h.kernel; th-- > 0;)
        for (int64_t tw = w.w.kernel; tw-- > 0;) add_tap(td, th, tw);
    for (const Tap& tap : taps_)
      least_ = std::min(least_, tap.shift), most_ = std::max(most_, tap.shift);
  }

  void operator()() const {
    const int64_t cells = w_.cells(), pieces = (vectors_ + kPiece - 1) / kPiece;
    const int64_t cost = std::min(cells, kPiece * N) * w_.taps() / 4;
    parallel(planes_ * pieces, cost, [&](int64_t item, int64_t stop) {
      Buffer<V> g;
      Buffer<uint8_t> offsets;
      const T* const end =
          out_ + stop / pieces * cells + std::min(cells, stop % pieces * kPiece * N);
      for (; item < stop; ++item) {
        const int64_t plane = item / pieces, first = item % pieces * kPiece;
        add(plane, first, std::min(vectors_, first + kPiece), end, g, offsets);
      }
    });
  }

 private:
  struct Tap {
    int64_t shift;  // from a cell's number to that of the output that holds it by this tap
    uint8_t number;
  };

  void add_tap(int64_t td, int64_t th, int64_t tw) {
    const auto shift = [](const Axis& a, int64_t tap) { return a.before - tap * a.dilation; };
    const auto holds = [](const Axis& a, int64_t output) { return 0 <= output && output < a.out; };
    const int64_t d = shift(w_.d, td), h = shift(w_.h, th), w = shift(w_.w, tw);
    const auto number = uint8_t(w_.number(td, th, tw));
    const int64_t first = std::max<int64_t>(0, -w), last = std::min(w_.w.size, w_.w.out - w);
    for (int64_t row = 0; row < w_.d.size * w_.h.size && first < last; ++row)
      if (holds(w_.d, row / w_.h.size + d) && holds(w_.h, row % w_.h.size + h))
        reach(row * w_.w.size + first, row * w_.w.size + last, number);
    taps_.push_back({(d * w_.h.size + h) * w_.w.size + w, number});
  }
  // The next tap reaches cells [begin, end).
  void reach(int64_t begin, int64_t end, uint8_t number) {
    for (int64_t v = begin / N; v * N < end; ++v) {
      const int64_t entry = v * w_.taps() + int64_t(taps_.size());
      R::set(reached_.data() + entry * R::kSize, std::max<int64_t>(0, begin - v * N),
             std::min<int64_t>(N, end - v * N), number);
    }
  }

  // Vectors [first, last) of a plane; the thread writes nothing from `end` on.
  void add(int64_t plane, int64_t first, int64_t last, const T* end, Buffer<V>& g_buffer,
           Buffer<uint8_t>& offset_buffer) const {
    const int64_t outputs = w_.outputs(), start = plane * outputs;
    const int64_t low = first * N + least_, high = last * N + most_;  // outputs that are read
    const V* g;
    const uint8_t* offsets = offsets_ + start;
    if constexpr (std::is_same_v<T, V>) g = g_ + start;
    if (!std::is_same_v<T, V> || start + low < 0 || start + high > planes_ * outputs) {
      g = stage(g_ + start, low, high, g_buffer),
      offsets = stage(offsets, low, high, offset_buffer);
    }
    T* const to = out_ + plane * w_.cells();
    int64_t v = first;
    for (; v + kVectors <= last; v += kVectors) add_vectors<kVectors>(v, g, offsets, to, end);
    for (; v < last; ++v) add_vectors<1>(v, g, offsets, to, end);
  }

  // U vectors side by side, so that a tap is asked for once.
  template <int U>
  [[gnu::always_inline]] void add_vectors(int64_t v, const V* g, const uint8_t* offsets, T* to,
                                          const T* end) const {
    const int64_t taps = int64_t(taps_.size());
    Vec<V> sum[U] = {};
    const auto* entry = reached_.data() + v * taps * R::kSize;
    for (const Tap* tap = taps_.data(); tap != taps_.data() + taps; ++tap, entry += R::kSize) {
      const int64_t at = v * N + tap->shift;
      POOLKIT_UNROLL
      for (int u = 0; u < U; ++u)
        R::add(sum[u], entry + u * taps * R::kSize, offsets + at + u * N, tap->number,
               g + at + u * N);
    }
    POOLKIT_UNROLL
    for (int u = 0; u < U; ++u) {
      T* const cells = to + (v + u) * N;
      // What the last vector of a plane spills into the next is written again.
      if (end - cells >= N)
        write<T, V>(cells, sum[u]);
      else
        write_some<T, V>(cells, sum[u], end - cells);
    }
  }

  // A copy of values [low, high) of a plane, which may go beyond it; widened. Gives where value 0
  // would be.
  template <class From, class To>
  const To* stage(const From* plane, int64_t low, int64_t high, Buffer<To>& buffer) const {
    To* const to = buffer.reserve(high - low) - low;
    const int64_t begin = std::clamp<int64_t>(0, low, high);
    const int64_t end = std::clamp(w_.outputs(), begin, high);
    std::fill(to + low, to + begin, To(0)), std::fill(to + end, to + high, To(0));
    if constexpr (std::is_same_v<From, To>)
      std::copy(plane + begin, plane + end, to + begin);
    else
      widen_values(plane + begin, to + begin, end - begin);
    return to;
  }

  const T* const g_;
  const uint8_t* const offsets_;
  T* const out_;
  const Window& w_;
  const int64_t planes_, vectors_ = (w_.cells() + N - 1) / N;
  std::vector<Tap> taps_;
  int64_t least_ = 0, most_ = 0;
  std::vector<typename R::Entry> reached_;  // of each vector, by each tap
};

}  // namespace poolkit
