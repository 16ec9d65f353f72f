// Windows read where they lie: the forward scheme for small windows over contiguous rows.
//
// clang-format off
//   stride 1, kernel 3   a b c d e f ...   tap 0 of N neighbouring windows: one vector,
//                          b c d e f ...   tap 1: the vector that begins a cell later
//                            c d e f ...   tap 2
//   stride 2             a b c d e f ...   two vectors make one of even cells, a c e ...,
//                                          and one of odd cells, b d f ...
//   stride 4             a b c d e f ...   four vectors make four, of every fourth cell
// clang-format on
//
// Nothing is copied beforehand and nothing is thrown away but the last lanes of a row: cells come
// from memory to a register, a vector of results goes back. Lanes whose cell is padding get its
// value by a mask; only the first and the last vectors of a row have such lanes. Rows that several
// rows of outputs share are reduced once, into a buffer.
//
// Cells are watched as in rows.h; where something special is met, that scheme does the block again.
#pragma once

#include "result.h"
#include "rows.h"

namespace poolkit {

// The types of networks; for the others it would be much code that hardly anybody runs.
template <class F>
constexpr bool kHasDirect = !std::is_same_v<typename F::Offset, LargeOffset> &&
                            (std::is_same_v<typename F::V, float> || sizeof(typename F::V) <= 2);

// Sums of floats: their vectors are parted twice.
template <class F>
constexpr bool kByFourths = F::Plain::kSums && std::is_same_v<typename F::V, float>;

// Whether rows are read where they are: few taps, neighbours in vectors, pairs or fours of them,
// and rows of results long enough to pay for what every row costs. Planes of shorter ones are
// turned into lanes, at a fixed price for each cell; only pairs, and half types that would be
// parted into phases first, are worth it earlier.
template <class F>
bool suits_direct(const Window& w) {
  using V = typename F::V;
  const Axis& a = w.w;
  const auto fixed = [](const Axis& axis) {
    return !axis.adaptive() && axis.kernel <= 8 &&
           std::max(axis.before, axis.after) < axis.extent() && axis.extent() <= 2 * axis.size + 64;
  };
  if (!fixed(w.d) || !fixed(w.h) || !fixed(a) || a.kernel == 1) return false;
  if (a.stride == 4 ? !kByFourths<F> : a.stride > 2) return false;
  if (a.stride > 1 && (a.dilation > 1 || (a.stride == 2 && a.kernel > 3))) return false;
  const bool early = a.stride == 2 && (sizeof(V) <= 2 || a.kernel == 2);
  const int64_t vectors = (a.out + kLanes<V> - 1) / kLanes<V>;
  return a.out >= (early ? 24 : 96) && 2 * a.out >= vectors * kLanes<V>;
}

// Reduces rows of outputs of one plane.
template <class F, class T>
class DirectPool {
  using R = typename F::Plain;
  using V = typename R::Value;
  using L = typename R::Lane;
  using LV = typename LaneVector<L>::type;
  using Mask = std::make_signed_t<Unsigned<sizeof(V)>>;
  static constexpr int N = kLanes<V>;
  // Cells are asked for so far ahead: the processor loses sight of rows that go side by side.
  static constexpr int64_t kAhead = (kVectorBytes == 64 ? 4 << 10 : 2 << 10) / int64_t(sizeof(T));
  // As in strips.h.
  static constexpr bool kPairs = R::kSums && std::is_same_v<T, BFloat16>;
  static constexpr bool kWatch =
      R::kOffsets && (std::is_same_v<T, V> || std::is_floating_point_v<V>);

 public:
  DirectPool(const T* x, int64_t planes, const Window& w, const Result<F, T>& result)
      : x_(x), end_(x + planes * w.cells()), w_(w), result_(result) {
    const Axis& a = w.w;
    vectors_ = (a.out + N - 1) / N;
    inner_begin_ = (a.inner_begin() + N - 1) / N;
    inner_end_ = a.inner_end() == a.out ? vectors_ : a.inner_end() / N;
    // Of inner vectors only the first taps are watched: later vectors begin with the others.
    inner_end_ = std::min(inner_end_, vectors_ - 1 - a.extent() / a.stride / N);
    inner_end_ = std::max(inner_begin_, inner_end_);
    rows_.resize(size_t(w.d.kernel * w.h.kernel));
    reach_ = vectors_ * N * a.stride + a.extent() + 2 * N;
    const int64_t edges = vectors_ - (inner_end_ - inner_begin_);
    masks_.resize(size_t(edges * a.kernel * N));
    Mask* mask = masks_.data();
    for (int64_t j = 0; j < vectors_; ++j) {
      if (j == inner_begin_) j = inner_end_;
      for (int64_t t = 0; j < vectors_ && t < a.kernel; ++t)
        for (int64_t k = 0; k < N; ++k) {
          const int64_t cell = a.start(j * N + output_in(int(k))) + t * a.dilation;
          *mask++ = Mask(0 <= cell && cell < a.size ? -1 : 0);
        }
    }
  }

  // The rows [h0, h1) of depth d0 of a plane. False if something special was met.
  bool operator()(const Block& b) {
    special_ = Special<V>{};
    if (w_.w.stride == 1)
      rows<1, 0>(b);
    else if (w_.w.stride == 2)
      w_.w.kernel == 2 ? rows<2, 2>(b) : rows<2, 3>(b);
    else if constexpr (kByFourths<F>)
      rows<4, 0>(b);
    return R::kSums || !any(special_);
  }

 private:
  // A vector of reduced windows, or of parts of them.
  struct Part {
    Vec<V> v;
    LV at;
  };
  // A row of such, or of cells.
  struct Row {
    const V* v;
    const L* at;
    const T* cells;
    int64_t base;
    bool opens;
  };

  // Which output of a vector is reduced in lane k.
  int output_in(int k) const {
    if (w_.w.stride == 2) return kPairs ? k : lane_of<V>(k);
    if constexpr (kByFourths<F>)
      if (w_.w.stride == 4) return lane_of_fourth<V>(k);
    return k;
  }

  // S: the stride; K: the taps along the row, or 0 if they are many.
  template <int S, int K>
  void rows(const Block& b) {
    const auto shared = [](const Axis& a) { return a.kernel > 1 && a.stride < a.extent(); };
    const bool keeps = shared(w_.d) || shared(w_.h);
    const Axis &d = w_.d, &h = w_.h;
    const Span seen(h, b.h0, b.h1);
    const int64_t pitch = vectors_ * N, slice = seen.size() * pitch;
    const int64_t d0 = d.first(b.d0), d1 = d.last(b.d0);
    if (keeps) {
      values_.reserve((d1 - d0) * slice), taps_.reserve((d1 - d0) * slice);
      for (int64_t td = d0; td < d1; ++td)
        for (int64_t y = seen.low; y < seen.high; ++y) {
          const int64_t to = (td - d0) * slice + (y - seen.low) * pitch;
          const T* const cells = find_row(b.plane, d.start(b.d0) + td * d.dilation, y, 0);
          reduce_row<S, K>(cells, values_.get() + to, lane(taps_.get(), to));
        }
      if (!R::kSums && any(special_)) return;
    }
    Output out(*this, b);
    const int64_t inner = h.inner_begin(), outer = h.inner_end();
    for (int64_t oh = b.h0; oh < b.h1; ++oh, out.next()) {
      // From row to row of whole windows everything moves on by as much.
      const bool same = oh > b.h0 && inner < oh && oh < outer;
      if (!same || !(keeps ? move_on(h.stride * pitch) : move_on_cells(h.stride * w_.w.size))) {
        out.start(oh);
        count_ = 0;
        const int64_t h0 = h.first(oh), h1 = h.last(oh), top = h.start(oh);
        for (int64_t td = d0; td < d1; ++td)
          for (int64_t th = h0; th < h1; ++th, ++count_) {
            const int64_t y = top + th * h.dilation;
            const int64_t from = (td - d0) * slice + (y - seen.low) * pitch;
            Row& row = rows_[size_t(count_)];
            row.v = values_.get() + from, row.at = lane(taps_.get(), from);
            row.base = w_.number(td, th, 0), row.opens = th == h0;
            if (!keeps) row.cells = find_row(b.plane, d.start(b.d0) + td * d.dilation, y, count_);
          }
      }
      const int64_t known = keeps && d1 - d0 != 1 ? 0 : count_;
      if (!keeps)
        known == 2 ? finish_row_from_cells<S, K, 2>(out) : finish_row_from_cells<S, K, 0>(out);
      else if (known == 2)
        finish_row<2>(out);
      else if (known == 3)
        finish_row<3>(out);
      else
        finish_row<0>(out);
    }
  }

  bool move_on(int64_t step) {
    for (int64_t k = 0; k < count_; ++k)
      rows_[size_t(k)].v += step, rows_[size_t(k)].at = lane(rows_[size_t(k)].at, step);
    return true;
  }
  // False if the next rows are not read where they lie, or these are not: copies lie elsewhere.
  bool move_on_cells(int64_t step) {
    if (count_ == 0) return true;
    const T *const first = rows_[0].cells, *const last = rows_[size_t(count_ - 1)].cells;
    const auto copied = [&](const T* cells) { return cells < x_ || cells >= end_; };
    if (copied(first) || copied(last) || end_ - last < step + reach_) return false;
    for (int64_t k = 0; k < count_; ++k) rows_[size_t(k)].cells += step;
    return true;
  }

  // The cells of a row of the input. Vectors may be read beyond both of its ends: those of the
  // first and the last rows of the tensor are copied to where there is room.
  const T* find_row(int64_t plane, int64_t d, int64_t h, int64_t number) {
    const Axis& a = w_.w;
    const T* const row = x_ + plane * w_.cells() + (d * w_.h.size + h) * a.size;
    if (row - x_ >= a.before && end_ - row >= reach_) return row;
    const int64_t room = a.before + reach_;
    T* const copy = copies_.reserve(room * w_.d.kernel * w_.h.kernel) + number * room;
    std::fill_n(copy, room, T{});
    std::copy_n(row, a.size, copy + a.before);
    return copy + a.before;
  }

  // Vectors that go along the row together where taps are counted as they come: a turn of that loop
  // costs more than the cells of one vector.
  template <int S, int K>
  static constexpr int kTogether = S == 1 && K == 0 ? 4 : 1;

  // Calls f(j, mask) for each vector of a row, f.operator()<true, 1> for those with padding, and
  // f.operator()<false, U> for U others.
  template <int U, class Each>
  [[gnu::always_inline]] void for_vectors(const Each& f) const {
    const Mask* mask = masks_.data();
    const int64_t step = w_.w.kernel * N, begin = inner_begin_, end = inner_end_, all = vectors_;
    int64_t j = 0;
    for (; j < begin; ++j, mask += step) f.template operator()<true, 1>(j, mask);
    if constexpr (U > 1)
      for (; j + U <= end; j += U) f.template operator()<false, U>(j, mask);
    for (; j < end; ++j) f.template operator()<false, 1>(j, mask);
    for (; j < all; ++j, mask += step) f.template operator()<true, 1>(j, mask);
  }

  // U vectors of windows of one row, the first of which begins at p.
  template <int S, int K, bool Edge, int U>
  [[gnu::always_inline]] static void along(const T* p, const Mask* mask, int64_t count,
                                           int64_t dilation, Special<V>& special, Part* best) {
    static_assert(U == 1 || (S == 1 && !Edge));
    const int64_t taps = K ? K : count;
    const auto get = [&](int64_t at, bool first) {
      if constexpr (R::kSums) {
        return summand<R>(load_as<V>(p + at));
      } else {
        Special<V> here{};
        const Vec<V> v = read<V, true>(p + at, here);
        if constexpr (kWatch) here |= v == lowest<V>();
        if (Edge || first) special |= here;
        return v;
      }
    };
    const auto add = [&](int64_t t, Vec<V> v, Part& part) {
      if constexpr (Edge) {
        const Vec<Mask> real = load(mask + t * N);
        v = Vec<V>(Vec<Mask>(v) & real);
        if constexpr (!R::kSums) v = Vec<V>(Vec<Mask>(v) | (Vec<Mask>(splat(lowest<V>())) & ~real));
      }
      LV tap{};
      if constexpr (R::kOffsets) tap = splat(L(t));
      if (t == 0)
        part.v = v, part.at = tap;
      else
        meet<R, false>(part.v, part.at, v, tap);
    };
    const auto step = [&](int64_t t) {
      if constexpr (S == 1) {
        POOLKIT_UNROLL
        for (int u = 0; u < U; ++u) add(t, get(t * dilation + u * N, t == 0), best[u]);
      } else if constexpr (S == 4) {
        Vec<V> two[2][2];
        POOLKIT_UNROLL
        for (int half = 0; half < 2; ++half) {
          const Vec<V> low = get(t + half * 2 * N, t == 0),
                       high = get(t + half * 2 * N + N, t == 0);
          two[0][half] = split<V>(low, high, 0), two[1][half] = split<V>(low, high, 1);
        }
        POOLKIT_UNROLL
        for (int k = 0; k < 4; ++k)
          if (t + k < taps) add(t + k, split<V>(two[k % 2][0], two[k % 2][1], k / 2), *best);
      } else if constexpr (kPairs) {
        Vec<V> parts[2];
        load_parts<V>(p + t, parts);
        add(t, summand<R>(parts[0]), *best);
        if (t + 1 < taps) add(t + 1, summand<R>(parts[1]), *best);
      } else {
        const Vec<V> low = get(t, t == 0), high = get(t + N, t == 0);
        add(t, split<V>(low, high, 0), *best);
        if (t + 1 < taps) add(t + 1, split<V>(low, high, 1), *best);
      }
    };
    if constexpr (K > 0) {
      POOLKIT_UNROLL
      for (int t = 0; t < K; t += S) step(t);
    } else {
      step(0);
      for (int64_t t = S; t < taps; t += S) step(t);
    }
    if constexpr (S == 2 && !kPairs) {
      best->v = in_order<V>(best->v);
      if constexpr (R::kOffsets) best->at = in_order<L>(best->at);
    }
    if constexpr (S == 4) best->v = fourths_in_order<V>(best->v);
  }

  template <int S, int K>
  void reduce_row(const T* cells, V* to, L* to_taps) {
    Special<V> special = special_;
    const T* const first = cells - w_.w.before;
    const int64_t taps = w_.w.kernel, dilation = w_.w.dilation;
    for_vectors<kTogether<S, K>>([&]<bool Edge, int U>(int64_t j, const Mask* mask) {
      Part parts[U] = {};
      along<S, K, Edge, U>(first + j * N * S, mask, taps, dilation, special, parts);
      POOLKIT_UNROLL
      for (int u = 0; u < U; ++u) {
        store(to + (j + u) * N, parts[u].v);
        if constexpr (R::kOffsets) store(to_taps + (j + u) * N, parts[u].at);
      }
    });
    special_ = special;
  }

  // A row of outputs. What a vector spills is written again, up to the end of the block.
  class Output {
   public:
    Output(const DirectPool& pool, const Block& b)
        : y_(pool.result_.y),
          d_(b.d0),
          line_(pool.w_.w.out),
          divisors_(divisors_of<R>(pool.result_)) {
      const Window& w = pool.w_;
      first_ = ((b.plane * w.d.out + b.d0) * w.h.out + b.h0) * line_;
      room_ = (b.h1 - b.h0) * line_;
      if constexpr (R::kOffsets) offsets_ = pool.result_.offsets;
    }

    // Windows of row h are divided as those of the next rows, until it is called again.
    void start(int64_t h) {
      if constexpr (R::kSums)
        if (divisors_) row_ = V(divisors_->row(d_, h));
    }
    void next() { first_ += line_, room_ -= line_; }

    [[gnu::always_inline]] void put(int64_t j, const Part& part) const {
      Vec<V> v = part.v;
      if constexpr (R::kSums)
        if (divisors_) v = divisors_->row_quotients(v, row_, j * N);
      const int64_t at = first_ + j * N, room = room_ - j * N;
      if (room >= N)
        write<T, V>(y_ + at, v);
      else
        write_some<T, V>(y_ + at, v, room);
      if constexpr (R::kOffsets)
        offsets_.template as<typename F::Offset>([&]<class O>(O* offsets) {
          if (room >= N) return store_as<O, L>(offsets + at, part.at);
          O some[N];
          store_as<O, L>(some, part.at);
          std::copy_n(some, room, offsets + at);
        });
    }

   private:
    T* const y_;
    const int64_t d_, line_;
    const Divisors<V>* const divisors_;
    int64_t first_ = 0, room_ = 0;
    V row_{};
    Offsets offsets_{};
  };

  // Row after row joins: down the slice, then the slices.
  struct Join {
    Part best{}, slice{};
    bool any = false;

    [[gnu::always_inline]] void operator()(Part part, const Row& row) {
      if constexpr (R::kSums) {
        if (row.opens) best.v += slice.v;
        slice.v = row.opens ? part.v : slice.v + part.v;
      } else {
        if constexpr (R::kOffsets) part.at += splat(L(row.base));
        if (any)
          meet<R, false>(best.v, best.at, part.v, part.at);
        else
          best = part;
        any = true;
      }
    }
    [[gnu::always_inline]] Part result() const {
      Part all = best;
      if constexpr (R::kSums) all.v += slice.v;
      return all;
    }
  };

  // C is the number of rows, all of one slice, if it is known, or 0.
  template <int C>
  void finish_row(const Output& out) {
    Row some[C + 1];  // in registers (and of no rows, none)
    for (int k = 0; k < C; ++k) some[k] = rows_[size_t(k)], some[k].opens = k == 0;
    const Row *const rows = rows_.data(), *const end = rows + count_;
    for (int64_t j = 0; j < vectors_; ++j) {
      Join join;
      const auto step = [&](const Row& row) __attribute__((always_inline)) {
        Part part{load(row.v + j * N), {}};
        if constexpr (R::kOffsets) part.at = load(row.at + j * N);
        join(part, row);
      };
      if constexpr (C > 0) {
        POOLKIT_UNROLL
        for (int k = 0; k < C; ++k) step(some[k]);
      } else {
        for (const Row* row = rows; row != end; ++row) step(*row);
      }
      out.put(j, join.result());
    }
  }

  // The same for rows that nobody shares: they never leave the registers.
  template <int S, int K, int C>
  void finish_row_from_cells(const Output& out) {
    Special<V> special = special_;
    const Row* const rows = rows_.data();
    const int64_t count = C ? C : count_;
    const int64_t before = w_.w.before, taps = w_.w.kernel, dilation = w_.w.dilation;
    for_vectors<kTogether<S, K>>([&]<bool Edge, int U>(int64_t j, const Mask* mask) {
      Join joins[U];
      const auto step = [&](int64_t k) {
        Part parts[U] = {};
        const T* const first = rows[k].cells + j * N * S - before;
        fetch<N * S * U>(first + kAhead);
        along<S, K, Edge, U>(first, mask, taps, dilation, special, parts);
        POOLKIT_UNROLL
        for (int u = 0; u < U; ++u) joins[u](parts[u], rows[k]);
      };
      if constexpr (C > 0) {
        POOLKIT_UNROLL
        for (int k = 0; k < C; ++k) step(k);
      } else {
        for (int64_t k = 0; k < count; ++k) step(k);
      }
      POOLKIT_UNROLL
      for (int u = 0; u < U; ++u) out.put(j + u, joins[u].result());
    });
    special_ = special;
  }

  const T *const x_, *const end_;
  const Window& w_;
  const Result<F, T>& result_;
  int64_t vectors_, inner_begin_, inner_end_;  // of a row; those that need no care
  int64_t reach_;                              // so many values are read from a row's first on
  std::vector<Mask> masks_;                    // of the others, for each tap: which cells are real
  Special<V> special_{};
  std::vector<Row> rows_;  // of a row of outputs
  int64_t count_ = 0;      // of these
  Buffer<V> values_;
  Buffer<L> taps_;
  Buffer<T> copies_;
};

}  // namespace poolkit
