// The blur of maxima of stride 1, part by part: the maxima of a part are blurred while they are in
// cache; backward, what they get goes on to the cells that won.
//
// clang-format off
//   parts    | plane 0, 1, 2 | plane 3, 4, 5 | ...   as many planes as fit, or
//            | rows 0 ... 31 : rows 32 ... 63 : ...  some rows of one, from edge to edge: that is
//                                                    slices, rows or cells of the outermost axis
// clang-format on
//
// A part is a tensor of its own to the kernels of maxima and of blurs, with the windows of the
// whole as far as they lie in it. Maxima that two parts of a plane look at are found for both.
#pragma once

#include <vector>

#include "blur.h"

namespace poolkit {

// Outputs [i0, i1) of an axis, over its cells [c0, c1) alone.
inline Axis part_of(const Axis& a, int64_t i0, int64_t i1, int64_t c0, int64_t c1) {
  const int64_t before = c0 - a.start(i0), size = c1 - c0;
  const int64_t after = (i1 - 1 - i0) * a.stride + a.extent() - before - size;
  return {size, i1 - i0, a.kernel, a.stride, before, std::max<int64_t>(0, after), a.dilation};
}

// The cells that outputs [i0, i1) of a blur hold, from the first to the last, in the padding too.
inline std::pair<int64_t, int64_t> cells_of(const Axis& a, PaddingMode mode, int64_t i0,
                                            int64_t i1) {
  int64_t low = a.size, high = 0;
  const auto meet = [&](int64_t cell) {
    if (cell >= 0) low = std::min(low, cell), high = std::max(high, cell + 1);
  };
  const int64_t start = a.start(i0), end = a.start(i1 - 1) + a.kernel;
  for (int64_t p = start; p < std::min<int64_t>(end, 0); ++p) meet(a.cell_at(p, mode));
  for (int64_t p = std::max(start, a.size); p < end; ++p) meet(a.cell_at(p, mode));
  if (std::max<int64_t>(start, 0) < std::min(end, a.size))
    meet(std::max<int64_t>(start, 0)), meet(std::min(end, a.size) - 1);
  return {std::min(low, high), high};
}

// A part of a plane: its outputs begin at `output` of the outermost axis, its maxima at `maximum`.
struct BlurPart {
  // Neighbouring maxima, from those of cells on.
  struct Maxima {
    Window window;
    int64_t cell, maximum;
    bool own;  // whether this part leaves their offsets, not the next one
  };
  std::vector<Maxima> maxima;
  Window blur;
  int64_t output, maximum, held;  // maxima along the axis
};

// A plane cut into `count` parts, or into none: where circular padding shows the other edge, or
// padding cells before the part.
inline std::vector<BlurPart> blur_parts(const Window& maxima, const Window& blur, int64_t count) {
  const Axis &m = maxima.outermost(), &b = blur.outermost();
  const bool wraps = blur.padding_mode == PaddingMode::kCircular && b.before + b.after > 0;
  std::vector<BlurPart> parts;
  if (count < 2 || count > b.out || wraps) return parts;
  const auto first_of = [&](int64_t part) { return part * b.out / count; };
  const auto held_by = [&](int64_t part) {
    const int64_t i0 = first_of(part), i1 = first_of(part + 1);
    auto [low, high] = cells_of(b, blur.padding_mode, i0, i1);
    // Edges are the plane's own, so that padding stands where it does.
    if (b.start(i0) < 0 || part == 0) low = 0;
    if (b.start(i1 - 1) + b.kernel > b.size || part + 1 == count) high = b.size;
    return std::pair(low, high);
  };
  for (int64_t part = 0; part < count; ++part) {
    const auto [low, high] = held_by(part);
    const int64_t end = part + 1 == count ? b.size : held_by(part + 1).first;
    const int64_t held = std::max(high, end), i0 = first_of(part), i1 = first_of(part + 1);
    if (low < b.start(i0) || low >= end) return {};
    BlurPart p{{}, blur.with_outermost(part_of(b, i0, i1, low, held)), i0, low, held - low};
    const auto add = [&](int64_t m0, int64_t m1, bool own) {
      const int64_t c0 = std::max<int64_t>(0, m.start(m0));
      const int64_t c1 = std::min(m.size, m.start(m1 - 1) + m.kernel);
      p.maxima.push_back({maxima.with_outermost(part_of(m, m0, m1, c0, c1)), c0, m0, own});
    };
    add(low, end, true);
    if (end < held) add(end, held, false);
    parts.push_back(std::move(p));
  }
  return parts;
}

// How planes are cut: so many at once, which makes `groups`, or one at once, of which each is cut
// into `strips`.
struct BlurCut {
  int64_t at_once, groups, strips;
};

// Parts that stay in cache, and at least `least` planes, for as many threads as there are. What the
// caches hold at once is not cut.
inline BlurCut cut_for(int64_t planes, int64_t plane_bytes, int64_t least, int64_t rows) {
  constexpr int64_t kBytes = 1 << 20;  // of maxima; more stays in the second level, or the third
  constexpr int64_t kMostBytes = 16 << 20;  // of those that have to be done together
  constexpr int64_t kFewestRows = 4;        // along the outermost axis
  const auto up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t threads = torch::stable::get_num_threads(), all = planes * plane_bytes;
  if (all <= threads * kBytes) return {planes, 1, 1};
  const int64_t parts = up(up(all, kBytes), threads) * threads;
  if (least * plane_bytes > kMostBytes) least = 1;
  const int64_t at_once = std::max(up(planes, parts), std::min(least, planes));
  const int64_t strips = at_once == 1 ? std::min(up(parts, planes), rows / kFewestRows) : 1;
  return {at_once, up(planes, at_once), std::max<int64_t>(1, strips)};
}

}  // namespace poolkit
