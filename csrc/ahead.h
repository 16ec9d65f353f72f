// Fetching ahead.
//
// The processor foresees a loop that reads memory as it lies. It does not foresee the next plane
// while a loop goes down this one in strips, nor cells that are read a register of channels at a
// time: then every line is waited for. So such a loop asks for the line that it will want a block
// later, one for each that it reads now. (Rows that go side by side always do: it costs them
// nothing.)
#pragma once

#include <cstdint>
#include <utility>

#include "simd.h"

namespace poolkit {

// What is smaller stays in cache from the layer before: asking costs a few percent, for nothing;
// and a tenth, where cells are read as they lie and only rows go side by side. There only what the
// last level hardly holds is worth it.
constexpr int64_t kFar = 8 << 20, kBeyond = 16 << 20;  // bytes

// While it lives, what this thread's kernels are given is one of so many parts of a tensor.
class InParts {
 public:
  explicit InParts(int64_t parts) : before_(std::exchange(parts_, parts)) {}
  ~InParts() { parts_ = before_; }
  InParts(const InParts&) = delete;
  InParts& operator=(const InParts&) = delete;

  static int64_t count() { return parts_; }

 private:
  static inline thread_local int64_t parts_ = 1;
  const int64_t before_;
};

template <class T>
bool is_far(int64_t values) {
  return InParts::count() * values * int64_t(sizeof(T)) > kFar;
}
template <class T>
bool is_beyond(int64_t values) {
  return InParts::count() * values * int64_t(sizeof(T)) > kBeyond;
}

// How far ahead gradients of maxima, and their offsets, are asked for where cells ask in the order
// of memory for the outputs that hold them.
constexpr int64_t kAheadBytes = 8 << 10;

// N values, into the second-level cache: what is at work now fills the first. Any address will do.
template <int64_t N, class T>
[[gnu::always_inline]] inline void fetch(const T* p) {
  constexpr int64_t kLine = 64 / int64_t(sizeof(T));
  POOLKIT_UNROLL
  for (int64_t k = 0; k < N; k += kLine) __builtin_prefetch(p + k, 0, 2);
}

}  // namespace poolkit
