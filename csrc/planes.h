// Maxima and their gradients over planes in memory: for their own operators, and for those that are
// made of them.
#pragma once

#include "cells.h"

namespace poolkit {

// The maxima of `planes` planes whose cells are runs of `run` values, and if they have a place, the
// offsets.
void max_planes(ScalarType dtype, const void* x, void* y, const Offsets& offsets, const Window& w,
                int64_t planes, int64_t run);

// The sums, at each cell, of the values whose offset names it.
void scatter_planes(ScalarType dtype, const void* g, const void* offsets, ScalarType offset_dtype,
                    void* out, const Window& w, int64_t planes, int64_t run);

}  // namespace poolkit
