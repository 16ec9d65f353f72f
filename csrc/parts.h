// Planes, or where channels lie side by side some channels of one, that a thread works on alone.
#pragma once

#include <algorithm>

#include "tensor.h"
#include "values.h"

namespace poolkit {

// `cells` cells of n values, the next cell `step` values further on: zeros for all of them.
template <class V>
void clear_cells(V* to, int64_t cells, int64_t n, int64_t step) {
  if (n == step) n = step = cells * n, cells = 1;
  for (int64_t i = 0; i < cells; ++i) std::fill_n(to + i * step, n, V(0));
}

// Calls f(values of `from`, values of `to`, how many) for all cells; those of each tensor have a
// step of their own.
template <class A, class B, class F>
void for_cells(A* from, int64_t from_step, B* to, int64_t to_step, int64_t cells, int64_t n,
               const F& f) {
  if (n == from_step && n == to_step) return f(from, to, cells * n);
  for (int64_t i = 0; i < cells; ++i) f(from + i * from_step, to + i * to_step, n);
}

template <class T, class V>
void narrow_values(const V* __restrict from, T* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = narrow<T>(from[i]);
}

// The sums of cells, back in the type and the place of a result.
template <class T, class V>
void narrow_cells(const V* from, int64_t from_step, T* to, int64_t to_step, int64_t cells,
                  int64_t n) {
  for_cells(from, from_step, to, to_step, cells, n,
            [](const V* a, T* b, int64_t count) { narrow_values(a, b, count); });
}

}  // namespace poolkit
