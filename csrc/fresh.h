// Clearing and copying by plain vector stores.
//
// The compiler would make memset and memcpy of such loops, and these use string instructions for
// anything long. In memory that is touched for the first time, where every page faults, those take
// half as long again.
#pragma once

#include <cstring>

#include "simd.h"

namespace poolkit {

// n zeros. (Two stores at a time are no pattern that the compiler knows.)
template <class V>
void clear_values(V* p, int64_t n) {
  constexpr int N = kLanes<V>;
  int64_t i = 0;
  for (; i + 2 * N <= n; i += 2 * N) store(p + i, Vec<V>{}), store(p + i + N, Vec<V>{});
  for (; i < n; ++i) p[i] = 0;
}

template <class T>
void copy_values(const T* from, T* to, int64_t n) {
  constexpr int64_t N = kVectorBytes;
  const auto* const source = reinterpret_cast<const uint8_t*>(from);
  auto* const target = reinterpret_cast<uint8_t*>(to);
  const int64_t bytes = n * int64_t(sizeof(T));
  int64_t i = 0;
  for (; i + 2 * N <= bytes; i += 2 * N) {
    const Vec<uint8_t> first = load(source + i), second = load(source + i + N);
    store(target + i, first), store(target + i + N, second);
  }
  std::memcpy(target + i, source + i, size_t(bytes - i));
}

}  // namespace poolkit
