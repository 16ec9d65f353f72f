// Which cells belong to which output: the only C++ copy of the geometry.
//
// Sizes arrive worked out (src/poolkit/window.py); here an output and a tap are only mapped to a
// cell. Every window of 1, 2 or 3 axes becomes one of (D, H, W) with leading axes of extent 1.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace poolkit {

// What stands in the padding of a blur, as src/poolkit/window.py numbers it (PADDING_MODES).
enum class PaddingMode { kZeros, kReflect, kReplicate, kCircular };

// Output i of a fixed axis holds the cells start(i) + t * dilation, 0 <= t < kernel, that lie in
// [0, size). stride == 0 marks an adaptive axis, whose windows are [floor(iL/O), ceil((i+1)L/O)).
struct Axis {
  int64_t size = 1, out = 1, kernel = 1, stride = 1, before = 0, after = 0, dilation = 1;

  bool adaptive() const { return stride == 0; }

  int64_t start(int64_t i) const { return adaptive() ? share(i, size, out) : i * stride - before; }
  // First tap that is a real cell, and one past the last: taps in [first(i), last(i)) are real.
  int64_t first(int64_t i) const {
    const int64_t a = start(i);
    return a >= 0 ? 0 : std::min(kernel, steps(-a));
  }
  int64_t last(int64_t i) const { return taps_below(i, size); }
  // Taps inside the padded extent: what an average that counts padding divides by.
  int64_t padded_taps(int64_t i) const { return taps_below(i, size + after); }

  // Outputs that hold cell c are in [lowest_output(c), highest_output(c)).
  int64_t lowest_output(int64_t c) const {
    if (adaptive()) return share(c, out, size);
    const int64_t room = c + before - (kernel - 1) * dilation;
    return room <= 0 ? 0 : std::min(out, (room + stride - 1) / stride);
  }
  int64_t highest_output(int64_t c) const {
    if (adaptive()) return share_up(c + 1, out, size);
    return std::min(out, (c + before) / stride + 1);
  }
  // The tap by which output i holds cell c, or -1.
  int64_t tap(int64_t i, int64_t c) const {
    const int64_t distance = c - start(i);
    if (distance < 0 || distance % dilation != 0) return -1;
    const int64_t t = distance / dilation;
    return t < (adaptive() ? last(i) : kernel) ? t : -1;
  }
  // The cell that stands at a position of the padded axis, or -1 for a zero.
  int64_t cell_at(int64_t position, PaddingMode mode) const {
    if (0 <= position && position < size) return position;
    switch (mode) {
      case PaddingMode::kReflect:
        return position < 0 ? -position : 2 * (size - 1) - position;
      case PaddingMode::kReplicate:
        return position < 0 ? 0 : size - 1;
      case PaddingMode::kCircular:
        return position < 0 ? position + size : position - size;
      default:
        return -1;
    }
  }
  // Cells from the first to the last tap of a window.
  int64_t extent() const { return (kernel - 1) * dilation + 1; }
  // The outputs all of whose taps are real cells are [inner_begin(), inner_end()).
  int64_t inner_begin() const {
    return adaptive() ? 0 : std::min(out, (before + stride - 1) / stride);
  }
  int64_t inner_end() const {
    if (adaptive()) return out;
    const int64_t room = size + before - extent();
    return room < 0 ? inner_begin() : std::max(inner_begin(), std::min(out, room / stride + 1));
  }
  // Whether the last window ends in the padding, or before it.
  bool ends_in_padding() const {
    const auto end =
        static_cast<__int128>(out - 1) * stride + static_cast<__int128>(kernel - 1) * dilation + 1;
    return end <= static_cast<__int128>(before) + size + after;
  }
  // Every output is one cell: the axis might as well not be there.
  bool identity() const { return kernel == 1 && stride == 1 && before == 0 && out == size; }
  // The windows cut the axis into equal parts, so that planes one below the other are one tall
  // plane.
  bool tiles() const {
    return !adaptive() && before == 0 && extent() <= stride && size == out * stride;
  }
  // One output that holds every cell, with no padding around: the axis can join its inner
  // neighbour.
  bool whole() const {
    return out == 1 && kernel == size && before == 0 && after == 0 && dilation == 1;
  }

 private:
  // i * part / whole, rounded down and up. Only huge extents need the slow 128-bit product.
  static int64_t share(int64_t i, int64_t part, int64_t whole) {
    if ((i | part) < (int64_t(1) << 31)) return i * part / whole;
    return int64_t(static_cast<__int128>(i) * part / whole);
  }
  static int64_t share_up(int64_t i, int64_t part, int64_t whole) {
    if ((i | part | whole) < (int64_t(1) << 31)) return (i * part + whole - 1) / whole;
    return int64_t((static_cast<__int128>(i) * part + whole - 1) / whole);
  }

  // Taps that it takes to get so many cells further. (Divisions are slow.)
  int64_t steps(int64_t cells) const {
    return dilation == 1 ? cells : (cells + dilation - 1) / dilation;
  }

  int64_t taps_below(int64_t i, int64_t end) const {
    if (adaptive()) return share_up(i + 1, size, out) - start(i);
    const int64_t room = end - start(i);
    return room <= 0 ? 0 : std::min(kernel, steps(room));
  }
};

// With stride 1 the outputs that hold a cell are a window of stride 1 themselves, turned about.
inline bool turns(const Axis& a) { return !a.adaptive() && a.stride == 1 && a.extent() > a.before; }

inline Axis turned(const Axis& a) {
  const int64_t before = a.extent() - 1 - a.before;
  return {a.out, a.size, a.kernel, 1, before, a.size - 1 + a.extent() - a.out - before, a.dilation};
}

// a * b, or the greatest number: a kernel of much padding may have any number of taps.
inline int64_t capped_product(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

// Calls f(output, tap) for the outputs that hold cell c of an axis, in ascending order.
template <class F>
void for_holders(const Axis& a, int64_t c, const F& f) {
  const int64_t end = a.highest_output(c);
  for (int64_t o = a.lowest_output(c); o < end; ++o)
    if (const int64_t tap = a.tap(o, c); tap >= 0) f(o, tap);
}

struct Window {
  Axis d, h, w;
  int rank = 0;                // spatial axes of the tensor
  bool channels_last = false;  // the format of a backward kernel's result
  bool include_pad = true;
  PaddingMode padding_mode = PaddingMode::kZeros;
  int64_t divisor = 0;    // 0: the number of taps
  Axis apart[3];          // d, h and w before any have joined: of a blur each has its own weights
  int64_t in[3], out[3];  // extents as the tensor has them, outermost first

  static constexpr size_t kMostFields = 23;

  Window(const int64_t* packed, size_t count) {
    STD_TORCH_CHECK(count == 9 || count == 16 || count == kMostFields,
                    "poolkit: a packed window has 9, 16 or 23 integers, got ", count);
    channels_last = packed[0] & 1;
    include_pad = packed[0] & 2;
    padding_mode = PaddingMode((packed[0] >> 2) & 3);
    divisor = packed[1];
    rank = int(count - 2) / 7;
    Axis* const axes[3] = {&d, &h, &w};
    for (int i = 0; i < rank; ++i) {
      const int64_t* f = packed + 2 + 7 * i;
      const Axis axis{f[0], f[1], f[2], f[3], f[4], f[5], f[6]};
      STD_TORCH_CHECK(axis.size > 0 && axis.out >= 0 && axis.kernel > 0 && axis.stride >= 0 &&
                          axis.before >= 0 && axis.after >= 0 && axis.dilation > 0,
                      "poolkit: a packed window has impossible fields at axis ", i);
      taps_ = capped_product(taps_, axis.kernel);
      *axes[3 - rank + i] =
          axis.adaptive() && axis.out > 0 && axis.size % axis.out == 0
              ? Axis{axis.size, axis.out, axis.size / axis.out, axis.size / axis.out, 0, 0, 1}
              : axis;
      in[i] = axis.size;
      out[i] = axis.out;
    }
    apart[0] = d, apart[1] = h, apart[2] = w;
    join_whole_axes();
  }

  int64_t cells() const { return d.size * h.size * w.size; }
  int64_t outputs() const { return d.out * h.out * w.out; }
  int64_t taps() const { return capped_product(capped_product(d.kernel, h.kernel), w.kernel); }
  // The number of a tap. (Nobody asks for it where 64 bits do not number all taps.)
  int64_t number(int64_t td, int64_t th, int64_t tw) const {
    return int64_t((uint64_t(td) * uint64_t(h.kernel) + uint64_t(th)) * uint64_t(w.kernel) +
                   uint64_t(tw));
  }
  // The axis whose cells lie furthest apart.
  const Axis& outermost() const { return apart[3 - rank]; }
  // The same windows of other axes but for this one.
  Window with_outermost(const Axis& other) const {
    int64_t fields[kMostFields] = {
        int64_t(channels_last) | int64_t(include_pad) << 1 | int64_t(padding_mode) << 2, divisor};
    int64_t* field = fields + 2;
    for (int i = 3 - rank; i < 3; ++i) {
      const Axis& a = i == 3 - rank ? other : apart[i];
      for (int64_t f : {a.size, a.out, a.kernel, a.stride, a.before, a.after, a.dilation})
        *field++ = f;
    }
    return Window(fields, size_t(field - fields));
  }
  // The taps that Python reckons with: what the type of offsets depends on.
  int64_t packed_taps() const { return taps_; }
  // Global pooling, after its axes have joined.
  bool is_one_row() const {
    return w.whole() && h.whole() && d.whole() && h.size == 1 && d.size == 1;
  }

 private:
  int64_t taps_ = 1;

  // Cells of a whole plane lie in one run, so global pooling is pooling of one long row.
  void join_whole_axes() {
    for (Axis* outer : {&h, &d}) {
      if (!w.whole() || !outer->whole()) return;
      w = Axis{w.size * outer->size, 1, w.size * outer->size, 1, 0, 0, 1};
      *outer = Axis{};
    }
  }
};

// The windows of one slice: where the outermost axis has none of its own, it only makes more
// planes.
inline Window in_slices(Window w) {
  w.d = Axis{};
  return w;
}

// Windows over `planes` blocks of cells, each cell a run of `run` values.
struct Runs {
  Window window;
  int64_t planes, run;
};

// Windows so large that their sums may be added up in any order that does not depend on how the
// work is cut: of smaller ones a part of an axis gives the bits of the whole (ops/sharding.py).
inline bool is_large(const Window& w) { return w.w.kernel + w.h.kernel + w.d.kernel > 16; }

// Large windows that overlap much take few steps in long rows (rows.h), unless maxima of medium
// rows go another way (suits_groups in forward.h).
inline bool overlaps_much(const Window& w) {
  return is_large(w) && w.w.stride == 1 && w.w.out > 48;
}

// The same windows over longer runs. Innermost axes without windows of their own, such as a row
// under windows of one column, or the planes that local response normalization averages across, are
// so many more channels. Where these would be fewer than `least`, axes of one cell alone go.
inline Runs in_runs(const Window& w, int64_t planes, int64_t run, int64_t least) {
  Runs found{w, planes, run};
  if (run == 1 && overlaps_much(w)) return found;
  Window inner = w;
  for (int axis = 0; axis < 2 && inner.w.identity(); ++axis) {
    // (One cell that is not whole keeps a plane from being one row: see _is_whole in window.py.)
    if (inner.w.size == 1 && !inner.w.whole()) break;
    run *= inner.w.size;
    inner.w = inner.h, inner.h = inner.d, inner.d = Axis{};
    if (run >= least || run == found.run) found.window = inner, found.run = run;
  }
  return found;
}

// Channels too few to fill a register are neighbours in a row all the same. Where windows begin a
// cell apart, cells and channels are one row: the taps of a window lie `run` values apart, and each
// output one value after the one before.
inline void join_channels(Runs& r, int64_t least) {
  Axis& a = r.window.w;
  if (r.run == 1 || r.run >= least || a.adaptive() || a.stride > 1) return;
  // The stride of a single window says nothing, and padding has no limit: products might be too
  // large.
  if (a.out == 1 || std::max({a.extent(), a.before, a.after}) > 4 * a.size + 64) return;
  for (int64_t* cells : {&a.size, &a.out, &a.before, &a.after}) *cells *= r.run;
  if (a.kernel > 1) a.dilation *= r.run;
  r.run = 1;
}

// How many of `rows` rows, one behind the other, are taken for one: rows of few outputs, whose
// windows cut them into equal parts. Longer ones gain nothing (measured), and contiguous ones only
// where neighbouring cells are parted by vectors.
inline int64_t rows_in_one(const Axis& a, int64_t rows, int64_t run) {
  if (!a.tiles() || a.out == 0 || (run == 1 && a.stride != 2 && a.stride != 4)) return 1;
  int64_t some = std::max<int64_t>(1, std::min(rows, (run == 1 ? 1024 : 32) / a.out));
  while (rows % some != 0) --some;
  return some;
}

// For kernels of every kind of window: if only one axis has windows, all planes as rows of one, so
// that there are fewer beginnings, and short rows as fewer, longer ones; and few channels joined.
inline Runs in_rows_of_runs(const Window& w, int64_t planes, int64_t run, int64_t least) {
  Runs found = in_runs(w, planes, run, least);
  Axis &d = found.window.d, &h = found.window.h, &a = found.window.w;
  if (planes > 1 && d.identity() && h.identity() && (found.run == 1 || found.run >= least)) {
    const int64_t all = planes * d.size * h.size, some = rows_in_one(a, all, found.run);
    if (some > 1 || found.run > 1) {
      a.size *= some, a.out *= some;
      d = Axis{}, h = Axis{all / some, all / some}, found.planes = 1;
    }
  }
  join_channels(found, least);
  return found;
}

}  // namespace poolkit
