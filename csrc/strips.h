// Strips: the forward scheme for the windows of networks, 2/1, 2/2, 3/1 and 3/2, over contiguous
// planes.
//
// clang-format off
//   row 0   a b c d e f ...   N neighbouring windows along the row: with stride 1 the vectors that
//   row 1   g h i j k l ...   begin one cell apart, with stride 2 the even and the odd cells of two
//   row 2   m n o p q r ...   vectors; what they give for a row stays in a register,
//           y y y y y y       and K such rows make N outputs
// clang-format on
//
// A strip is N columns of outputs, all the way down a block of rows: every row of it is read from
// memory once, reduced along itself, kept in a register for the windows that share it, and never
// copied. What a loop must know of edges is settled once for a strip (masks of padding along the
// row) and at its two ends (rows above and below the plane). The last strip of a row overlaps the
// one before. A row shorter than a vector is one strip: what its vector spills is written again by
// the next row. Of rows less than half as long, two planes share a vector, or four or eight. So
// they do in small planes of 3/2 if the last strip is that short: it goes first then, and the
// others write what it spills.
//
// Cells are watched for NaN while they are read, and results (but bytes beside offsets) for the
// least value there is, which padding could have given; where something special is met, rows.h does
// the block again.
#pragma once

#include "ahead.h"
#include "result.h"
#include "rows.h"

namespace poolkit {

// The kernel and the stride that both axes have.
constexpr bool has_strips(int64_t kernel, int64_t stride) {
  return (kernel == 2 || kernel == 3) && (stride == 1 || stride == 2);
}

template <class F>
constexpr bool kHasStrips = !std::is_same_v<typename F::Offset, LargeOffset> &&
                            (std::is_same_v<typename F::V, float> || sizeof(typename F::V) <= 2);

// A plane that shares a vector gets at least 8 lanes of it.
constexpr int kLeastLanes = 8;
template <class V>
constexpr int kMostTogether = kLanes<V> > kLeastLanes ? kLanes<V> / kLeastLanes : 1;

// Rows of so many outputs that share nothing, or one cell with the next, are read as they lie in
// memory: direct.h. Measured.
template <class F>
int64_t least_streamed(const Axis& a, bool beyond) {
  if (a.stride == 1)
    return kVectorBytes == 64 ? INT64_MAX : kVectorBytes == 16 || beyond ? 96 : 1024;
  beyond &= kVectorBytes == 64;
  return F::Plain::kOffsets ? (beyond ? 96 : INT64_MAX) : beyond ? 48 : 96;
}

// Windows of these kinds: rows much shorter than a vector share it. `beyond`: whether the input is
// so large (ahead.h).
template <class F>
bool suits_strips(const Window& w, bool beyond) {
  const Axis &a = w.w, &h = w.h;
  if (a.adaptive() || h.adaptive() || !w.d.identity()) return false;
  if (!has_strips(a.kernel, a.stride) || h.kernel != a.kernel || h.stride != a.stride) return false;
  const auto plain = [](const Axis& axis) {
    return axis.dilation == 1 && std::max(axis.before, axis.after) < axis.kernel;
  };
  return plain(a) && plain(h) && !(a.kernel == 2 && a.out >= least_streamed<F>(a, beyond));
}

constexpr int64_t kStripBytes = 24 << 10;  // of the cells of a block: the first-level cache has 32

// How many planes share the vector of a row's last outputs: as many as have room there. (With 3/2
// the cell after the last output is needed too.) Behind other vectors it is only worth it for 3/2,
// in planes that fit a block: measured.
template <class V>
int planes_together(const Window& w) {
  const int64_t rest = w.w.out % kLanes<V>;
  const bool more = w.w.kernel > w.w.stride && w.w.stride > 1;
  if (rest == 0) return 1;
  if (w.w.out > rest && !(more && w.cells() * int64_t(sizeof(V)) <= kStripBytes)) return 1;
  const int64_t lanes = rest + more;
  int planes = 1;
  while (planes < kMostTogether<V> && 2 * planes * lanes <= kLanes<V>) planes *= 2;
  return planes;
}

// Rows of outputs of a block: neighbouring strips find their cells in cache.
template <class T>
int64_t strip_rows(const Window& w) {
  const int64_t rows = kStripBytes / (w.h.stride * w.w.size * int64_t(sizeof(T)));
  return std::clamp<int64_t>(rows, std::min<int64_t>(8, w.h.out), w.h.out);
}

template <class F, class T>
class StripPool {
  using R = typename F::Plain;
  using V = typename R::Value;
  using L = typename R::Lane;
  using LV = typename LaneVector<L>::type;
  using Mask = std::make_signed_t<Unsigned<sizeof(V)>>;
  static constexpr int N = kLanes<V>, kMost = kMostTogether<V>;
  // Cells that come as even and odd ones (convert.h); others are put in order when all has joined.
  static constexpr bool kPairs = R::kSums && std::is_same_v<T, BFloat16>;
  // Bytes beside offsets are compared as wider integers: padding lies below every one of them.
  static constexpr bool kBelow = R::kOffsets && sizeof(T) == 1;

 public:
  // Blocks are of so many planes: one, or as many as share a vector (planes_together).
  StripPool(const T* x, int64_t planes, const Window& w, const Result<F, T>& result, int together)
      : x_(x),
        end_(x + planes * w.cells()),
        w_(w),
        result_(result),
        together_(together),
        far_(is_far<T>(planes * w.cells())) {
    const Axis& a = w.w;
    if (together_ > 1) add_strip(a.out / N * N, together_);
    for (int64_t first = 0; first + N <= a.out; first += N) add_strip(first, 1);
    if (together_ == 1 && a.out % N > 0) add_strip(std::max<int64_t>(0, a.out - N), 1);
    if constexpr (R::kSums)
      for (int64_t h = 0; result.divisors && h < w.h.out; ++h)
        row_divisors_.push_back(V(result.divisors->row(0, h)));
    const int64_t last = std::max(strips_.front().first, strips_.back().first);
    reach_ = last * a.stride - a.before + a.stride * N + a.kernel;
    padded_ = w.h.inner_begin() > 0 || w.h.inner_end() < w.h.out;
    for (const Strip& strip : strips_) padded_ |= strip.edge;
    std::fill_n(none_, kNone, R::kSums ? T{} : lowest<T>());
  }

  // The rows [h0, h1) of the planes of a block. What lies behind them may be written too, because
  // it is written later: up to row `row` of these planes, and if that ends them, up to plane
  // `plane`. The result begins with value `origin`. False if something special was met.
  bool operator()(const Block& b, int64_t row, int64_t plane, int64_t origin = 0) {
    special_ = Watched{};
    const auto go = [&]<int K>() {
      w_.w.stride == 1 ? pool<K, 1>(b, row, plane, origin) : pool<K, 2>(b, row, plane, origin);
    };
    w_.w.kernel == 2 ? go.template operator()<2>() : go.template operator()<3>();
    return R::kSums || !special_.any();
  }

 private:
  using Watched = WatchedCells<V, T>;
  struct Strip {
    int64_t first;   // output
    int64_t planes;  // that share a vector
    bool edge;       // whether any of its windows holds padding along the row
    Mask real[3 * N];
    V divisors[N];  // of its columns, if sums are divided
  };
  // N windows of one row.
  struct Part {
    Vec<V> v;
    LV at;
  };
  // Where the cells of a block are, of one of its planes, and where its outputs go.
  struct Place {
    const T* cells;
    int64_t to, room;
  };

  void add_strip(int64_t first, int64_t planes) {
    const Axis& a = w_.w;
    const int64_t width = N / planes;
    Strip strip{first, planes, false, {}, {}};
    for (int64_t t = 0; t < a.kernel; ++t)
      for (int64_t k = 0; k < N; ++k) {
        const int64_t at = a.stride == 2 && planes == 1 && !kPairs ? lane_of<V>(int(k)) : k;
        const int64_t output = first + at % width, cell = a.start(output) + t;
        const bool real = (0 <= cell && cell < a.size) || output >= a.out;
        strip.edge |= !real;
        strip.real[t * N + k] = Mask(real ? -1 : 0);
      }
    if constexpr (R::kSums)
      if (result_.divisors)
        for (int64_t k = 0; k < N; ++k)
          strip.divisors[k] = V(result_.divisors->column(std::min(a.out - 1, first + k % width)));
    strips_.push_back(strip);
  }

  template <int K, int S>
  void pool(const Block& b, int64_t row_end, int64_t plane_end, int64_t origin) {
    const Axis &a = w_.w, &h = w_.h;
    Place places[kMost];
    for (int64_t p = 0; p < together_; ++p) {
      const int64_t plane = b.plane + std::min(p, b.planes - 1);
      Place& place = places[p];
      place.cells = find_rows(plane, b, copies_[p]) - a.before;
      place.to = (plane * h.out + b.h0) * a.out - origin;
      place.room = (row_end - b.h0) * a.out;
      // (Behind any other plane lies one that is written at the same time.)
      if (p + 1 >= b.planes && row_end == h.out)
        place.room += std::max<int64_t>(0, plane_end - plane - 1) * h.out * a.out;
    }
    for (const Strip& strip : strips_) {
      const auto go = [&]<int P>() {
        for (int64_t p = 0; p < b.planes; p += P)
          strip.edge ? down<K, S, true, P>(places + p, b, strip)
                     : down<K, S, false, P>(places + p, b, strip);
      };
      if (strip.planes == 1) go.template operator()<1>();
      if constexpr (kMost >= 2)
        if (strip.planes == 2) go.template operator()<2>();
      if constexpr (kMost >= 4)
        if (strip.planes == 4) go.template operator()<4>();
      if constexpr (kMost >= 8)
        if (strip.planes == 8) go.template operator()<8>();
    }
  }

  // The plane, if all that is read of it lies in the tensor, or a copy of the block's rows.
  const T* find_rows(int64_t number, const Block& b, Buffer<T>& buffer) {
    const Axis &a = w_.w, &h = w_.h;
    const int64_t low = std::clamp<int64_t>(h.start(b.h0), 0, h.size);
    const int64_t high = std::clamp<int64_t>(h.start(b.h1 - 1) + h.kernel, low, h.size);
    const T* const plane = x_ + number * w_.cells();
    const T *const from = plane + low * a.size, *const to = plane + (high - 1) * a.size;
    if (from - x_ >= a.before && end_ - to >= reach_) return plane;
    const int64_t n = (high - low) * a.size, room = a.before + n + std::max(reach_, a.size);
    T* const copy = buffer.reserve(room);
    std::fill_n(copy, room, T{});
    std::copy_n(from, n, copy + a.before);
    return copy + a.before - low * a.size;
  }

  // One strip of the rows of a block, of P of its planes.
  template <int K, int S, bool Edge, int P>
  void down(const Place* places, const Block& b, const Strip& strip) {
    const Axis &a = w_.w, &h = w_.h;
    const int64_t line = a.size;
    // The next block lies behind this one, or behind all planes of this one. (What is not far is
    // asked for when it is there.)
    const int64_t block = b.h1 - b.h0 == h.out ? together_ * w_.cells() : (b.h1 - b.h0) * S * line;
    const int64_t ahead = far_ ? block : 0;
    const T* first[P];
    for (int p = 0; p < P; ++p) first[p] = places[p].cells + strip.first * S;
    Watched special;
    // Rows above and below the plane are read from a row of cells that never count.
    const T* const none = none_;
    const auto rows_in = uint64_t(h.size);
    const auto row = [&](int64_t r) __attribute__((always_inline)) {
      const bool real = uint64_t(r) < rows_in;
      const T* cells[P];
      for (int p = 0; p < P; ++p) cells[p] = real ? first[p] + r * line : none;
      for (int p = 0; p < P; ++p) fetch<N / P * S>(first[p] + r * line + ahead);
      Part part = along<K, S, Edge>(cells, strip.real, special);
      if constexpr (kBelow)
        if (!real) part.v = splat(nothing());
      return part;
    };
    Output<P> out(*this, places, strip);
    [[maybe_unused]] const bool padded = Edge || padded_;
    [[maybe_unused]] const auto divisors = divisors_of<R>(result_);
    [[maybe_unused]] const V* const row_divisors = row_divisors_.data();
    int64_t r = h.start(b.h0);
    Part rows[K];
    POOLKIT_UNROLL
    for (int t = 0; t < K - S; ++t) rows[t] = row(r + t);
    for (int64_t oh = b.h0; oh < b.h1; ++oh, r += S) {
      POOLKIT_UNROLL
      for (int t = K - S; t < K; ++t) rows[t] = row(r + t);
      Part all = joined<K>(rows);
      if constexpr (S == 2 && P == 1 && !kPairs) {
        all.v = in_order<V>(all.v);
        if constexpr (R::kOffsets) all.at = in_order<L>(all.at);
      }
      if constexpr (R::kSums)
        if (divisors)
          all.v = divisors->quotients(all.v, splat(row_divisors[oh]) * load(strip.divisors));
      if constexpr (R::kOffsets && !kBelow)
        if (padded) special.equal(all.v, splat(convert<V>(lowest<T>())));
      out.put(all);
      POOLKIT_UNROLL
      for (int t = 0; t < K - S; ++t) rows[t] = rows[t + S];
    }
    special_.join(special);
  }

  static constexpr V nothing() {
    if constexpr (R::kSums)
      return V{};
    else
      return lowest<V>();
  }

  // A row of each of P planes, reduced along itself.
  template <int K, int S, bool Edge, int P>
  [[gnu::always_inline]] static Part along(const T* const (&cells)[P], const Mask* real,
                                           Watched& special) {
    Vec<V> v[K];
    if constexpr (S == 1) {
      POOLKIT_UNROLL
      for (int t = 0; t < K; ++t) v[t] = get<P>(cells, t, special);
    } else if constexpr (kPairs && P == 1) {
      POOLKIT_UNROLL
      for (int t = 0; t < K; t += 2) {
        Vec<V> parts[2];
        load_parts<V>(cells[0] + t, parts);
        v[t] = summand<R>(parts[0]);
        if (t + 1 < K) v[t + 1] = summand<R>(parts[1]);
      }
    } else {
      // The first N cells of 2N, and the others.
      const auto halves = [&](int64_t at, Vec<V>& low,
                              Vec<V>& high) __attribute__((always_inline)) {
        if constexpr (P == 1)
          low = get<1>(cells, at, special), high = get<1>(cells, at + N, special);
        else
          low = get<P / 2>(cells, at, special), high = get<P / 2>(cells + P / 2, at, special);
      };
      Vec<V> low, high;
      halves(0, low, high);
      const auto half = [&](int odd) __attribute__((always_inline)) {
        return P == 1 ? split<V>(low, high, odd) : every_second<V>(low, high, odd);
      };
      v[0] = half(0), v[1] = half(1);
      if constexpr (K == 3 && P > 1) {
        v[2] = next_lane<V>(v[0]);
      } else if constexpr (K == 3) {
        halves(2, low, high);
        v[2] = half(0);
      }
    }
    if constexpr (Edge) {
      POOLKIT_UNROLL
      for (int t = 0; t < K; ++t) {
        const Vec<Mask> mask = load(real + t * N);
        v[t] = Vec<V>((Vec<Mask>(v[t]) & mask) | (Vec<Mask>(splat(nothing())) & ~mask));
      }
    }
    if constexpr (!R::kSums && std::is_same_v<T, V>) {
      special.unordered(v[0], v[1]);
      if constexpr (K == 3) special.unordered(v[2], v[2]);
    }
    Part best{v[0], {}};
    POOLKIT_UNROLL
    for (int t = 1; t < K; ++t) {
      LV tap{};
      if constexpr (R::kOffsets) tap = splat(L(t));
      meet<R, false>(best.v, best.at, v[t], tap);
    }
    return best;
  }

  // The first cells of P planes, one plane after the other.
  template <int P, int Each = N / P>
  [[gnu::always_inline]] static Vec<V> get(const T* const* cells, int64_t at, Watched& special) {
    if constexpr (P > 1) {
      const Vec<V> some = get<P / 2, Each>(cells, at, special);
      const Vec<V> others = get<P / 2, Each>(cells + P / 2, at, special);
      return first_lanes<V, P / 2 * Each>(some, others);
    } else if constexpr (R::kSums) {
      return summand<R>(load_as<V>(cells[0] + at));
    } else if constexpr (std::is_same_v<T, V>) {
      return load(cells[0] + at);
    } else if constexpr (kKeys<V, T>) {
      return special.keys.read(cells[0] + at);
    } else {
      return read<V>(cells[0] + at, special.lanes());
    }
  }

  // Row after row joins.
  template <int K>
  [[gnu::always_inline]] static Part joined(const Part (&rows)[K]) {
    Part best = rows[0];
    POOLKIT_UNROLL
    for (int t = 1; t < K; ++t) {
      LV tap = rows[t].at;
      if constexpr (R::kOffsets) tap += splat(L(t * K));
      meet<R, false>(best.v, best.at, rows[t].v, tap);
    }
    if constexpr (R::kSums) best.v += Vec<V>{};  // -0 becomes +0, as if sums began with 0
    return best;
  }

  // The rows of outputs, one after the other.
  template <int P>
  class Output {
   public:
    Output(const StripPool& pool, const Place* places, const Strip& strip)
        : y_(pool.result_.y),
          offsets_(static_cast<uint8_t*>(pool.result_.offsets.data)),
          line_(pool.w_.w.out) {
      for (int p = 0; p < P; ++p)
        to_[p] = places[p].to + strip.first, room_[p] = places[p].room - strip.first;
    }

    [[gnu::always_inline]] void put(const Part& part) {
      put_values(y_, part.v, [](T* to, const Vec<V>& all) { write<T, V>(to, all); });
      if constexpr (R::kOffsets)
        put_values(offsets_, part.at,
                   [](uint8_t* to, const Vec<L>& all) { store_as<uint8_t, L>(to, all); });
      for (int p = 0; p < P; ++p) to_[p] += line_, room_[p] -= line_;
    }

   private:
    template <class D, class W, class Store>
    [[gnu::always_inline]] void put_values(D* to, const W& v, const Store& store) const {
      constexpr int64_t kSome = N / P;
      if (P == 1 && __builtin_expect(room_[0] >= N, 1)) return store(to + to_[0], v);
      D some[N];
      store(some, v);
      for (int p = 0; p < P; ++p)
        if (room_[p] >= kSome)
          std::copy_n(some + p * kSome, kSome, to + to_[p]);
        else
          std::copy_n(some + p * kSome, room_[p], to + to_[p]);
    }

    T* const y_;
    uint8_t* const offsets_;
    const int64_t line_;
    int64_t to_[P], room_[P];
  };

  const T *const x_, *const end_;
  const Window& w_;
  const Result<F, T>& result_;
  const int together_;  // planes of a block
  const bool far_;
  std::vector<Strip> strips_;
  std::vector<V> row_divisors_;
  int64_t reach_;  // so many values are read from the first of a row on
  bool padded_;    // whether any window holds padding
  Watched special_{};
  static constexpr int kNone = 2 * N + 4;
  T none_[kNone];
  Buffer<T> copies_[kMost];
};

}  // namespace poolkit
