// The instructions of AVX-512 that the kernels name, in terms of AVX2.
//
// With `-march=x86-64-v3 -include` this file the code for AVX-512 is compiled, registers of 64
// bytes and all, and runs on a processor that has none: `make emulate`. What the compiler itself
// would make of it is another matter, and so is its speed; what the code computes is the same.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

// (Only now: the compiler's own headers ask these.)
#define __AVX512F__ 1
#define __AVX512BW__ 1

namespace emulated {

template <class To, class From>
inline To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// to[i] = f(i) for all lanes of type E; V is as wide as they are together.
template <class E, class V, class F>
inline V lanes(const F& f) {
  E values[sizeof(V) / sizeof(E)];
  for (int i = 0; i < int(sizeof(V) / sizeof(E)); ++i) values[i] = E(f(i));
  return bits<V>(values);
}

template <class E, class V>
inline E lane(const V& v, int i) {
  E value;
  std::memcpy(&value, reinterpret_cast<const char*>(&v) + i * sizeof(E), sizeof(E));
  return value;
}

template <class F>
inline uint32_t mask(int n, const F& f) {
  uint32_t result = 0;
  for (int i = 0; i < n; ++i) result |= uint32_t(f(i)) << i;
  return result;
}

// As the processor: the second of two where they are equal or one is NaN.
inline float greater(float a, float b) { return a > b ? a : b; }

template <class E>
inline __m512i greatest(const __m512i& a, const __m512i& b) {
  return lanes<E, __m512i>([&](int i) {
    const E x = lane<E>(a, i), y = lane<E>(b, i);
    return x > y ? x : y;
  });
}

inline __m512 maskz_max_ps(uint16_t m, const __m512& a, const __m512& b) {
  return lanes<float, __m512>(
      [&](int i) { return m >> i & 1 ? greater(lane<float>(a, i), lane<float>(b, i)) : 0.f; });
}
inline __m512 maskz_sqrt_ps(uint16_t m, const __m512& a) {
  return lanes<float, __m512>(
      [&](int i) { return m >> i & 1 ? std::sqrt(lane<float>(a, i)) : 0.f; });
}
inline __m512d maskz_sqrt_pd(uint8_t m, const __m512d& a) {
  return lanes<double, __m512d>(
      [&](int i) { return m >> i & 1 ? std::sqrt(lane<double>(a, i)) : 0.; });
}
inline __m512i min_epi16(const __m512i& a, const __m512i& b) {
  return lanes<int16_t, __m512i>([&](int i) {
    const int16_t x = lane<int16_t>(a, i), y = lane<int16_t>(b, i);
    return x < y ? x : y;
  });
}
inline uint16_t cmp_ps_mask(const __m512& a, const __m512& b, int how) {
  return uint16_t(mask(16, [&](int i) {
    const float x = lane<float>(a, i), y = lane<float>(b, i);
    return how == _CMP_EQ_OQ ? x == y : x != x || y != y;  // _CMP_UNORD_Q
  }));
}
inline __m512 maskz_mov_ps(uint16_t m, const __m512& a) {
  return lanes<float, __m512>([&](int i) { return m >> i & 1 ? lane<float>(a, i) : 0.f; });
}
inline __m512 mask_add_ps(const __m512& from, uint16_t m, const __m512& a, const __m512& b) {
  return lanes<float, __m512>([&](int i) {
    return m >> i & 1 ? lane<float>(a, i) + lane<float>(b, i) : lane<float>(from, i);
  });
}
inline __m512 loadu_ps(const void* p) {
  __m512 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
// Lanes that are not asked for are not read.
inline __m512i maskz_loadu_epi16(uint32_t m, const void* p) {
  return lanes<int16_t, __m512i>([&](int i) {
    int16_t value = 0;
    if (m >> i & 1) std::memcpy(&value, static_cast<const char*>(p) + 2 * i, 2);
    return value;
  });
}
inline __m512 cvtph_ps(const __m256i& a) {
  const __m256 halves[] = {_mm256_cvtph_ps(_mm256_extracti128_si256(a, 0)),
                           _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))};
  return bits<__m512>(halves);
}
inline __m256i cvtps_ph(const __m512& a) {
  __m256 halves[2];
  std::memcpy(halves, &a, sizeof(a));
  const __m128i narrow[] = {_mm256_cvtps_ph(halves[0], _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(halves[1], _MM_FROUND_TO_NEAREST_INT)};
  return bits<__m256i>(narrow);
}
inline uint16_t cmpeq_epi8_mask(const __m128i& a, const __m128i& b) {
  return uint16_t(_mm_movemask_epi8(_mm_cmpeq_epi8(a, b)));
}
inline uint32_t cmpeq_epi8_mask(const __m256i& a, const __m256i& b) {
  return uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, b)));
}

}  // namespace emulated

// (Macros: some of these are macros in the compilers' headers.)
#undef _mm256_cmpeq_epi8_mask
#undef _mm512_cmp_ps_mask
#undef _mm512_loadu_ps
#undef _mm512_mask_add_ps
#undef _mm512_maskz_cvtph_ps
#undef _mm512_maskz_cvtps_ph
#undef _mm512_maskz_loadu_epi16
#undef _mm512_maskz_max_ps
#undef _mm512_maskz_mov_ps
#undef _mm512_maskz_sqrt_pd
#undef _mm512_maskz_sqrt_ps
#undef _mm512_max_epi16
#undef _mm512_max_epi8
#undef _mm512_max_epu8
#undef _mm512_min_epi16
#undef _mm_cmpeq_epi8_mask
#undef _mm_mask_cmpeq_epi8_mask
#define _mm512_cmp_ps_mask(a, b, how) emulated::cmp_ps_mask(a, b, how)
#define _mm512_loadu_ps(p) emulated::loadu_ps(p)
#define _mm512_mask_add_ps(from, m, a, b) emulated::mask_add_ps(from, m, a, b)
#define _mm512_max_epi16(a, b) emulated::greatest<int16_t>(a, b)
#define _mm512_max_epi8(a, b) emulated::greatest<int8_t>(a, b)
#define _mm512_max_epu8(a, b) emulated::greatest<uint8_t>(a, b)
#define _mm512_maskz_cvtph_ps(m, a) emulated::cvtph_ps(a)
#define _mm512_maskz_cvtps_ph(m, a, how) emulated::cvtps_ph(a)
#define _mm512_maskz_loadu_epi16(m, p) emulated::maskz_loadu_epi16(m, p)
#define _mm512_maskz_max_ps(m, a, b) emulated::maskz_max_ps(m, a, b)
#define _mm512_maskz_mov_ps(m, a) emulated::maskz_mov_ps(m, a)
#define _mm512_maskz_sqrt_pd(m, a) emulated::maskz_sqrt_pd(m, a)
#define _mm512_maskz_sqrt_ps(m, a) emulated::maskz_sqrt_ps(m, a)
#define _mm512_min_epi16(a, b) emulated::min_epi16(a, b)
#define _mm256_cmpeq_epi8_mask(a, b) emulated::cmpeq_epi8_mask(a, b)
#define _mm_cmpeq_epi8_mask(a, b) emulated::cmpeq_epi8_mask(a, b)
#define _mm_mask_cmpeq_epi8_mask(m, a, b) uint16_t((m) & emulated::cmpeq_epi8_mask(a, b))
