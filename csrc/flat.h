// Flat planes: the forward scheme for windows of stride 1 that give as many outputs as there are
// cells, over contiguous planes of short rows.
//
// There a tap is a distance, whatever row a cell is in. So a plane is taken for one long row, and
// no vector ends where a row does:
//
// clang-format off
//   plane       a b c d | e f g h | i j k l      along:  each cell with its neighbours, 3/1/1 here;
//               . a b c | . e f g | . i j k              masks, a table as long as a row and a
//               b c d . | f g h . | j k l .              vector, say where rows end
//   rows      - - - - | A B C D | E F G H | I J K L | - - - -
//                                                down:   each with those of the rows around it;
//                                                        above and below the plane lie rows of
//                                                        cells that never count
// clang-format on
//
// What lies between is as long as a few planes and stays in the first-level cache. Values of half
// types are converted into such a buffer beforehand.
//
// Cells are watched for NaN while they are read, and results for the least value there is, which
// padding could have given; where something special is met, rows.h does the block again.
#pragma once

#include "result.h"
#include "rows.h"
#include "strips.h"

namespace poolkit {

// Whether rows of so many outputs pay, of windows that strips have too: measured, and a matter of
// how many lanes rows leave empty there. Offsets as wide as the values make rows of parts twice as
// wide.
template <class F>
bool suits_flat_rows(int64_t outputs) {
  constexpr int lanes = kLanes<typename F::V>;
  if (sizeof(typename F::V) < 4) return outputs <= std::min(48, lanes * 3 / 2);
  if (lanes == 8) return outputs <= (F::Plain::kSums ? 112 : 20);
  if (lanes < 8) return outputs <= (F::Plain::kOffsets ? 8 : lanes * 3 / 2);
  if (F::Plain::kOffsets) return outputs <= 12 || (16 < outputs && outputs <= 24);
  return outputs <= 42;
}

// Whether that is possible, and pays: a plane is one piece of work, and its rows should stay in a
// near cache, where strips can be cut as one likes. Every tap costs an instruction or two, so
// windows are small (rows.h takes fewer steps for large ones), and most of their taps are cells.
template <class F>
bool suits_flat(const Window& w, int64_t planes) {
  const auto flat = [](const Axis& a) {
    return !a.adaptive() && a.stride == 1 && a.out == a.size && 1 < a.kernel && a.kernel <= 16 &&
           2 * a.extent() <= 3 * a.size;
  };
  if (!w.d.identity() || !flat(w.h) || !flat(w.w)) return false;
  if (suits_strips<F>(w, false) && (planes < 16 || !suits_flat_rows<F>(w.w.out))) return false;
  return w.w.size <= 112 && w.cells() <= 1 << 14;
}

// K: the taps of both axes, where that is known while compiling and a window lies about its cell,
// or 0.
template <class F, class T, int K>
class FlatPool {
  using R = typename F::Plain;
  using V = typename R::Value;
  using L = typename R::Lane;
  using LV = typename LaneVector<L>::type;
  using Mask = std::make_signed_t<Unsigned<sizeof(V)>>;
  static constexpr int N = kLanes<V>;
  static constexpr bool kConverts = !std::is_same_v<T, V>;

 public:
  // `most` planes at a time.
  FlatPool(const T* x, int64_t planes, const Window& w, const Result<F, T>& result, int64_t most)
      : x_(x), all_(planes * w.cells()), w_(w), result_(result), far_(is_far<T>(all_)) {
    // Filled, because additions of what happens to lie in memory may be slow.
    const int64_t room = most * pitch_;
    std::fill_n(rows_.reserve(room), room, nothing());
    if constexpr (kConverts) std::fill_n(cells_.reserve(room), room, V{});
    taps_.reserve(room);
    const Axis& a = w.w;
    real_.resize(size_t(a.kernel * pattern_));
    Mask* real = real_.data();
    for (int64_t t = 0; t < a.kernel; ++t)
      for (int64_t i = 0, column = 0; i < pattern_;
           ++i, column = column + 1 < a.size ? column + 1 : 0) {
        const int64_t cell = column + shift(a, t);
        *real++ = Mask(0 <= cell && cell < a.size ? -1 : 0);
      }
    for (int64_t k = 0; k < N; ++k) last_[k] = Mask(k < w.cells() - (vectors_ - 1) * N ? -1 : 0);
    if constexpr (R::kSums)
      if (result.divisors) {
        divisors_.assign(size_t(vectors_ * N), V(1));
        V* divisor = divisors_.data();
        for (int64_t h = 0; h < w.h.out; ++h)
          for (int64_t i = 0; i < a.out; ++i)
            *divisor++ = result.divisors->divisor(V(result.divisors->row(0, h)), i);
      }
  }

  // Planes [first, last). What lies behind them may be written too, up to plane `end`: it is
  // written later. False if something special was met.
  bool operator()(int64_t first, int64_t last, int64_t end) {
    special_ = Watch<V>{};
    const int64_t n = w_.cells();
    const int64_t ahead = far_ ? (last - first) * n : 0;
    for (int64_t plane = first; plane < last; ++plane)
      along(plane, (plane - first) * pitch_, ahead);
    for (int64_t plane = first; plane < last; ++plane)
      down((plane - first) * pitch_, plane * n, (end - plane) * n);
    return R::kSums || !special_.any();
  }

  // Values that the buffers hold for a plane: its cells, and what is read before and behind them.
  static int64_t pitch(const Window& w) {
    const auto most = [](const Axis& a) { return shift(a, a.kernel - 1); };
    return before(w) + rounded(w.cells()) + rounded(most(w.h) * w.w.size + most(w.w)) + N;
  }

 private:
  static int64_t rounded(int64_t n) { return (std::max<int64_t>(n, 1) + N - 1) / N * N; }
  static int64_t before(const Window& w) { return rounded(w.h.before * w.w.size + w.w.before); }
  // From an output to the cell that is its tap t.
  static int64_t shift(const Axis& a, int64_t t) { return t * a.dilation - a.before; }

  static constexpr V nothing() {
    if constexpr (R::kSums)
      return V{};
    else
      return lowest<V>();
  }

  // The cells of a plane, where vectors can be read from before the first and beyond the last.
  const V* find_cells(int64_t plane, [[maybe_unused]] int64_t at) {
    const int64_t n = w_.cells(), first = plane * n;
    const T* const from = x_ + first;
    if constexpr (!kConverts) {
      const int64_t end = first + vectors_ * N + shift(w_.w, w_.w.kernel - 1);
      if (first >= w_.w.before && end <= all_) return from;
      std::fill_n(copy_.reserve(pitch_), pitch_, V{});
      std::copy_n(from, n, copy_.get() + before_);
      return copy_.get() + before_;
    } else {
      V* const to = cells_.get() + at + before_;
      Special<V> special = special_.lanes();
      const int64_t whole = std::min(vectors_, (all_ - first) / N) * N;
      for (int64_t i = 0; i < whole; i += N) store(to + i, get(from + i, special));
      if (whole < n) {
        T some[N] = {};
        std::copy_n(from + whole, n - whole, some);
        store(to + whole, get(some, special));
      }
      special_.lanes() = special;
      return to;
    }
  }
  static Vec<V> get(const T* p, Special<V>& special) {
    if constexpr (R::kSums)
      return load_as<V>(p);
    else
      return read<V>(p, special);
  }

  // Each cell of a plane with its neighbours in the row.
  void along(int64_t plane, int64_t at, int64_t ahead) {
    const Axis& a = w_.w;
    const V* const cells = find_cells(plane, at);
    V* const to = rows_.get() + at + before_;
    L* const taps = lane(taps_.get(), at + before_);
    Watch<V> special = special_;
    const int64_t steps = N % a.size;
    const Mask* real = real_.data();
    for (int64_t v = 0, column = 0; v < vectors_; ++v) {
      const V* const p = cells + v * N - a.before;
      fetch<N>(x_ + plane * w_.cells() + v * N + ahead);
      if constexpr (!R::kSums) {
        const Vec<V> own = load(cells + v * N);
        special.unordered(own, own);
      }
      const auto get = [&](int64_t t) __attribute__((always_inline)) {
        const Vec<V> cell = summand<R>(load(p + t * (K ? 1 : a.dilation)));
        if (K && t == K / 2) return cell;
        const Vec<Mask> mask = load(real + t * pattern_ + column);
        return Vec<V>((Vec<Mask>(cell) & mask) | (Vec<Mask>(splat(nothing())) & ~mask));
      };
      Vec<V> best = get(0);
      LV tap = number(0);
      for_taps(a, [&](int64_t t) { meet<R, false>(best, tap, get(t), number(t)); });
      store(to + v * N, best);
      if constexpr (R::kOffsets) store(taps + v * N, tap);
      column += steps;
      if (column >= a.size) column -= a.size;
    }
    special_ = special;
    const int64_t behind = shift(w_.h, w_.h.kernel - 1) * a.size;
    for (int64_t i = 0; i < behind; i += N) store(to + w_.cells() + i, splat(nothing()));
  }

  // Each row with those around it; `room` outputs from `at` on may be written.
  void down(int64_t from, int64_t at, int64_t room) {
    const Axis& a = w_.h;
    const int64_t line = w_.w.size, width = w_.w.kernel, step = a.dilation * line;
    const V* const rows = rows_.get() + from + before_ - a.before * line;
    const L* const taps = lane(taps_.get(), from + before_ - a.before * line);
    [[maybe_unused]] const auto divisors = divisors_of<R>(result_);
    T* const y = result_.y + at;
    Watch<V> special = special_;
    for (int64_t i = 0; i < vectors_ * N; i += N) {
      const auto tap_of = [&](int64_t t) __attribute__((always_inline)) {
        LV tap = number(t * (K ? K : width));
        if constexpr (R::kOffsets) tap += load(taps + i + t * step);
        return tap;
      };
      Vec<V> best = load(rows + i);
      LV tap = tap_of(0);
      for_taps(a,
               [&](int64_t t) { meet<R, false>(best, tap, load(rows + i + t * step), tap_of(t)); });
      if constexpr (R::kSums) {
        best += Vec<V>{};  // -0 becomes +0, as if sums began with 0
        if (divisors) best = divisors->quotients(best, load(divisors_.data() + i));
      }
      if constexpr (R::kOffsets) {
        Vec<V> own = best;  // and not what the last vector has beyond the plane
        if (i == (vectors_ - 1) * N) own = Vec<V>(Vec<Mask>(best) & load(last_));
        special.equal(own, splat(nothing()));
      }
      put<T, V>(y + i, best, room - i);
      if constexpr (R::kOffsets)
        put<uint8_t, L>(static_cast<uint8_t*>(result_.offsets.data) + at + i, tap, room - i);
    }
    special_ = special;
  }

  template <class D, class W>
  [[gnu::always_inline]] static void put(D* to, const Vec<W>& v, int64_t room) {
    room >= N ? write<D, W>(to, v) : write_some<D, W>(to, v, room);
  }

  // Calls f(t) for every tap of an axis but the first.
  template <class Each>
  [[gnu::always_inline]] static void for_taps(const Axis& a, const Each& f) {
    if constexpr (K > 0) {
      POOLKIT_UNROLL
      for (int t = 1; t < K; ++t) f(t);
    } else {
      for (int64_t t = 1; t < a.kernel; ++t) f(t);
    }
  }
  [[gnu::always_inline]] static LV number(int64_t tap) {
    if constexpr (R::kOffsets)
      return splat(L(tap));
    else
      return {};
  }

  const T* const x_;
  const int64_t all_;  // cells of all planes
  const Window& w_;
  const Result<F, T>& result_;
  const bool far_;
  const int64_t vectors_ = rounded(w_.cells()) / N, before_ = before(w_), pitch_ = pitch(w_);
  const int64_t pattern_ = w_.w.size + N;
  std::vector<Mask> real_;   // for each tap: whether it is a cell, for columns 0, 1, ..., 0, 1, ...
  Mask last_[N];             // whether a lane of the last vector is an output
  std::vector<V> divisors_;  // of each output, if sums are divided
  Watch<V> special_{};
  Buffer<V> cells_, rows_, copy_;
  Buffer<L> taps_;
};

}  // namespace poolkit
