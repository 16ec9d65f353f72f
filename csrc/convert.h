// Values of one type as lanes of another. Element by element the compilers build such vectors in
// memory, which takes ten times as long.
#pragma once

#include "simd.h"
#include "values.h"

namespace poolkit {

// As many values of T as Vec<V> has lanes.
template <class T, class V>
struct SomeOf {
  using Element = typename std::conditional_t<is_half<T>, std::type_identity<uint16_t>,
                                              std::type_identity<T>>::type;
  typedef Element type __attribute__((vector_size(sizeof(T) * kLanes<V>)));
};
template <class T, class V>
using Some = typename SomeOf<T, V>::type;

#if defined(__AVX512BW__)
// (g++ 12 warns of the intrinsics without a mask.)
template <class V>
constexpr uint32_t kAllLanes = ~uint32_t(0) >> (32 - kLanes<V>);
#define POOLKIT_WIDENED(types, v) _mm512_maskz_cvt##types(kAllLanes<V>, v)
#elif defined(__AVX2__)
#define POOLKIT_WIDENED(types, v) _mm256_cvt##types(v)
#endif

#if defined(__AVX2__)
// A few bytes, or many, as the processor's own type.
template <class Bytes>
[[gnu::always_inline]] inline auto in_register(const Bytes& bytes) {
  if constexpr (sizeof(Bytes) == 32)
    return __m256i(bytes);
  else if constexpr (sizeof(Bytes) == 16)
    return __m128i(bytes);
  else if constexpr (sizeof(Bytes) == 8)
    return _mm_cvtsi64_si128(std::bit_cast<int64_t>(bytes));
  else
    return _mm_cvtsi32_si128(std::bit_cast<int32_t>(bytes));
}
#endif

// Integers as wider ones, and as narrower ones, of which only the lowest bits stay: an instruction
// or a few. (g++ 12 takes most of these element by element.)
template <class V, class T>
[[gnu::always_inline]] inline Vec<V> widened(const Some<T, V>& some) {
#if defined(__AVX2__)
  constexpr int from = sizeof(T), to = sizeof(V);
  constexpr bool kSigned = std::is_signed_v<T>;
  if constexpr (from <= 2) {
    const auto v = in_register(some);
    if constexpr (from == 1 && to == 2)
      return Vec<V>(kSigned ? POOLKIT_WIDENED(epi8_epi16, v) : POOLKIT_WIDENED(epu8_epi16, v));
    else if constexpr (from == 1 && to == 4)
      return Vec<V>(kSigned ? POOLKIT_WIDENED(epi8_epi32, v) : POOLKIT_WIDENED(epu8_epi32, v));
    else if constexpr (from == 1 && to == 8)
      return Vec<V>(kSigned ? POOLKIT_WIDENED(epi8_epi64, v) : POOLKIT_WIDENED(epu8_epi64, v));
    else if constexpr (to == 4)
      return Vec<V>(kSigned ? POOLKIT_WIDENED(epi16_epi32, v) : POOLKIT_WIDENED(epu16_epi32, v));
    else
      return Vec<V>(kSigned ? POOLKIT_WIDENED(epi16_epi64, v) : POOLKIT_WIDENED(epu16_epi64, v));
  }
#endif
  return __builtin_convertvector(some, Vec<V>);
}
#undef POOLKIT_WIDENED

template <class T, class V>
[[gnu::always_inline]] inline Some<T, V> narrowed(const Vec<V>& v) {
  using To = Some<T, V>;
  [[maybe_unused]] constexpr int from = sizeof(V), to = sizeof(T);
#if defined(__AVX512BW__)
  const auto all = __m512i(v);
  if constexpr (from == 2) return To(_mm512_maskz_cvtepi16_epi8(kAllLanes<V>, all));
  if constexpr (from == 4 && to == 1) return To(_mm512_maskz_cvtepi32_epi8(kAllLanes<V>, all));
  if constexpr (from == 4 && to == 2) return To(_mm512_maskz_cvtepi32_epi16(kAllLanes<V>, all));
  if constexpr (from == 8 && to == 4) return To(_mm512_maskz_cvtepi64_epi32(kAllLanes<V>, all));
  if constexpr (from == 8 && to == 2) return To(_mm512_maskz_cvtepi64_epi16(kAllLanes<V>, all));
  if constexpr (from == 8 && to == 1)
    return std::bit_cast<To>(_mm_cvtsi128_si64(_mm512_maskz_cvtepi64_epi8(kAllLanes<V>, all)));
#elif defined(__AVX2__)
  // The lowest bytes of the lanes of each half, side by side; then the halves.
  const auto bytes = [](int half_byte) { return half_byte / to * from + half_byte % to; };
  const auto b = [&](int k) { return char(k < 16 * to / from ? bytes(k) : -1); };
  const auto order = _mm_setr_epi8(b(0), b(1), b(2), b(3), b(4), b(5), b(6), b(7), b(8), b(9),
                                   b(10), b(11), b(12), b(13), b(14), b(15));
  const auto low = _mm_shuffle_epi8(_mm256_castsi256_si128(__m256i(v)), order);
  const auto high = _mm_shuffle_epi8(_mm256_extracti128_si256(__m256i(v), 1), order);
  if constexpr (from / to == 2) return To(_mm_unpacklo_epi64(low, high));
  if constexpr (from / to == 4)
    return std::bit_cast<To>(_mm_cvtsi128_si64(_mm_unpacklo_epi32(low, high)));
  if constexpr (from / to == 8)
    return std::bit_cast<To>(_mm_cvtsi128_si32(_mm_unpacklo_epi16(low, high)));
#endif
  return __builtin_convertvector(v, To);
}

// kLanes<V> values of T.
template <class V, class T>
[[gnu::always_inline]] inline Vec<V> load_as(const T* p) {
  if constexpr (std::is_same_v<T, V>) {
    return load(p);
  } else {
    Some<T, V> some;
    std::memcpy(&some, p, sizeof(some));
    if constexpr (std::is_integral_v<T> && std::is_integral_v<V> && sizeof(T) < sizeof(V))
      return widened<V, T>(some);
    else if constexpr (!is_half<T>)
      return __builtin_convertvector(some, Vec<V>);
#if defined(__AVX512BW__)
    if constexpr (std::is_same_v<T, Half>)
      return Vec<V>(_mm512_maskz_cvtph_ps(kAllLanes<V>, __m256i(some)));
#elif defined(__F16C__) && defined(__AVX2__)
    if constexpr (std::is_same_v<T, Half>) return Vec<V>(_mm256_cvtph_ps(__m128i(some)));
#endif
    if constexpr (is_half<T>) {
      const auto h = widened<uint32_t, uint16_t>(some);
      if constexpr (std::is_same_v<T, BFloat16>) return Vec<V>(h << 16);
      // As widen() in values.h.
      const Vec<uint32_t> magnitude = (h & 0x7fff) << 13;
      const auto scaled = Vec<uint32_t>(Vec<float>(magnitude) * 0x1p112f);
      const Vec<uint32_t> special =
          magnitude >= (0x7c00u << 13) ? splat(0x7f800000u) : Vec<uint32_t>{};
      return Vec<V>(scaled | special | (h & 0x8000) << 16);
    }
  }
}

template <class V>
[[gnu::always_inline]] inline void widen_pairs(const Vec<uint32_t>& pairs, Vec<V> (&parts)[2]) {
  parts[0] = Vec<V>(pairs << 16), parts[1] = Vec<V>(pairs & 0xffff0000u);
}

// The next vector of values of T; or of twice as many bfloat16 those with even and those with odd
// numbers, which takes no shuffle.
template <class V, class T>
[[gnu::always_inline]] inline void load_parts(const T* p, Vec<V> (&parts)[1]) {
  parts[0] = load_as<V>(p);
}
template <class V>
[[gnu::always_inline]] inline void load_parts(const BFloat16* p, Vec<V> (&parts)[2]) {
  Vec<uint32_t> pairs;
  std::memcpy(&pairs, p, sizeof(pairs));
  widen_pairs<V>(pairs, parts);
}

#if defined(__AVX2__)
// The same of values whose tap is the wanted one, and 0 for the others.
template <class V>
[[gnu::always_inline]] inline void load_parts_where(const BFloat16* p, const uint8_t* taps,
                                                    uint8_t wanted, Vec<V> (&parts)[2]) {
#if defined(__AVX512BW__)
  const auto some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(taps));
  const auto mask = _mm256_cmpeq_epi8_mask(some, _mm256_set1_epi8(char(wanted)));
  widen_pairs<V>(Vec<uint32_t>(_mm512_maskz_loadu_epi16(mask, p)), parts);
#else
  const auto some = _mm_loadu_si128(reinterpret_cast<const __m128i*>(taps));
  const auto mask = _mm256_cvtepi8_epi16(_mm_cmpeq_epi8(some, _mm_set1_epi8(char(wanted))));
  Vec<uint32_t> pairs;
  std::memcpy(&pairs, p, sizeof(pairs));
  widen_pairs<V>(pairs & Vec<uint32_t>(mask), parts);
#endif
}
#endif

template <class T>
void widen_values(const T* __restrict from, Wide<T>* __restrict to, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes<Wide<T>> <= n; i += kLanes<Wide<T>>) store(to + i, load_as<Wide<T>>(from + i));
  for (; i < n; ++i) to[i] = widen(from[i]);
}

// The way back, rounded to nearest even.
template <class T, class V>
[[gnu::always_inline]] inline void store_as(T* p, const Vec<V>& v) {
  if constexpr (std::is_same_v<T, V>) {
    store(p, v);
  } else if constexpr (std::is_integral_v<T> && std::is_integral_v<V> && sizeof(T) < sizeof(V)) {
    const auto some = narrowed<T, V>(v);
    std::memcpy(p, &some, sizeof(some));
  } else if constexpr (!is_half<T>) {
    const auto some = __builtin_convertvector(v, Some<T, V>);
    std::memcpy(p, &some, sizeof(some));
  } else {
    const auto bits = Vec<uint32_t>(v);
    Some<T, V> some;
#if defined(__F16C__) && defined(__AVX2__)
    if constexpr (std::is_same_v<T, Half>) {
      const auto nan = Vec<V>((bits & 0x80000000u) | 0x7fc00000u);  // the one that torch gives
      const Vec<V> one = v != v ? nan : v;
#if defined(__AVX512BW__)
      some =
          Some<T, V>(_mm512_maskz_cvtps_ph(kAllLanes<V>, __m512(one), _MM_FROUND_TO_NEAREST_INT));
#else
      some = Some<T, V>(_mm256_cvtps_ph(__m256(one), _MM_FROUND_TO_NEAREST_INT));
#endif
      std::memcpy(p, &some, sizeof(some));
      return;
    }
#endif
    if constexpr (std::is_same_v<T, BFloat16>) {
      const Vec<uint32_t> rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
      some = narrowed<uint16_t, uint32_t>(v != v ? splat(0x7fc0u) : rounded);
    } else {
      const Vec<uint32_t> sign = bits >> 16 & 0x8000;
      // As narrow() in values.h.
      const Vec<uint32_t> magnitude = bits & 0x7fffffff;
      const Vec<uint32_t> normal =
          (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
      const Vec<uint32_t> tiny =
          Vec<uint32_t>(Vec<float>(magnitude) + 0.5f) - std::bit_cast<uint32_t>(0.5f);
      const Vec<uint32_t> finite = magnitude < (113u << 23) ? tiny : normal;
      const Vec<uint32_t> half = (magnitude >= (143u << 23) ? splat(0x7c00u) : finite) | sign;
      some = narrowed<uint16_t, uint32_t>(v != v ? sign | 0x7e00u : half);
    }
    std::memcpy(p, &some, sizeof(some));
  }
}

// The way back of load_parts.
template <class V>
[[gnu::always_inline]] inline void store_parts(BFloat16* p, const Vec<V> (&parts)[2]) {
  const auto rounded = [](const Vec<V>& v) __attribute__((always_inline)) {
    const auto bits = Vec<uint32_t>(v);
    return v != v ? splat(0x7fc00000u) : bits + 0x7fff + ((bits >> 16) & 1);
  };
  const Vec<uint32_t> pairs = (rounded(parts[0]) >> 16) | (rounded(parts[1]) & 0xffff0000u);
  std::memcpy(p, &pairs, sizeof(pairs));
}

}  // namespace poolkit
