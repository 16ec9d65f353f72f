// What a forward kernel is told: the types that it works in, and where results go.
#pragma once

#include "cells.h"
#include "divisors.h"

namespace poolkit {

// The types that a reduction of T works in: by the plain rule, and by the full one.
template <class T, class Plain_, class Full_, class Offset_>
struct Forms {
  using Plain = Plain_;
  using Full = Full_;
  using Offset = Offset_;
  using V = typename Plain::Value;
  static constexpr bool kMayFail =
      !Plain::kSums && (std::is_floating_point_v<V> || is_half<T> || Plain::kOffsets);
};

// Where results go.
template <class F, class T>
struct Result {
  T* y;
  Offsets offsets;
  const Divisors<typename F::V>* divisors;  // null: sums stay sums
};

template <class R, class F, class T>
const Divisors<typename R::Value>* divisors_of(const Result<F, T>& result) {
  if constexpr (R::kSums)
    return result.divisors;
  else
    return nullptr;
}

}  // namespace poolkit
