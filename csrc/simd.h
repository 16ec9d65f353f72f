// Vectors as wide as the registers of the instruction set, and the transposition of a square of
// them: the only place that knows how wide those are.
//
// The compilers' vector types are used: the same source makes AVX-512, AVX2, SSE2 and NEON code.
// Intrinsics serve where compilers miss the one instruction: maxima, roots, masks, quarters in
// order and the comparison of byte offsets, here; float16 and integers of other widths, in
// convert.h; a table of bytes, in named.h.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

// Before loops over vectors of one cell, or over the rows of a square: unrolled, so that they stay
// in registers.
#define POOLKIT_UNROLL _Pragma("GCC unroll 16")

namespace poolkit {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Whether a comparison gives a bit per lane, and not a vector.
constexpr bool kMasks = kVectorBytes == 64;

template <int Bytes>
using Unsigned = std::conditional_t<
    Bytes == 1, uint8_t,
    std::conditional_t<Bytes == 2, uint16_t, std::conditional_t<Bytes == 4, uint32_t, uint64_t>>>;

template <class V>
struct VectorOf {
  typedef V type __attribute__((vector_size(kVectorBytes)));
};
template <class V>
using Vec = typename VectorOf<V>::type;

template <class V>
constexpr int kLanes = kVectorBytes / int(sizeof(V));

// Through a vector type of its own alignment and not through memcpy, which the compiler must take
// for a write to anything: it would read every size and pointer of a loop again.
template <class V>
[[gnu::always_inline]] inline Vec<V> load(const V* p) {
  typedef V Anywhere __attribute__((vector_size(kVectorBytes), aligned(alignof(V))));
  return *reinterpret_cast<const Anywhere*>(p);
}

template <class V>
[[gnu::always_inline]] inline void store(V* p, const Vec<V>& v) {
  typedef V Anywhere __attribute__((vector_size(kVectorBytes), aligned(alignof(V))));
  *reinterpret_cast<Anywhere*>(p) = v;
}

template <class V>
Vec<V> splat(V v) {
  return Vec<V>{} + v;
}

template <class V>
[[gnu::always_inline]] inline Vec<V> square_root(const Vec<V>& v) {
  [[maybe_unused]] constexpr bool kFloat = std::is_same_v<V, float>;
#if defined(__AVX512F__)
  if constexpr (kFloat)
    return Vec<V>(_mm512_maskz_sqrt_ps(0xffff, __m512(v)));
  else
    return Vec<V>(_mm512_maskz_sqrt_pd(0xff, __m512d(v)));
#elif defined(__AVX2__)
  if constexpr (kFloat)
    return Vec<V>(_mm256_sqrt_ps(__m256(v)));
  else
    return Vec<V>(_mm256_sqrt_pd(__m256d(v)));
#else
  Vec<V> roots = v;
  for (int k = 0; k < kLanes<V>; ++k) roots[k] = std::sqrt(v[k]);
  return roots;
#endif
}

// a > b ? a : b. (Of that expression compilers make a comparison and a selection.)
template <class V>
[[gnu::always_inline]] inline Vec<V> greater(const Vec<V>& a, const Vec<V>& b) {
#if defined(__AVX512BW__)
  if constexpr (std::is_same_v<V, float>)
    return Vec<V>(_mm512_maskz_max_ps(0xffff, __m512(a), __m512(b)));
  if constexpr (std::is_same_v<V, int16_t>) return Vec<V>(_mm512_max_epi16(__m512i(a), __m512i(b)));
  if constexpr (std::is_same_v<V, uint8_t>) return Vec<V>(_mm512_max_epu8(__m512i(a), __m512i(b)));
  if constexpr (std::is_same_v<V, int8_t>) return Vec<V>(_mm512_max_epi8(__m512i(a), __m512i(b)));
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<V, float>) return Vec<V>(_mm256_max_ps(__m256(a), __m256(b)));
  if constexpr (std::is_same_v<V, int16_t>) return Vec<V>(_mm256_max_epi16(__m256i(a), __m256i(b)));
  if constexpr (std::is_same_v<V, uint8_t>) return Vec<V>(_mm256_max_epu8(__m256i(a), __m256i(b)));
  if constexpr (std::is_same_v<V, int8_t>) return Vec<V>(_mm256_max_epi8(__m256i(a), __m256i(b)));
#endif
  return a > b ? a : b;
}

// a < b ? a : b, for the same reason.
[[gnu::always_inline]] inline Vec<int16_t> lesser(const Vec<int16_t>& a, const Vec<int16_t>& b) {
#if defined(__AVX512BW__)
  return Vec<int16_t>(_mm512_min_epi16(__m512i(a), __m512i(b)));
#elif defined(__AVX2__)
  return Vec<int16_t>(_mm256_min_epi16(__m256i(a), __m256i(b)));
#else
  return a < b ? a : b;
#endif
}

// The signs of a mask, a bit for every byte.
template <class M>
[[gnu::always_inline]] inline uint64_t byte_signs(const M& mask) {
#if defined(__AVX512BW__)
  return _mm512_movepi8_mask(__m512i(mask));
#elif defined(__AVX2__)
  return uint32_t(_mm256_movemask_epi8(__m256i(mask)));
#elif defined(__SSE2__)
  return uint32_t(_mm_movemask_epi8(__m128i(mask)));
#else
  int8_t bytes[sizeof(M)];
  std::memcpy(bytes, &mask, sizeof(M));
  uint64_t signs = 0;
  for (size_t k = 0; k < sizeof(M); ++k) signs |= uint64_t(bytes[k] < 0) << k;
  return signs;
#endif
}

// Whether any lane of a mask is set: its sign counts, which is that of its last byte.
template <class M>
[[gnu::always_inline]] inline bool any(const M& mask) {
  constexpr int kSize = int(sizeof(mask[0]));
  constexpr uint64_t kFirst = ~uint64_t(0) / ((uint64_t(1) << kSize) - 1);  // of every lane
  return (byte_signs(mask) & kFirst << (kSize - 1)) != 0;
}

// The first lane of a comparison that holds, or one past the last.
template <class M>
[[gnu::always_inline]] inline int first_lane(const M& mask) {
  constexpr int kSize = int(sizeof(mask[0]));
  const uint64_t signs = byte_signs(mask);
  return signs ? __builtin_ctzll(signs) / kSize : int(sizeof(M)) / kSize;
}

// The greatest lane.
template <class V, int Half, int... J>
[[gnu::always_inline]] inline Vec<V> greater_of_halves(const Vec<V>& v,
                                                       std::integer_sequence<int, J...>) {
#ifdef __clang__
  return greater<V>(__builtin_shufflevector(v, v, (J ^ Half)...), v);
#else
  using Places = Vec<std::make_signed_t<Unsigned<sizeof(V)>>>;
  return greater<V>(__builtin_shuffle(v, Places{(J ^ Half)...}), v);
#endif
}

template <class V, int Half = kLanes<V> / 2>
[[gnu::always_inline]] inline V greatest_lane(const Vec<V>& v) {
  if constexpr (Half == 0)
    return v[0];
  else
    return greatest_lane<V, Half / 2>(
        greater_of_halves<V, Half>(v, std::make_integer_sequence<int, kLanes<V>>()));
}

// What was seen while cells were read: it is looked at when a block is done.
template <class V>
class Watch {
 public:
  using Lanes = decltype(Vec<V>{} != Vec<V>{});

  // Whether a or b is NaN.
  [[gnu::always_inline]] void unordered(const Vec<V>& a, const Vec<V>& b) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<V, float>) {
      bits_ |= _mm512_cmp_ps_mask(__m512(a), __m512(b), _CMP_UNORD_Q);
      return;
    }
#elif defined(__AVX2__)
    if constexpr (std::is_same_v<V, float>) {
      lanes_ |= Lanes(_mm256_cmp_ps(__m256(a), __m256(b), _CMP_UNORD_Q));
      return;
    }
#endif
    if constexpr (std::is_floating_point_v<V>) lanes_ |= (a != a) | (b != b);
  }
  [[gnu::always_inline]] void equal(const Vec<V>& a, const Vec<V>& b) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<V, float>) {
      bits_ |= _mm512_cmp_ps_mask(__m512(a), __m512(b), _CMP_EQ_OQ);
      return;
    }
#endif
    lanes_ |= a == b;
  }
  Lanes& lanes() { return lanes_; }
  bool any() const { return bits_ != 0 || poolkit::any(lanes_); }

  // What a loop saw, which watches in registers. (A copy of all this would wait for its last bits.)
  [[gnu::always_inline]] void join(const Watch& other) {
    bits_ |= other.bits_;
    lanes_ |= other.lanes_;
  }

 private:
  uint16_t bits_ = 0;
  Lanes lanes_{};
};

// ---- where offsets name a tap ----

#if defined(__AVX2__)
// A byte for each lane. They are read as they are, however wide lanes are.
template <class V>
[[gnu::always_inline]] inline __m128i load_bytes(const uint8_t* p) {
  const auto* const from = reinterpret_cast<const __m128i*>(p);
  return kLanes<V> == 16 ? _mm_loadu_si128(from) : _mm_loadl_epi64(from);
}

// g where a byte is the wanted one, else 0.
template <class V>
[[gnu::always_inline]] inline Vec<V> chosen(const __m128i& bytes, uint8_t wanted, const Vec<V>& g) {
#if defined(__AVX512BW__)
  return Vec<V>(
      _mm512_maskz_mov_ps(_mm_cmpeq_epi8_mask(bytes, _mm_set1_epi8(char(wanted))), __m512(g)));
#else
  const auto equal = _mm256_cmpeq_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_set1_epi32(wanted));
  return Vec<V>(Vec<int32_t>(g) & Vec<int32_t>(equal));
#endif
}
#endif

// sum[k] += taps[k] == tap ? g[k] : 0. (A sum that begins with 0 never becomes -0, so adding 0
// changes nothing.)
template <class V, class L>
[[gnu::always_inline]] inline void add_where(Vec<V>& sum, const L* taps, L tap, const Vec<V>& g) {
#if defined(__AVX512BW__)
  if constexpr (sizeof(L) == 1 && sizeof(V) == 4) {
    const auto mask = _mm_cmpeq_epi8_mask(load_bytes<V>(taps), _mm_set1_epi8(char(tap)));
    sum = Vec<V>(_mm512_mask_add_ps(__m512(sum), mask, __m512(sum), __m512(g)));
    return;
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(L) == 1 && sizeof(V) == 4) {
    sum += chosen<V>(load_bytes<V>(taps), tap, g);
    return;
  }
#endif
  if constexpr (sizeof(L) == sizeof(V)) sum += load(taps) == splat(tap) ? g : Vec<V>{};
}

// Whether offsets of type O are compared without staging.
template <class V, class O>
constexpr bool kComparesBytes =
#if defined(__AVX2__)
    sizeof(O) == 1 && sizeof(V) == 4;
#else
    false;
#endif

// g where a tap is the one wanted, else 0.
template <class V, class O>
[[gnu::always_inline]] inline Vec<V> chosen(const O* taps, O tap, const Vec<V>& g) {
  constexpr int N = kLanes<V>;
#if defined(__AVX2__)
  if constexpr (kComparesBytes<V, O>) return chosen<V>(load_bytes<V>(taps), tap, g);
#endif
  using L = Unsigned<(sizeof(V) > sizeof(O) ? sizeof(V) : sizeof(O))>;
  Vec<L> wide{};
  for (int k = 0; k < N; ++k) wide[k] = L(taps[k]);
  return wide == splat(L(tap)) ? g : Vec<V>{};
}

// a0 b0 a1 b1 ...: the first half of that, or the second.
template <class V, int... J>
[[gnu::always_inline]] inline Vec<V> interleaved(const Vec<V>& a, const Vec<V>& b, int half,
                                                 std::integer_sequence<int, J...>) {
  constexpr int n = kLanes<V>;
#ifdef __clang__
  return half ? __builtin_shufflevector(a, b, (J / 2 + n / 2 + J % 2 * n)...)
              : __builtin_shufflevector(a, b, (J / 2 + J % 2 * n)...);
#else
  using E = std::make_signed_t<Unsigned<sizeof(V)>>;
  using M = Vec<E>;
  return half ? __builtin_shuffle(a, b, M{E(J / 2 + n / 2 + J % 2 * n)...})
              : __builtin_shuffle(a, b, M{E(J / 2 + J % 2 * n)...});
#endif
}

template <class V>
[[gnu::always_inline]] inline Vec<V> interleaved(const Vec<V>& a, const Vec<V>& b, int half) {
  return interleaved<V>(a, b, half, std::make_integer_sequence<int, kLanes<V>>());
}

// The first M lanes of a, then those of b. (What is in the others does not matter.)
template <class V, int M, int... J>
[[gnu::always_inline]] inline Vec<V> first_lanes(const Vec<V>& a, const Vec<V>& b,
                                                 std::integer_sequence<int, J...>) {
  constexpr int n = kLanes<V>;
#ifdef __clang__
  return __builtin_shufflevector(a, b, (J < M || J >= 2 * M ? J : J + n - M)...);
#else
  using E = std::make_signed_t<Unsigned<sizeof(V)>>;
  return __builtin_shuffle(a, b, Vec<E>{E(J < M || J >= 2 * M ? J : J + n - M)...});
#endif
}

template <class V, int M>
[[gnu::always_inline]] inline Vec<V> first_lanes(const Vec<V>& a, const Vec<V>& b) {
  return first_lanes<V, M>(a, b, std::make_integer_sequence<int, kLanes<V>>());
}

// Lanes M, M + 1, ... of two vectors, one behind the other.
template <class V, int M, int... J>
[[gnu::always_inline]] inline Vec<V> lanes_from(const Vec<V>& a, const Vec<V>& b,
                                                std::integer_sequence<int, J...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, (J + M)...);
#else
  using E = std::make_signed_t<Unsigned<sizeof(V)>>;
  return __builtin_shuffle(a, b, Vec<E>{E(J + M)...});
#endif
}

template <class V, int M>
[[gnu::always_inline]] inline Vec<V> lanes_from(const Vec<V>& a, const Vec<V>& b) {
  return lanes_from<V, M>(a, b, std::make_integer_sequence<int, kLanes<V>>());
}

// Every lane takes the value of the next; the last keeps its own.
template <class V, int... J>
[[gnu::always_inline]] inline Vec<V> next_lane(const Vec<V>& v, std::integer_sequence<int, J...>) {
  constexpr int last = kLanes<V> - 1;
#ifdef __clang__
  return __builtin_shufflevector(v, v, (J < last ? J + 1 : last)...);
#else
  using E = std::make_signed_t<Unsigned<sizeof(V)>>;
  return __builtin_shuffle(v, Vec<E>{E(J < last ? J + 1 : last)...});
#endif
}

template <class V>
[[gnu::always_inline]] inline Vec<V> next_lane(const Vec<V>& v) {
  return next_lane<V>(v, std::make_integer_sequence<int, kLanes<V>>());
}

// ---- any order ----

#if defined(__AVX2__)
// Lanes of a vector of floats in any order, and 0 where nothing is taken.
struct Order {
  Vec<int32_t> from{};
#if defined(__AVX512F__)
  uint16_t taken = 0;
#else
  Vec<int32_t> taken{};
#endif

  void take(int lane, int from_lane) {
    from[lane] = from_lane;
#if defined(__AVX512F__)
    taken = uint16_t(taken | 1u << lane);
#else
    taken[lane] = -1;
#endif
  }
  [[gnu::always_inline]] Vec<float> operator()(const Vec<float>& v) const {
#if defined(__AVX512F__)
    return Vec<float>(_mm512_maskz_permutexvar_ps(taken, __m512i(from), __m512(v)));
#else
    const __m256 moved = _mm256_permutevar8x32_ps(__m256(v), __m256i(from));
    return Vec<float>(Vec<int32_t>(moved) & taken);
#endif
  }
};
#endif

// ---- transposition ----

// Elements whose number has bit S clear come from the first vector, the others from the second:
// of a pair of rows S apart, Low leaves what stays above the diagonal, High what stays below.
template <class U, int S, bool High, int... J>
Vec<U> exchange(const Vec<U>& a, const Vec<U>& b, std::integer_sequence<int, J...>) {
  constexpr int n = kLanes<U>;
#ifdef __clang__
  if constexpr (High) return __builtin_shufflevector(a, b, ((J & S) ? n + J : J + S)...);
  return __builtin_shufflevector(a, b, ((J & S) ? n + J - S : J)...);
#else
  if constexpr (High) return __builtin_shuffle(a, b, Vec<U>{U((J & S) ? n + J : J + S)...});
  return __builtin_shuffle(a, b, Vec<U>{U((J & S) ? n + J - S : J)...});
#endif
}

// Squares of S x S elements change places across the diagonal, then squares twice as large. (Lists,
// not loops: many rows are not unrolled, and would go through memory.)
template <class U, int S, int... I>
[[gnu::always_inline]] inline void exchange_rows(Vec<U>* rows,
                                                 std::integer_sequence<int, I...> all) {
  using J = std::make_integer_sequence<int, kLanes<U>>;
  const Vec<U> moved[] = {exchange<U, S, (I & S) != 0>(rows[I & ~S], rows[I | S], J())...};
  ((rows[I] = moved[I]), ...);
  if constexpr (2 * S < kLanes<U>) exchange_rows<U, 2 * S>(rows, all);
}

// The elements of two vectors in turn, of the lower or the upper half of every 16 bytes: one
// instruction of every instruction set.
template <class U, bool High, int... J>
[[gnu::always_inline]] inline Vec<U> in_turn(const Vec<U>& a, const Vec<U>& b,
                                             std::integer_sequence<int, J...>) {
  constexpr int n = kLanes<U>, some = 16 / int(sizeof(U));
  constexpr auto at = [](int j) {
    return j / some * some + (High ? some / 2 : 0) + j % some / 2 + j % 2 * n;
  };
#ifdef __clang__
  return __builtin_shufflevector(a, b, at(J)...);
#else
  return __builtin_shuffle(a, b, Vec<U>{U(at(J))...});
#endif
}

// One of the steps that transpose squares as wide as 16 bytes: row i is taken in turn with the one
// half a square on.
template <class U, int... I>
[[gnu::always_inline]] inline void take_turns(Vec<U>* rows, std::integer_sequence<int, I...>) {
  constexpr int some = 16 / int(sizeof(U));
  constexpr auto from = [](int i) { return i / some * some + i % some / 2; };
  const Vec<U> turned[] = {in_turn<U, I % 2 != 0>(rows[from(I)], rows[from(I) + some / 2],
                                                  std::make_integer_sequence<int, kLanes<U>>())...};
  ((rows[I] = turned[I]), ...);
}

// Element j of row i goes to element i of row j: first in squares as wide as 16 bytes, then these
// change places.
template <class V>
[[gnu::always_inline]] inline void transpose_in_registers(Vec<V>* rows) {
  using U = Unsigned<sizeof(V)>;
  using All = std::make_integer_sequence<int, kLanes<V>>;
  constexpr int n = kLanes<V>, some = 16 / int(sizeof(V));
  Vec<U> bits[n];
  POOLKIT_UNROLL
  for (int i = 0; i < n; ++i) bits[i] = Vec<U>(rows[i]);
  POOLKIT_UNROLL
  for (int step = 1; step < some; step *= 2) take_turns<U>(bits, All());
  if constexpr (some < n) exchange_rows<U, some>(bits, All());
  POOLKIT_UNROLL
  for (int i = 0; i < n; ++i) rows[i] = Vec<V>(bits[i]);
}

// 32 rows and more do not fit into the registers: one function for all who ask.
template <class V>
[[gnu::noinline]] void transpose_in_memory(Vec<V>* rows) {
  transpose_in_registers<V>(rows);
}

template <class V>
[[gnu::always_inline]] inline void transpose(Vec<V>* rows) {
  if constexpr (kLanes<V> > 16)
    transpose_in_memory<V>(rows);
  else
    transpose_in_registers<V>(rows);
}

// ---- every second value ----

// Every second value of two vectors, beginning with the first or the second.
template <class V, int... J>
[[gnu::always_inline]] inline Vec<V> every_second(const Vec<V>& a, const Vec<V>& b, int odd,
                                                  std::integer_sequence<int, J...>) {
#ifdef __clang__
  return odd ? __builtin_shufflevector(a, b, (2 * J + 1)...)
             : __builtin_shufflevector(a, b, (2 * J)...);
#else
  using M = Vec<std::make_signed_t<Unsigned<sizeof(V)>>>;
  using E = std::make_signed_t<Unsigned<sizeof(V)>>;
  return odd ? __builtin_shuffle(a, b, M{E(2 * J + 1)...})
             : __builtin_shuffle(a, b, M{E(2 * J)...});
#endif
}

template <class V>
[[gnu::always_inline]] inline Vec<V> every_second(const Vec<V>& a, const Vec<V>& b, int odd) {
  return every_second<V>(a, b, odd, std::make_integer_sequence<int, kLanes<V>>());
}

// The same for a reduction that does not mind which lane is which: AVX2 moves nothing between the
// halves of a vector but whole quarters, and these only in an instruction more. So they are put in
// order once, when all has been reduced: lane k belongs at lane_of(k).
#if defined(__AVX2__) && !defined(__AVX512F__)
template <class V>
constexpr int lane_of(int k) {
  constexpr int quarter = kLanes<V> / 4;
  const int at[] = {0, 2, 1, 3};
  return at[k / quarter] * quarter + k % quarter;
}

template <class V, int... J>
[[gnu::always_inline]] inline Vec<V> split(const Vec<V>& a, const Vec<V>& b, int odd,
                                           std::integer_sequence<int, J...>) {
  return every_second<V>(a, b, odd, std::integer_sequence<int, lane_of<V>(J)...>());
}

template <class V>
[[gnu::always_inline]] inline Vec<V> split(const Vec<V>& a, const Vec<V>& b, int odd) {
  return split<V>(a, b, odd, std::make_integer_sequence<int, kLanes<V>>());
}

template <class V>
[[gnu::always_inline]] inline Vec<V> in_order(const Vec<V>& v) {
  return Vec<V>(_mm256_permute4x64_epi64(__m256i(v), 0xd8));
}

// Split twice, every fourth value of four vectors: of four bytes each.
template <class V>
constexpr int lane_of_fourth(int k) {
  static_assert(sizeof(V) == 4);
  return 2 * (k % 4) + k / 4;
}

template <class V>
[[gnu::always_inline]] inline Vec<V> fourths_in_order(const Vec<V>& v) {
  const auto order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return Vec<V>(_mm256_permutevar8x32_epi32(__m256i(v), order));
}
#else
template <class V>
constexpr int lane_of(int k) {
  return k;
}

template <class V>
[[gnu::always_inline]] inline Vec<V> split(const Vec<V>& a, const Vec<V>& b, int odd) {
  return every_second<V>(a, b, odd);
}

template <class V>
[[gnu::always_inline]] inline Vec<V> in_order(const Vec<V>& v) {
  return v;
}

template <class V>
constexpr int lane_of_fourth(int k) {
  return k;
}

template <class V>
[[gnu::always_inline]] inline Vec<V> fourths_in_order(const Vec<V>& v) {
  return v;
}
#endif

}  // namespace poolkit
