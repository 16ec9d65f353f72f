// Blurs of stride 2 over contiguous rows, and their adjoint, in registers.
//
// clang-format off
//   down     a b c d | e f g h | i ...    vectors of sums of the rows of cells that a row of outputs
//                                         holds; at the ends an order puts padding into its lanes
//   parted   a c e g     i k m o          the sums of even and of odd positions, of one pair of
//            b d f h     j l n p          vectors and of the next
//   along    a c e g , b d f h , c e g i  tap 0, tap 1, and tap 2: even ones, a lane on
// clang-format on
//
// A vector of sums is computed once, and serves the outputs to its left and its own: blur.h writes
// sums to a row and reads them from other places, where they are not to be had until they have got
// to the cache. Backwards, sums of rows of gradients give the cells of even and of odd places, each
// from its own lane and the ones beside it. All sums are added up in the order of blur.h and
// blur_adjoint.h: the bits are theirs.
#pragma once

#include "ahead.h"
#include "blur_adjoint.h"

namespace poolkit {

// Whether an operator has such a scheme: for values that are worked on as floats.
template <class Op, class T>
constexpr bool kHasPairs =
#if defined(__AVX2__)
    (std::is_same_v<Op, BlurForward> || std::is_same_v<Op, BlurBackward>) &&
    std::is_same_v<Wide<T>, float>;
#else
    false;
#endif

template <class Op>
class Pairs;

#if defined(__AVX2__)
constexpr int kMostPairTaps = 5;

// Calls f for the number of taps along a row.
template <class F>
void for_pair_taps(int64_t taps, const F& f) {
  switch (taps) {
    case 2:
      return f.template operator()<2>();
    case 3:
      return f.template operator()<3>();
    case 4:
      return f.template operator()<4>();
    default:
      return f.template operator()<kMostPairTaps>();
  }
}

// Whether rows of so many outputs, of planes of so many such rows, pay: others are better off as
// lanes, or take too long to prepare. Measured.
inline bool has_pairs(const Blur& b, int64_t least, int64_t rows) {
  const Axis& a = b.w;
  return a.stride == 2 && 2 <= a.kernel && a.kernel <= kMostPairTaps && b.d.identity() &&
         least <= a.out && a.out <= 4096 && rows * a.out >= 8 * least;
}

// Rows and their weights. Count: a number, or a constant where the loop is to know it.
template <class S, class Count>
struct PairLines {
  const Line<S, float>* lines;
  Count n;

  // The sums of the vector that begins at cell `from`.
  [[gnu::always_inline]] Vec<float> operator()(int64_t from) const {
    if (n == 0) return Vec<float>{};
    auto v = WeightedSum::first(load_as<float>(lines[0].at + from), lines[0].weight);
    for (int l = 1; l < n; ++l)
      v = WeightedSum::next(v, load_as<float>(lines[l].at + from), lines[l].weight);
    return v;
  }
};

// The rows of slice d that `links` name. (Written one by one and read one by one: copies of a
// whole line would wait for it.)
template <class S>
int find_pair_lines(const std::vector<Link>& links, double weight, const PlaneRows<S>& rows,
                    int64_t d, Line<S, float>* lines) {
  int n = 0;
  for (const Link& link : links)
    lines[n].at = rows(d, link.at), lines[n++].weight = float(weight * link.weight);
  return n;
}

template <int n>
using Number = std::integral_constant<int, n>;

// Calls f(lines, how many, weights of the K taps along, sink) for rows [h0, h1) of the results of
// slice d, which begin at `to`; none has more lines than Most.
template <int K, int Most, class Op, class T, class F>
[[gnu::always_inline]] inline void for_pair_rows(const Op& op, const PlaneRows<T>& rows, int64_t d,
                                                 int64_t h0, int64_t h1, T* to, const F& f) {
  const int64_t width = op.out().w;
  const T* const end = to + (h1 - h0) * width;
  float weights[K];
  std::copy_n(op.b.w_taps, K, weights);
  for (int64_t h = h0; h < h1; ++h, to += width) {
    Line<T, float> lines[Most];
    const int n = find_pair_lines(op.hs[h], op.b.d_taps[0], rows, d, lines);
    f(lines, n, weights, Sink<T, float>{to, width, end});
  }
}

// ---- forward ------------------------------------------------------------------------------------

template <>
class Pairs<BlurForward> {
  using V = float;
  static constexpr int N = kLanes<V>;
  static constexpr int64_t kLeastOutputs = 3 * N / 2, kAheadBytes = 8 << 10;

 public:
  // `far`: whether the input is so large (ahead.h). Where a vector's padding repeats cells that are
  // not near it, as of circular rows, this does not suit.
  Pairs(const BlurForward& op, bool far) : op_(op), far_(far) {
    const Axis& a = op.b.w;
    if (!has_pairs(op.b, kLeastOutputs, op.b.h.out) || a.size < N || op.b.h.kernel > a.kernel)
      return;
    const int64_t positions = 2 * (a.out - 1) + a.kernel;
    pairs_ = (positions + 2 * N - 1) / (2 * N);
    places_.reserve(size_t(2 * pairs_));
    for (int64_t p = 0; p < 2 * N * pairs_; p += N) {
      const int64_t first = a.start(0) + p;
      Place& place = places_.emplace_back();
      place.from = std::clamp<int64_t>(first, 0, a.size - N);
      place.ordered = place.from != first || positions < p + N;
      for (int64_t k = 0; place.ordered && k < N && p + k < positions; ++k) {
        const int64_t cell = a.cell_at(first + k, op.b.mode);
        if (cell < 0) continue;
        if (cell < place.from || place.from + N <= cell) return;
        place.order.take(int(k), int(cell - place.from));
      }
    }
    suits_ = true;
  }

  bool suits() const { return suits_; }

  // Rows [h0, h1) of slice d, from `to` on.
  template <class T>
  void operator()(const PlaneRows<T>& rows, int64_t d, int64_t h0, int64_t h1, T* to) const {
    for_pair_taps(op_.b.w.kernel, [&]<int K>() { put<K>(rows, d, h0, h1, to); });
  }

 private:
  // Where the cells of a vector of positions are, and in which order if not as they lie.
  struct Place {
    int64_t from;
    bool ordered;
    Order order;
  };
  struct Pair {
    Vec<V> even, odd;
  };

  template <int K, class T>
  void put(const PlaneRows<T>& rows, int64_t d, int64_t h0, int64_t h1, T* to) const {
    for_pair_rows<K, kMostPairTaps>(
        op_, rows, d, h0, h1, to,
        [&](const Line<T, V>* lines, int n, const V* weights, const Sink<T, V>& sink)
            __attribute__((always_inline)) {
              if (n == K)
                put_row<K>(PairLines<T, Number<K>>{lines, {}}, weights, sink);
              else
                put_row<K>(PairLines<T, int>{lines, n}, weights, sink);
            });
  }

  template <int K, class Lines, class T>
  [[gnu::always_inline]] void put_row(const Lines& lines, const V* weights,
                                      const Sink<T, V>& sink) const {
    const Place* const places = places_.data();
    const auto pair = [&](int64_t i) __attribute__((always_inline)) {
      if (i >= pairs_) return Pair{};
      const Place &first = places[2 * i], &second = places[2 * i + 1];
      Vec<V> a = lines(first.from), b = lines(second.from);
      if (first.ordered) a = first.order(a);
      if (second.ordered) b = second.order(b);
      return Pair{every_second<V>(a, b, 0), every_second<V>(a, b, 1)};
    };
    Pair here = pair(0);
    for (int64_t i = 0; i * N < sink.n; ++i) {
      const Pair next = pair(i + 1);
      if (far_ && lines.n > 0)  // of the two rows, for most, that the next outputs hold more
        fetch<4 * N>(lines.lines[0].at + kAheadBytes / int64_t(sizeof(T)) + 4 * N * i);
      Vec<V> v = WeightedSum::first(here.even, weights[0]);
      v = WeightedSum::next(v, here.odd, weights[1]);
      if constexpr (K > 2)
        v = WeightedSum::next(v, lanes_from<V, 1>(here.even, next.even), weights[2]);
      if constexpr (K > 3)
        v = WeightedSum::next(v, lanes_from<V, 1>(here.odd, next.odd), weights[3]);
      if constexpr (K > 4)
        v = WeightedSum::next(v, lanes_from<V, 2>(here.even, next.even), weights[4]);
      sink(i * N, v);
      here = next;
    }
  }

  const BlurForward& op_;
  const bool far_;
  bool suits_ = false;
  int64_t pairs_ = 0;
  std::vector<Place> places_;
};

// ---- backward -----------------------------------------------------------------------------------

template <>
class Pairs<BlurBackward> {
  using V = float;
  static constexpr int N = kLanes<V>;
  static constexpr int64_t kLeastOutputs = N == 16 ? 24 : N;  // measured
  static constexpr int kMostLines = 8;

 public:
  Pairs(const BlurBackward& op, bool) : op_(op) {
    const Axis& a = op.b.w;
    // With other padding, cells may need lanes further away.
    if (!has_pairs(op.b, kLeastOutputs, op.b.h.size) || a.before != (a.kernel - 1) / 2) return;
    suits_ = true;
    for (int64_t h = 0; h < op.b.h.size; ++h) suits_ &= op.hs[h].size() <= size_t(kMostLines);
    const int64_t rest = a.out % N;
    for (int64_t k = 0; k < rest; ++k) last_.take(int(k), int(N - rest + k));
    for (const Folded& f : op.folded) {
      folded_.push_back({f.cell, f.outputs.size()});
      for (const Link& link : f.outputs) outputs_.push_back({link.at, V(link.weight)});
    }
  }

  bool suits() const { return suits_; }

  // Rows [h0, h1) of cells of slice d, from `to` on.
  template <class T>
  void operator()(const PlaneRows<T>& rows, int64_t d, int64_t h0, int64_t h1, T* to) const {
    for_pair_taps(op_.b.w.kernel, [&]<int K>() { put<K>(rows, d, h0, h1, to); });
  }

 private:
  template <int K, class T>
  void put(const PlaneRows<T>& rows, int64_t d, int64_t h0, int64_t h1, T* to) const {
    const Buffer<V> kept(keeps() ? op_.b.w.out + N : 0);
    for_pair_rows<K, kMostLines>(
        op_, rows, d, h0, h1, to,
        [&](const Line<T, V>* lines, int n, const V* weights, const Sink<T, V>& sink)
            __attribute__((always_inline)) {
              if (n == 1)
                put_row<K>(PairLines<T, Number<1>>{lines, {}}, weights, sink, kept.get());
              else if (n == 2)
                put_row<K>(PairLines<T, Number<2>>{lines, {}}, weights, sink, kept.get());
              else
                put_row<K>(PairLines<T, int>{lines, n}, weights, sink, kept.get());
              fold(kept.get(), sink.to);
            });
  }
  bool keeps() const { return !folded_.empty(); }  // sums, for the folded cells

  // Sums as many lanes on.
  template <int Lanes>
  [[gnu::always_inline]] static Vec<V> lanes_on(const Vec<V>& before, const Vec<V>& here,
                                                const Vec<V>& next) {
    static_assert(-1 <= Lanes && Lanes <= 1);
    if constexpr (Lanes < 0)
      return lanes_from<V, N - 1>(before, here);
    else if constexpr (Lanes > 0)
      return lanes_from<V, 1>(here, next);
    else
      return here;
  }

  // Cells 2 i + Odd: the taps of their phase from the last on, so that outputs ascend.
  template <int K, int Odd>
  [[gnu::always_inline]] static Vec<V> cells(const V* weights, const Vec<V>& before,
                                             const Vec<V>& here, const Vec<V>& next) {
    constexpr int kPosition = (K - 1) / 2 + Odd, kPhase = kPosition % 2;
    constexpr int kLast = (K - 1 - kPhase) / 2 * 2 + kPhase, kLanes = (kPosition - kLast) / 2;
    auto v = WeightedSum::first(lanes_on<kLanes>(before, here, next), weights[kLast]);
    if constexpr (kLast >= 2)
      v = WeightedSum::next(v, lanes_on<kLanes + 1>(before, here, next), weights[kLast - 2]);
    if constexpr (kLast >= 4)
      v = WeightedSum::next(v, lanes_on<kLanes + 2>(before, here, next), weights[kLast - 4]);
    return v;
  }

  template <int K, class Lines, class T>
  [[gnu::always_inline]] void put_row(const Lines& lines, const V* weights, const Sink<T, V>& sink,
                                      V* kept) const {
    const int64_t out = op_.b.w.out;
    const bool keeps_these = keeps();
    const auto sums = [&](int64_t i) __attribute__((always_inline)) {
      if (i >= out) return Vec<V>{};
      const int64_t from = std::min(i, out - N);
      Vec<V> v = lines(from);
      if (from < i) v = last_(v);
      if (keeps_these) store(kept + i, v);
      return v;
    };
    Vec<V> before{}, here = sums(0);
    int64_t i = 0;
    for (; 2 * i < sink.n; i += N) {
      const Vec<V> next = sums(i + N);
      const Vec<V> even = cells<K, 0>(weights, before, here, next);
      const Vec<V> odd = cells<K, 1>(weights, before, here, next);
      sink(2 * i, interleaved<V>(even, odd, 0));
      if (2 * i + N < sink.n) sink(2 * i + N, interleaved<V>(even, odd, 1));
      before = here, here = next;
    }
    for (i += N; keeps_these && i < out; i += N) sums(i);  // outputs that lie in the padding alone
  }

  // The cells that stand in the padding too, from the sums of their outputs.
  template <class T>
  [[gnu::always_inline]] void fold(const V* sums, T* to) const {
    const Output* output = outputs_.data();
    for (const FoldedCell& f : folded_) {
      const Output* const end = output + f.outputs;
      V sum = sums[output->at] * output->weight;
      while (++output < end) sum += sums[output->at] * output->weight;
      to[f.cell] = narrow<T>(sum);
    }
  }

  // Folded cells, each with so many of the outputs; side by side, for the row after row that reads
  // them.
  struct FoldedCell {
    int64_t cell;
    size_t outputs;
  };
  struct Output {
    int64_t at;
    V weight;
  };

  const BlurBackward& op_;
  bool suits_ = false;
  Order last_;
  std::vector<FoldedCell> folded_;
  std::vector<Output> outputs_;
};
#endif

}  // namespace poolkit
