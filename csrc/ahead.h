// Fetching ahead.
//
// The processor foresees a loop that reads memory as it lies. It does not foresee the next plane
// while a loop goes down this one in strips, nor cells that are read a register of channels at a
// time: then every line is waited for. So such a loop asks for the line that it will want a block
// later, one for each that it reads now. (Rows that go side by side always do: it costs them
// nothing.)
#pragma once

#include <cstdint>

#include "simd.h"

namespace poolkit {

// What is smaller stays in cache from the layer before: asking costs a few percent, for nothing;
// and a tenth, where cells are read as they lie and only rows go side by side. There only what the
// last level hardly holds is worth it.
constexpr int64_t kFar = 8 << 20, kBeyond = 16 << 20;  // bytes

template <class T>
bool is_far(int64_t values) {
  return values * int64_t(sizeof(T)) > kFar;
}
template <class T>
bool is_beyond(int64_t values) {
  return values * int64_t(sizeof(T)) > kBeyond;
}

// N values, into the second-level cache: what is at work now fills the first. Any address will do.
template <int64_t N, class T>
[[gnu::always_inline]] inline void fetch(const T* p) {
  constexpr int64_t kLine = 64 / int64_t(sizeof(T));
  POOLKIT_UNROLL
  for (int64_t k = 0; k < N; k += kLine) __builtin_prefetch(p + k, 0, 2);
}

}  // namespace poolkit
