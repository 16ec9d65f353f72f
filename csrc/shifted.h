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
//
// So few cells that the last vector of a plane would be half empty are no matter: some planes, one
// behind the other, are one plane with more edges. Where rows of outputs are shorter than rows of
// cells, a piece of them is copied first, each to where a row as long would begin.
#pragma once

#include <algorithm>
#include <vector>

#include "ahead.h"
#include "cells.h"

namespace poolkit {

// Whether each tap is a distance, if rows of outputs lie as far apart as rows of cells.
inline bool shifts(const Window& w) {
  const auto one = [](const Axis& a) { return !a.adaptive() && a.stride == 1 && a.out <= a.size; };
  return one(w.d) && one(w.h) && one(w.w);
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

// Whether rows of outputs have to be copied to where rows as long as those of cells would begin.
// The outermost axis may have fewer outputs as it is.
inline bool has_short_rows(const Window& w) {
  const bool rows = w.h.size * w.d.size > 1;
  return (rows && w.w.out < w.w.size) || (w.d.size > 1 && w.h.out < w.h.size);
}

// Planes that are one: so many that vectors are full, and threads have something to do.
template <class V>
int64_t planes_at_once(const Window& w, int64_t planes) {
  constexpr int64_t kMany = 256;  // cells; one vector more does not matter there
  const int64_t threads = torch::stable::get_num_threads(), cells = w.cells();
  if (w.outputs() < cells && !has_short_rows(w)) return 1;
  int64_t n = 1;
  while (n * cells < kMany && (n * cells) % kLanes<V> != 0 && 4 * n * threads <= planes) n *= 2;
  return n;
}

// Whether all that takes less time than an addition per output (named.h): vectors are full, and
// taps few. The table must stay small.
template <class V>
bool shifts_fast(const Window& w, int64_t planes) {
  using R = Reached<V>;
  const int64_t n = planes_at_once<V>(w, planes);
  const int64_t vectors = (n * w.cells() + kLanes<V> - 1) / kLanes<V>;
  const int64_t entries = capped_product(vectors, w.taps());
  // Measured: what copying costs.
  if (has_short_rows(w) && w.w.size < (w.taps() <= 4 ? 24 : 256)) return false;
  // (With AVX2 a byte becomes a lane in one instruction.)
  return entries <= n * w.outputs() * (kVectorBytes == 32 ? 22 : 11) / 16 &&
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
      : g_(g),
        offsets_(offsets),
        out_(out),
        w_(w),
        planes_(planes),
        at_once_(planes_at_once<V>(w, planes)),
        copied_(has_short_rows(w)),
        far_(is_far<T>(planes * w.outputs())) {
    find_taps();
    const size_t size = size_t(vectors(at_once_)) * taps_.size() * R::kSize;
    reached_.assign(size, R::kBits ? 0 : ~typename R::Entry(0));
    for (size_t t = 0; t < taps_.size(); ++t) find_reach(t);
  }

  void operator()() const {
    const int64_t cells = at_once_ * w_.cells(), pieces = (vectors(at_once_) + kPiece - 1) / kPiece;
    const int64_t cost = std::min(cells, kPiece * N) * w_.taps() / 4;
    const int64_t groups = (planes_ + at_once_ - 1) / at_once_;
    parallel(groups * pieces, cost, [&](int64_t item, int64_t stop) {
      Buffer<V> g;
      Buffer<uint8_t> offsets;
      const T* const end =
          out_ + std::min(planes_ * w_.cells(),
                          stop / pieces * cells + std::min(cells, stop % pieces * kPiece * N));
      for (; item < stop; ++item) {
        const int64_t plane = item / pieces * at_once_, first = item % pieces * kPiece;
        const int64_t last = vectors(std::min(at_once_, planes_ - plane));
        add(plane, first, std::min(last, first + kPiece), end, g, offsets);
      }
    });
  }

 private:
  struct Tap {
    int64_t d, h, w;  // from a cell to the output that holds it by this tap
    int64_t shift;    // from its place to that of the output
    uint8_t number;
  };

  int64_t vectors(int64_t planes) const { return (planes * w_.cells() + N - 1) / N; }

  // Outputs in ascending order hold a cell by descending taps. Those that are padding everywhere
  // may be any distance away, and are left out.
  void find_taps() {
    const auto for_taps = [](const Axis& a, const auto& f) {
      for (int64_t t = a.kernel; t-- > 0;)
        if (const int64_t shift = a.before - t * a.dilation; -a.size < shift && shift < a.out)
          f(t, shift);
    };
    for_taps(w_.d, [&](int64_t td, int64_t d) {
      for_taps(w_.h, [&](int64_t th, int64_t h) {
        for_taps(w_.w, [&](int64_t tw, int64_t w) {
          const int64_t shift = (d * w_.h.size + h) * w_.w.size + w;
          taps_.push_back({d, h, w, shift, uint8_t(w_.number(td, th, tw))});
          least_ = std::min(least_, shift), most_ = std::max(most_, shift);
        });
      });
    });
  }

  void find_reach(size_t t) {
    const Tap& tap = taps_[t];
    const auto holds = [](const Axis& a, int64_t output) { return 0 <= output && output < a.out; };
    const int64_t first = std::max<int64_t>(0, -tap.w), rows = w_.d.size * w_.h.size;
    const int64_t last = std::min(w_.w.size, w_.w.out - tap.w);
    for (int64_t row = 0; row < at_once_ * rows; ++row)
      if (holds(w_.d, row % rows / w_.h.size + tap.d) && holds(w_.h, row % w_.h.size + tap.h))
        reach(row * w_.w.size + first, row * w_.w.size + last, t);
  }
  // Tap t reaches cells [begin, end).
  void reach(int64_t begin, int64_t end, size_t t) {
    for (int64_t v = begin / N; v * N < end; ++v) {
      const size_t entry = size_t(v) * taps_.size() + t;
      R::set(reached_.data() + entry * R::kSize, std::max<int64_t>(0, begin - v * N),
             std::min<int64_t>(N, end - v * N), taps_[t].number);
    }
  }

  // Vectors [first, last) of the planes from `plane` on; the thread writes nothing from `end` on.
  void add(int64_t plane, int64_t first, int64_t last, const T* end, Buffer<V>& g_buffer,
           Buffer<uint8_t>& offset_buffer) const {
    const int64_t start = plane * w_.outputs();
    const int64_t low = first * N + least_, high = last * N + most_;  // places that are read
    const V* g;
    const uint8_t* offsets = offsets_ + start;
    if constexpr (std::is_same_v<T, V>) g = g_ + start;
    if (!std::is_same_v<T, V> || copied_ || start + low < 0 ||
        start + high > planes_ * w_.outputs()) {
      g = stage(g_ + start, planes_ - plane, low, high, g_buffer),
      offsets = stage(offsets_ + start, planes_ - plane, low, high, offset_buffer);
    }
    T* const to = out_ + plane * w_.cells();
    int64_t v = first;
    for (; v + kVectors <= last; v += kVectors) {
      if (far_) {
        const int64_t ahead = start + v * N + kAheadBytes / int64_t(sizeof(T));
        fetch<kVectors * N>(g_ + ahead), fetch<kVectors * N>(offsets_ + ahead);
      }
      add_vectors<kVectors>(v, g, offsets, to, end);
    }
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

  // A copy of the outputs at places [low, high) of some planes, as if each row were as long as a
  // row of cells; widened. What no tap reaches may be anything. Gives where place 0 would be.
  template <class From, class To>
  const To* stage(const From* outputs, int64_t planes, int64_t low, int64_t high,
                  Buffer<To>& buffer) const {
    To* const to = buffer.reserve(high - low + kChunk) - low;
    const int64_t begin = std::clamp<int64_t>(0, low, high);
    const int64_t places = planes * (copied_ ? w_.cells() : w_.outputs());
    const int64_t stop = std::clamp(places, begin, high);
    if (copied_)
      copy_rows(outputs, outputs + planes * w_.outputs(), to, begin, stop);
    else
      copy(outputs + begin, to + begin, stop - begin);
    return to;
  }

  // Places [begin, stop); the outputs end at `end`.
  template <class From, class To>
  void copy_rows(const From* outputs, const From* end, To* to, int64_t begin, int64_t stop) const {
    const int64_t width = w_.w.size, rows = w_.d.size * w_.h.size;
    int64_t row = begin / width, place = row * width;
    int64_t d = row % rows / w_.h.size, h = row % w_.h.size;
    // The first row of outputs that is not before this row.
    const int64_t first = d < w_.d.out ? d * w_.h.out + std::min(h, w_.h.out) : w_.d.out * w_.h.out;
    const From* from = outputs + (row / rows * w_.d.out * w_.h.out + first) * w_.w.out;
    for (; place < stop; place += width) {
      if (d < w_.d.out && h < w_.h.out) {
        int64_t i = std::max(begin, place) - place;
        const int64_t n = std::min(stop - place, w_.w.out);
        // Whole chunks: the next row is written over what is too much.
        if (end - from >= n + kChunk)
          for (; i < n; i += kChunk) copy(from + i, to + place + i, kChunk);
        else if (i < n)
          copy(from + i, to + place + i, n - i);
        from += w_.w.out;
      }
      if (++h == w_.h.size) {
        h = 0;
        if (++d == w_.d.size) d = 0;
      }
    }
  }

  static constexpr int64_t kChunk = 16;
  template <class From, class To>
  [[gnu::always_inline]] static void copy(const From* from, To* to, int64_t n) {
    if constexpr (std::is_same_v<From, To>)
      std::memcpy(to, from, size_t(n) * sizeof(To));
    else
      widen_values(from, to, n);
  }

  const T* const g_;
  const uint8_t* const offsets_;
  T* const out_;
  const Window& w_;
  const int64_t planes_, at_once_;  // planes that are one
  const bool copied_, far_;
  std::vector<Tap> taps_;
  int64_t least_ = 0, most_ = 0;
  std::vector<typename R::Entry> reached_;  // of each vector, by each tap
};

}  // namespace poolkit
