// The forward scheme shared by every reduction: two passes in cache, along the row first.
//
//   input rows   a b c d e f g h        row pass: reduce each window along the row into a row
//   buffer
//                 \_/ \_/ \_/ \_/.
//   row buffers    .   .   .   .        one per input row of the strip: windows below share them
//                  .   .   .   .
//                  |   |   |   |        column pass: fold the k_h (times k_d) buffers, top to
//                  bottom
//   output rows    y   y   y   y
//
// A window costs k_h + k_w steps and not k_h * k_w. This order, and only this one, visits cells as
// row-major order does, so ties, signed zeros and NaN come out as torch's to the bit.
//
// The unit of work is a strip: as many output rows of a plane as have their row buffers in cache.
// Both passes run over a whole strip at once. In channels-last memory a cell is a run of C values:
// the same passes with rows C times as long.
#pragma once

#include <algorithm>
#include <memory>

#include "reduce.h"
#include "tensor.h"

namespace poolkit {

// Row buffers of a strip together, which share the first-level cache with the input; tall windows
// take up to kTallBytes, in the second level.
constexpr int64_t kStripBytes = 16 << 10;
constexpr int64_t kTallBytes = 256 << 10;
// One row buffer: longer rows are done in blocks of columns.
constexpr int64_t kRowBytes = 8 << 10;
// Windows taller than this many rows are reduced row by row into a single buffer.
constexpr int64_t kMaxRows = 256;

// How the output is cut up: blocks of columns (and of channels), and strips of output rows.
struct Blocks {
  int64_t columns, column_blocks, channels, channel_blocks, rows, strips, input_rows;
  bool keeps;  // whether a strip has a buffer for each of its input rows

  Blocks(const Window& w, int64_t planes, int64_t run, int64_t value_bytes, bool straight) {
    const int64_t tall = 3 * w.h.extent() * w.d.kernel;
    keeps = !straight && w.d.kernel <= kMaxRows && w.h.extent() <= kMaxRows / w.d.kernel;
    const int64_t values =
        (straight ? 2 * kStripBytes
                  : std::clamp<int64_t>(keeps ? kTallBytes / tall : kRowBytes, 512, kRowBytes)) /
        value_bytes;
    channels = std::min(run, values);
    channel_blocks = (run + channels - 1) / channels;
    // A block of part of the channels has a single column: its outputs must be one run.
    const int64_t most = channels < run ? 1 : std::max<int64_t>(1, values / run);
    column_blocks = (w.w.out + most - 1) / most;
    columns = (w.w.out + column_blocks - 1) / column_blocks;
    column_blocks = (w.w.out + columns - 1) / columns;

    const int64_t row_bytes = columns * channels * value_bytes * (straight ? 1 : w.d.kernel);
    // Neighbouring strips both reduce the rows that they share, so tall windows want tall strips.
    const int64_t wanted = std::max(kStripBytes / row_bytes, 3 * w.h.extent());
    const int64_t step = std::max<int64_t>(1, w.h.stride);
    rows = keeps      ? std::max<int64_t>(1, (wanted - w.h.extent()) / step + 1)
           : straight ? std::max<int64_t>(1, kStripBytes / row_bytes)
                      : 1;
    // Few planes with much work are cut into more strips, so that every thread has some.
    const int64_t items = planes * channel_blocks * column_blocks * w.d.out;
    if (items < 32 && items * w.h.out * columns * channels > 4 * kGrain)
      rows = std::min(rows, std::max<int64_t>(1, w.h.out * items / 32));
    rows = std::min(rows, w.h.out);
    strips = (w.h.out + rows - 1) / rows;
    rows = (w.h.out + strips - 1) / strips;
    strips = (w.h.out + rows - 1) / rows;
    input_rows = !keeps           ? 1
                 : w.h.adaptive() ? std::min(w.h.size, rows * (w.h.size / w.h.out + 1) + 1)
                                  : std::min(w.h.size, (rows - 1) * step + w.h.extent());
  }

  // The first input row of outputs [begin, end), and the number of rows to the last.
  static std::pair<int64_t, int64_t> span(const Axis& h, int64_t begin, int64_t end) {
    const int64_t first = std::clamp<int64_t>(h.start(begin), 0, h.size);
    const int64_t last_start = h.start(end - 1);
    const int64_t last =
        std::min(h.size, h.adaptive() ? last_start + h.last(end - 1) : last_start + h.extent());
    return {first, std::max<int64_t>(0, last - first)};
  }
};

// Offsets travel beside values, or not at all.
template <class L>
L* lane(L* at, int64_t offset) {
  if constexpr (std::is_same_v<std::remove_const_t<L>, NoOffset>)
    return at;
  else
    return at + offset;
}

// Reduces input rows along themselves, for outputs [begin, end) and `channels` values of each cell.
template <class R>
class RowPass {
  using T = typename R::Element;
  using V = typename R::Value;
  using L = typename R::Lane;
  static constexpr bool kConverts = !std::is_same_v<T, V>;

 public:
  RowPass(const Axis& axis, int64_t run, const Blocks& blocks)
      : axis_(axis), run_(run), inner_begin_(axis.inner_begin()), inner_end_(axis.inner_end()) {
    if constexpr (kConverts) {
      const int64_t cells = axis.adaptive() ? (blocks.columns + 1) * axis.kernel
                                            : (blocks.columns - 1) * axis.stride + axis.extent();
      row_room_ = std::min(cells, axis.size) * blocks.channels;
      room_ = std::min(kMaxWide, std::max(row_room_, row_room_ * blocks.input_rows));
      fits_ = row_room_ <= kMaxWide;
      wide_.reset(new V[fits_ ? room_ : 1]);
    }
  }

  // Row r of `rows` starts at row + r * pitch. Its result goes to v[r * to_pitch + (i - begin) *
  // channels + c], the taps likewise to `at`.
  void operator()(const T* row, int64_t pitch, int64_t rows, int64_t begin, int64_t end,
                  int64_t channels, V* v, L* at, int64_t to_pitch) {
    if constexpr (!kConverts) {
      reduce(row, run_, pitch, rows, begin, end, channels, v, at, to_pitch);
    } else if (!fits_) {
      for (int64_t r = 0; r < rows; ++r)
        unfit(row + r * pitch, begin, end, channels, v + r * to_pitch);
    } else if (const int64_t size = axis_.size * run_;
               pitch == size && channels == run_ && rows * size <= room_) {
      widen_values(row, wide_.get(), rows * size);  // whole rows, one after the other
      reduce(wide_.get(), run_, size, rows, begin, end, channels, v, at, to_pitch);
    } else {
      const auto [low, cells] = Blocks::span(axis_, begin, end);
      for (int64_t r = 0; r < rows; ++r) {
        const T* from = row + r * pitch + low * run_;
        if (channels == run_)
          widen_values(from, wide_.get(), cells * run_);
        else
          for (int64_t c = 0; c < cells; ++c)
            widen_values(from + c * run_, wide_.get() + c * channels, channels);
        reduce(wide_.get() - low * channels, channels, 0, 1, begin, end, channels, v + r * to_pitch,
               at, to_pitch);
      }
    }
  }

 private:
  static constexpr int64_t kMaxWide = 1 << 16;

  // Cell c of a row is at p[c * cell], `channels` values from there.
  void reduce(const V* p, int64_t cell, int64_t pitch, int64_t rows, int64_t begin, int64_t end,
              int64_t channels, V* v, L* at, int64_t to_pitch) {
    const int64_t k = axis_.kernel, s = axis_.stride, d = axis_.dilation;
    int64_t inner = std::clamp(inner_begin_, begin, end);
    int64_t outer = std::clamp(inner_end_, inner, end);
    // Long windows of few outputs go faster one by one.
    const bool long_run = channels == 1 && d == 1 && k >= 16 && (s >= 16 || end - begin <= 8);
    if (axis_.adaptive() || long_run) outer = inner = begin;
    const auto edges = [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const int64_t first = axis_.first(i), taps = axis_.last(i) - first;
        const V* q = p + (axis_.start(i) + first * d) * cell;
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t offset = r * to_pitch + (i - begin) * channels;
          one(q + r * pitch, d * cell, first, taps, channels, v + offset, lane(at, offset));
        }
      }
    };
    if (outer > inner) {
      const V* first = p + axis_.start(inner) * cell;
      const auto source = [&](int64_t t) { return Source<R>{first + t * d * cell, nullptr, t}; };
      const int64_t offset = (inner - begin) * channels, n = outer - inner;
      if (channels == 1 || (s == 1 && channels == cell)) {
        fold<R, false>(k, source, v + offset, lane(at, offset),
                       {n * channels, rows, pitch, to_pitch, channels == 1 ? s : 1,
                        to_pitch == (end - begin) * channels});
      } else {  // runs of channels with gaps between them
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t to_first = r * to_pitch + offset;
          fold<R, false>(
              k, [&](int64_t t) { return Source<R>{first + r * pitch + t * d * cell, nullptr, t}; },
              v + to_first, lane(at, to_first), {channels, n, s * cell, channels});
        }
      }
    }
    // After the inner part, which may have spilt over them.
    edges(begin, inner);
    edges(outer, end);
  }

  // A single window: `channels` values from `taps` cells that are `step` apart, the first being q.
  static void one(const V* q, int64_t step, int64_t first, int64_t taps, int64_t channels, V* v,
                  L* at) {
    if (taps <= 0) return std::fill_n(v, channels, V{}), void();  // sums alone: padding is zeros
    if (channels > 1)
      return fold<R, false>(taps,
                            [&](int64_t t) { return Source<R>{q + t * step, nullptr, first + t}; },
                            v, at, {channels});
    if (taps >= 16 && step == 1) return run(q, taps, first, v, at);
    V best = q[0];
    int64_t tap = 0;
    for (int64_t t = 1; t < taps; ++t) {
      const V c = q[t * step];
      if constexpr (R::kOffsets) tap = beats(c, best) ? t : tap;
      best = R::combine(best, c);
    }
    *v = best;
    if constexpr (R::kOffsets) *at = L(first + tap);
  }

  static void run(const V* q, int64_t taps, int64_t first, V* v, L* at) {
    if constexpr (std::is_same_v<R, Sum<T>>) {
      *v = sum_run(q, taps);
    } else {
      const int64_t tap = winner(q, taps);
      *v = q[tap];
      if constexpr (R::kOffsets) *at = L(first + tap);
    }
  }

  // Windows too wide for a converted copy of the row: convert as the taps come.
  void unfit(const T* row, int64_t begin, int64_t end, int64_t channels, V* v) {
    if constexpr (kConverts) {
      for (int64_t i = begin; i < end; ++i, v += channels) {
        const int64_t first = axis_.first(i), last = axis_.last(i), d = axis_.dilation;
        const T* q = row + axis_.start(i) * run_;
        if (channels == 1 && run_ == 1 && d == 1 && last > first) {
          *v = sum_run(q + first, last - first);
          continue;
        }
        std::fill_n(v, channels, V{});
        for (int64_t t = first; t < last; ++t)
          for (int64_t c = 0; c < channels; ++c)
            v[c] = R::combine(v[c], widen(q[t * d * run_ + c]));
      }
    }
  }

  const Axis axis_;
  const int64_t run_, inner_begin_, inner_end_;
  int64_t row_room_ = 0, room_ = 0;
  bool fits_ = true;
  std::unique_ptr<V[]> wide_;
};

// Windows of few taps on runs of channels, or that do not overlap, take fewer loads and stores
// straight from the input, in one fold over all taps, than by way of row buffers.
template <class R>
bool goes_straight(const Window& w, int64_t run) {
  if (!std::is_same_v<typename R::Element, typename R::Value>) return false;  // rows to convert
  if (w.d.adaptive() || w.h.adaptive() || w.w.adaptive()) return false;
  return run > 1 ? w.taps() <= 9 : w.taps() <= 4 && w.w.stride == w.w.kernel && w.w.stride <= 2;
}

// A strip of output rows: where it is.
struct Strip {
  int64_t plane, d, h, rows;  // output rows (d, h) ... (d, h + rows - 1)
  int64_t begin, end;         // their columns
  int64_t channel, channels;  // which part of each cell's run
  int64_t first, pitch;       // where the first value goes in the output, and from row to row

  int64_t n() const { return (end - begin) * channels; }
};

// Folds the strip's windows from the input itself.
template <class R>
void fold_straight(const typename R::Value* x, const Window& w, int64_t run, const Strip& p,
                   typename R::Value* acc, typename R::Lane* at, int64_t pitch) {
  using V = typename R::Value;
  const int64_t line = w.w.size * run;
  const int64_t d0 = w.d.first(p.d), nd = w.d.last(p.d) - d0;
  const V* const slice = x + (p.plane * w.d.size + w.d.start(p.d)) * w.h.size * line + p.channel;
  const int64_t inner = std::clamp(w.w.inner_begin(), p.begin, p.end);
  const int64_t outer = std::clamp(w.w.inner_end(), inner, p.end);
  // Output rows [h, h + rows) with the same taps inside the input.
  const auto same_rows = [&](int64_t h, int64_t rows) {
    const int64_t h0 = w.h.first(h), nh = w.h.last(h) - h0;
    // Output columns [i, i + columns) likewise.
    const auto same_columns = [&](int64_t i, int64_t columns, bool spills) {
      const int64_t w0 = w.w.first(i), nw = w.w.last(i) - w0, taps = nd * nh * nw;
      const V* const corner = slice + w.h.start(h) * line + w.w.start(i) * run;
      const int64_t to = (h - p.h) * pitch + (i - p.begin) * p.channels;
      const int64_t down = w.h.stride * line, right = w.w.stride * run;
      for (int64_t r = 0; r < (run == 1 ? 1 : rows); ++r) {
        V* const row = acc + to + r * pitch;
        if (nd <= 0 || nh <= 0 || nw <= 0) {
          for (int64_t q = 0; q < (run == 1 ? rows : 1); ++q)
            std::fill_n(row + q * pitch, columns * p.channels, V{});
          continue;
        }
        const auto source = [&](int64_t k) {
          const int64_t tw = w0 + k % nw, th = h0 + k / nw % nh, td = d0 + k / nw / nh;
          const int64_t cell = td * w.d.dilation * w.h.size * line + th * w.h.dilation * line +
                               tw * w.w.dilation * run;
          return Source<R>{corner + cell + r * down, nullptr,
                           (td * w.h.kernel + th) * w.w.kernel + tw};
        };
        if (run == 1)
          fold<R, false>(taps, source, row, lane(at, to),
                         {columns, rows, down, pitch, w.w.stride, spills});
        else
          fold<R, false>(taps, source, row, lane(at, to + r * pitch),
                         {p.channels, columns, right, p.channels});
      }
    };
    // The edges after the inner columns, which may have spilt over them.
    if (outer > inner) same_columns(inner, outer - inner, pitch == w.w.out);
    for (int64_t i = p.begin; i < inner; ++i) same_columns(i, 1, false);
    for (int64_t i = outer; i < p.end; ++i) same_columns(i, 1, false);
  };
  const int64_t end = p.h + p.rows;
  const int64_t top = std::clamp(w.h.inner_begin(), p.h, end);
  const int64_t bottom = std::clamp(w.h.inner_end(), top, end);
  for (int64_t h = p.h; h < top; ++h) same_rows(h, 1);
  if (bottom > top) same_rows(top, bottom - top);
  for (int64_t h = bottom; h < end; ++h) same_rows(h, 1);
}

// Reduces every window of `x`; calls finish(strip, values, taps, pitch) with each strip's results.
// `target` may be null, or the output itself where sums need no buffer of a wider type.
template <class R, class Finish>
void forward(const typename R::Element* x, const Window& window, int64_t planes, int64_t run,
             typename R::Value* target, const Finish& finish) {
  using T = typename R::Element;
  using V = typename R::Value;
  using L = typename R::Lane;
  Window w = window;
  if (w.outputs() == 0 || planes == 0) return;
  const bool straight = goes_straight<R>(w, run);
  const bool rows_alone = w.d.identity() && w.h.identity();
  if (w.d.identity() && w.h.tiles()) {  // planes are one tall plane then
    w.h.size *= planes * w.d.size;
    w.h.out *= planes * w.d.size;
    w.d = Axis{};
    planes = 1;
  }
  const Blocks blocks(w, planes, run, sizeof(V), straight);
  const int64_t row_values = blocks.columns * blocks.channels;
  const int64_t slice = blocks.input_rows * row_values;
  const int64_t items =
      planes * blocks.channel_blocks * blocks.column_blocks * w.d.out * blocks.strips;
  const int64_t cost = blocks.rows * row_values * (w.d.kernel * w.h.kernel + w.w.kernel);

  parallel(items, cost, [&](int64_t item, int64_t stop) {
    RowPass<R> row_pass(w.w, run, blocks);
    const int64_t kept = blocks.keeps ? w.d.kernel * slice : row_values;
    const bool buffers = !rows_alone && !straight;
    std::unique_ptr<V[]> values(buffers ? new V[kept] : nullptr);
    std::unique_ptr<L[]> lanes(R::kOffsets && buffers ? new L[kept] : nullptr);
    // Offsets need the values beside them to have the same pitch.
    const bool direct = target && (!R::kOffsets || row_values == w.w.out * run);
    std::unique_ptr<V[]> buffer(direct ? nullptr : new V[blocks.rows * row_values]);
    std::unique_ptr<L[]> taps(R::kOffsets ? new L[blocks.rows * row_values] : nullptr);
    for (; item < stop; ++item) {
      int64_t rest = item;
      Strip p;
      p.h = rest % blocks.strips * blocks.rows, rest /= blocks.strips;
      p.rows = std::min(blocks.rows, w.h.out - p.h);
      p.d = rest % w.d.out, rest /= w.d.out;
      p.begin = rest % blocks.column_blocks * blocks.columns, rest /= blocks.column_blocks;
      p.end = std::min(w.w.out, p.begin + blocks.columns);
      p.channel = rest % blocks.channel_blocks * blocks.channels;
      p.channels = std::min(blocks.channels, run - p.channel);
      p.plane = rest / blocks.channel_blocks;
      p.pitch = w.w.out * run;
      p.first = ((p.plane * w.d.out + p.d) * w.h.out + p.h) * p.pitch + p.begin * run + p.channel;

      const int64_t n = p.n(), pitch = direct ? p.pitch : n;
      V* const acc = direct ? target + p.first : buffer.get();
      L* const at = taps.get();
      const auto input = [&](int64_t d, int64_t h) {
        return x + ((p.plane * w.d.size + d) * w.h.size + h) * w.w.size * run + p.channel;
      };
      const int64_t input_pitch = w.w.size * run;
      const int64_t d0 = w.d.first(p.d), nd = w.d.last(p.d) - d0, d_start = w.d.start(p.d);
      if (straight) {
        if constexpr (std::is_same_v<T, V>) fold_straight<R>(x, w, run, p, acc, at, pitch);
      } else if (rows_alone) {
        row_pass(input(0, p.h), input_pitch, p.rows, p.begin, p.end, p.channels, acc, at, pitch);
      } else if (!blocks.keeps) {
        const int64_t h0 = w.h.first(p.h), nh = w.h.last(p.h) - h0, h_start = w.h.start(p.h);
        if (nd <= 0 || nh <= 0) std::fill_n(acc, n, V{});
        for (int64_t td = d0; td < d0 + nd; ++td)
          for (int64_t th = h0; th < h0 + nh; ++th) {
            row_pass(input(d_start + td * w.d.dilation, h_start + th * w.h.dilation), input_pitch,
                     1, p.begin, p.end, p.channels, values.get(), lanes.get(), n);
            const Source<R> s{values.get(), lanes.get(), (td * w.h.kernel + th) * w.w.kernel};
            if (td == d0 && th == h0)
              fold_some<R, true, true, 1>(&s, acc, at, {n}, std::make_index_sequence<1>());
            else
              fold_some<R, false, true, 1>(&s, acc, at, {n}, std::make_index_sequence<1>());
          }
      } else {
        const auto [h_low, h_count] = Blocks::span(w.h, p.h, p.h + p.rows);
        for (int64_t td = d0; td < d0 + nd; ++td)
          row_pass(input(d_start + td * w.d.dilation, h_low), input_pitch, h_count, p.begin, p.end,
                   p.channels, values.get() + (td - d0) * slice,
                   lane(lanes.get(), (td - d0) * slice), n);
        // Output rows [i, i + rows) have the same taps of the kernel inside the input.
        const auto column_pass = [&](int64_t i, int64_t rows) {
          const int64_t h0 = w.h.first(i), nh = w.h.last(i) - h0;
          const int64_t to = (i - p.h) * pitch;
          if (nd <= 0 || nh <= 0) {
            for (int64_t r = 0; r < rows; ++r) std::fill_n(acc + to + r * pitch, n, V{});
            return;
          }
          const int64_t top = (w.h.start(i) - h_low) * n, down = w.h.dilation * n;
          const auto source = [&](int64_t k) {
            const int64_t td = k / nh, th = h0 + k % nh, row = td * slice + top + th * down;
            return Source<R>{values.get() + row, lane(lanes.get(), row),
                             ((d0 + td) * w.h.kernel + th) * w.w.kernel};
          };
          fold<R, true>(nd * nh, source, acc + to, lane(at, to),
                        {n, rows, w.h.stride * n, pitch, 1, pitch == n});
        };
        const int64_t end = p.h + p.rows;
        const int64_t inner = w.h.adaptive() ? end : std::clamp(w.h.inner_begin(), p.h, end);
        const int64_t outer = std::clamp(w.h.inner_end(), inner, end);
        for (int64_t i = p.h; i < inner; ++i) column_pass(i, 1);
        if (outer > inner) column_pass(inner, outer - inner);
        for (int64_t i = outer; i < end; ++i) column_pass(i, 1);
      }
      finish(p, acc, at, pitch);
    }
  });
}

}  // namespace poolkit
