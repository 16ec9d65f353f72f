// Windows over vectors: the forward scheme where every cell is a register full of values.
//
// In channels-last memory that is what a cell is: a run of channels; other planes are brought into
// the same form (lane_planes.h). A window is then a loop over its cells (one_window.h), whatever
// its geometry: edges, dilation and adaptive windows cost nothing. Few taps are reduced straight
// from the input; more go by way of rows that are reduced along themselves first, once for all
// windows that share them, and of five taps and more neighbouring windows go together
// (neighbours.h). Windows 3/1 go together in tiles (tiles.h). In any case cells meet in row-major
// order, so ties, signed zeros and NaN come out as torch's to the bit.
#pragma once

#include <algorithm>
#include <vector>

#include "neighbours.h"
#include "tensor.h"
#include "tiles.h"

namespace poolkit {

// Outputs [i, end) of a row, whose windows have K taps in each input row (0: any number, which may
// change from output to output). All values of one output come before the next output: long cells
// are read as they lie. finish(0, i) is what becomes of sum i.
//
// Not inlined, so that the loops have the registers to themselves: an address that waits in a
// vector register waits behind all vectors that wait for memory.
template <class R, Rule rule, bool Sub, bool Pairs, int U, int K, bool Square, class C, class D,
          class O, class F>
[[gnu::noinline]] void reduce_cells(const CellRow<R, C>* rows, int64_t count,
                                    const std::vector<Column>& columns, int64_t i, int64_t end,
                                    const Pitches& pitches, D* to, O* to_taps, const F& finish,
                                    Seen<typename R::Value>& seen) {
  constexpr int64_t kStep = U * kLanes<typename R::Value>;
  const Pitches p = pitches;
  constexpr bool kOfKeys = kKeys<typename R::Value, C>;
  constexpr bool kAsks = kVectorBytes == 64 && !Sub && (Square || (K == 3 && !R::kSums));
  SeenOf<typename R::Value, C> special{};  // in registers: nothing else may point to it
  if constexpr (!kOfKeys) special = seen;
  const Column* c = columns.data() + i;
  const Column* const last = columns.data() + end;
  to += i * p.to, to_taps = lane(to_taps, i * p.taps);
  for (; c < last; ++c, to += p.to, to_taps = lane(to_taps, p.taps)) {
    [[maybe_unused]] const auto finished = finish(0, c - columns.data());
    const auto all = [&](const CellRow<R, C>* from, int64_t first) {
      // The first step is short where the second overlaps it.
      for (int64_t at = 0, ahead = (p.width - 1) % kStep + 1; at < p.width;
           at += ahead, ahead = kStep) {
        if constexpr (kAsks)
          if (p.ahead > 0 && (Square || count > 1)) {  // two rows and two columns are new
            const CellRow<R, C>* const last_row = from + (Square ? K : count) - 1;
            POOLKIT_UNROLL
            for (int k = 0; k < 4; ++k)
              fetch<kStep>(last_row[-k / 2].cells + first + at + k % 2 * p.step + p.ahead);
          }
        if constexpr (R::kSums)
          sum_window<R, Sub, Pairs, U, K, Square>(from, count, *c, first + at, p.step, to + at,
                                                  finished);
        else
          reduce_window<R, rule, Sub, U, K, Square>(from, count, *c, first + at, p.step, to + at,
                                                    lane(to_taps, at), special);
      }
    };
    if constexpr (Square) {
      CellRow<R, C> from[K];
      for (int r = 0; r < K; ++r) from[r] = rows[r], from[r].cells += c->first;
      all(from, 0);
    } else {
      all(rows, c->first);
    }
  }
  if constexpr (kOfKeys)
    seen.lanes |= special.template lanes<C>();
  else
    seen = special;
}

// One output row. Sub: the cells bring taps of their own, or are sums.
template <class R, Rule rule, bool Sub, bool Pairs, int U, class C, class D, class O, class F>
void reduce_row(const CellRow<R, C>* rows, int64_t count, const std::vector<Column>& columns,
                const Pitches& p, D* to, O* to_taps, const F& finish,
                Seen<typename R::Value>& special) {
  const auto n = int64_t(columns.size());
  const auto taps = [&](int64_t i) { return columns[size_t(i)].taps; };
  // Windows of different sizes in one go, where cells are so short that to begin anew is dear.
  const bool mixed = !Sub && U == 1 && p.mixed;
  int64_t i = 0;
  if constexpr (!Sub)
    if (count == 1 && p.together > 1) {
      if (p.together == kTogether)
        i = reduce_groups<R, rule, Pairs, kTogether>(rows[0], columns, i, p, to, to_taps, finish,
                                                     special);
      i = reduce_groups<R, rule, Pairs, kTogether / 2>(rows[0], columns, i, p, to, to_taps, finish,
                                                       special);
    }
  for (int64_t end; i < n; i = end) {
    for (end = i + 1; end < n && (mixed || taps(end) == taps(i));) ++end;
    constexpr int kGroup = 4;
    if constexpr (R::kSums && !Sub)
      if (count == 1 && !mixed && end - i >= kGroup && taps(i) >= kGroup &&
          columns[size_t(i + 1)].first - columns[size_t(i)].first == p.step)
        if (i = add_groups<R, Pairs, kGroup>(rows[0].cells, columns, i, end, p, to, finish);
            i == end)
          continue;
    if constexpr (R::kSums && !Sub)
      if (count == 1 && taps(i) >= 32 && p.width > U * kLanes<typename R::Value>) {
        Buffer<typename R::Value> sums(p.width + U * kLanes<typename R::Value>);
        for (; i < end; ++i)
          sum_long_window<R, Pairs>(rows[0].cells + columns[size_t(i)].first, taps(i), p.width,
                                    p.step, p.far, sums.get(), to + i * p.to, finish(0, i));
        continue;
      }
    const auto go = [&]<int K, bool Square = false>(int64_t some) {
      reduce_cells<R, rule, Sub, Pairs, U, K, Square>(rows, some, columns, i, end, p, to, to_taps,
                                                      finish, special);
    };
    if (mixed)
      go.template operator()<0>(count);
    else if (Sub || taps(i) == 1)
      go.template operator()<1>(count);
    else if (taps(i) == 2 && count == 2 && !rows[1].opens)
      go.template operator()<2, true>(count);
    else if (taps(i) == 2)
      go.template operator()<2>(count);
    else if (taps(i) == 3 && count == 3 && !rows[1].opens && !rows[2].opens)
      go.template operator()<3, true>(count);
    else if (taps(i) == 3)
      go.template operator()<3>(count);
    else
      go.template operator()<0>(taps(i) > 0 ? count : 0);  // sums alone: padding is zeros
  }
}

// Whether so few taps are reduced that row buffers would cost more. `cost` of reading a cell.
inline bool is_straight(const Window& w, int64_t cost) {
  if (has_tiles(w)) return true;
  // (A kernel may be far longer than the axis: padding has no limit.)
  const auto taps = [](const Axis& a) { return std::min(a.kernel, a.size); };
  const int64_t rows = capped_product(taps(w.d), taps(w.h));
  if (rows == 1 || w.w.kernel == 1) return true;
  if (rows > 64) return false;
  // Rows of input that come new with each row of outputs; the others are reduced already.
  const int64_t fresh = std::min<int64_t>(
      64, capped_product(std::max<int64_t>(1, w.h.stride), std::max<int64_t>(1, w.d.stride)));
  const int64_t along = capped_product(cost, taps(w.w));
  return capped_product(rows, along) <= fresh * std::min<int64_t>(along + 3, 1 << 20) + rows + 2;
}

// Outputs of planes [plane, plane + planes): depths [d0, d1), rows [h0, h1), columns [w0, w1).
struct Block {
  int64_t plane, planes, d0, d1, h0, h1, w0, w1;

  int64_t columns() const { return w1 - w0; }
  int64_t rows() const { return (d1 - d0) * (h1 - h0); }
};

// The cells [low, high) of an axis that outputs [begin, end) look at.
struct Span {
  int64_t low, high;

  Span(const Axis& a, int64_t begin, int64_t end) {
    const int64_t start = a.start(end - 1);
    const int64_t last = a.adaptive() ? start + a.last(end - 1) : start + a.extent();
    low = std::clamp<int64_t>(a.start(begin), 0, a.size);
    high = std::clamp<int64_t>(last, low, a.size);
  }
  int64_t size() const { return high - low; }
};

// Output i of an axis: its first cell, were all of its taps real, and the real ones.
struct RealTaps {
  int64_t start, first, last;
  RealTaps(const Axis& a, int64_t i) : start(a.start(i)), first(a.first(i)), last(a.last(i)) {}
};

// Cells in memory: (d, h, w) is at p + (d * slice + h * row + w * cell) - origin.
template <class V>
struct View {
  const V* p;
  int64_t origin, slice, row, cell;
  const V* line(int64_t d, int64_t h) const { return p + (d * slice + h * row - origin); }
};

// Reduces blocks of cells that are `width` values wide, U vectors at a time. Sums are divided.
// Pairs: of bfloat16, whose width is a multiple of U vectors. `groups`: whether neighbouring
// windows go together.
template <class R, Rule rule, int U, bool Pairs = false>
class LanePool {
  using V = typename R::Value;
  using L = typename R::Lane;

 public:
  LanePool(const Window& w, int64_t width, const Divisors<V>* divisors, bool groups,
           bool far = false, bool beyond = false)
      : w_(w),
        width_(width),
        divisors_(divisors),
        along_(groups ? together(w.w) : 1),
        down_(groups ? together(w.h) : 1),
        far_(far),
        beyond_(beyond) {}

  // The results of output row r of the block go to `to` + r * row, cells `cell` apart, and the taps
  // likewise to `taps`.
  template <class C, class D, class O>
  void operator()(const View<C>& in, const Block& b, D* to, int64_t row, int64_t cell, O* taps,
                  int64_t taps_row, int64_t taps_cell) {
    const Span d_seen(w_.d, b.d0, b.d1), h_seen(w_.h, b.h0, b.h1);
    // An odd number of vectors: rows at an even distance would meet in few sets of the cache.
    constexpr int64_t N = kLanes<V>;
    const int64_t line = ((b.columns() * width_ + N - 1) / N | 1) * N;
    const bool straight = is_straight(w_, std::is_same_v<C, V> ? 1 : 3);
    if (b.w0 != begin_ || b.w1 != end_) {
      begin_ = b.w0, end_ = b.w1;
      find_columns(w_.w, begin_, end_, in.cell, columns_);
      units_.clear();
      for (int64_t i = 0; i < b.columns(); ++i) units_.push_back({i * width_, 0, 1});
    }
    if (!straight) {
      done_.assign(size_t(d_seen.size() * h_seen.size()), 0);
      reduced_.reserve(int64_t(done_.size()) * line);
      reduced_taps_.reserve(int64_t(done_.size()) * line);
    }
    constexpr bool kTiles = rule != Rule::kFull;
    const bool tiled = kTiles && has_tiles(w_);
    Buffer<C> zeros;
    if (R::kSums && tiled) std::fill_n(zeros.reserve(width_), width_, C{});
    std::vector<CellRow<R, C>> list;
    std::vector<CellRow<R, V>> reduced;
    const int64_t step = w_.w.dilation * in.cell;
    // Measured: windows 2/2 want less than 3/2, and those that begin a cell apart nothing.
    const bool apart = w_.w.stride == 2 && w_.h.stride == 2;
    const int64_t ahead = beyond_ && apart ? (w_.w.kernel == 2 ? 2048 : 4096) / sizeof(C) : 0;
    const auto number = [&](int64_t id, int64_t ih) {
      return (id - d_seen.low) * h_seen.size() + ih - h_seen.low;
    };
    // Input row (id, ih), reduced along itself.
    const auto reduce_along = [&](int64_t id, int64_t ih) {
      const int64_t n = number(id, ih);
      if (std::exchange(done_[size_t(n)], 1)) return;
      const CellRow<R, C> one{in.line(id, ih), nullptr, 0, true};
      reduce_row<R, rule, false, Pairs, U>(
          &one, 1, columns_, {width_, step, width_, width_, far_, 0, along_, w_.w.adaptive()},
          reduced_.get() + n * line, lane(reduced_taps_.get(), n * line), Products<V>{V(1)},
          special_);
    };
    // What all sums are multiplied by, or 0 if they are divided.
    const V factor = divisors_ ? divisors_->factor() : V(1);
    for (int64_t d = b.d0; d < b.d1; ++d) {
      const RealTaps through{w_.d, d};
      for (int64_t h = b.h0, rows; h < b.h1;
           h += rows, to += rows * row, taps = lane(taps, rows * taps_row)) {
        const bool one_slice = through.last - through.first == 1, tile = tiled && one_slice;
        rows = tile                     ? std::min<int64_t>(kTileRows, b.h1 - h)
               : !straight && one_slice ? rows_together(h, b.h1)
                                        : 1;
        list.clear(), reduced.clear();
        const RealTaps down{w_.h, h}, end{w_.h, h + rows - 1};
        for (int64_t td = through.first; td < through.last && !tile; ++td)
          for (int64_t th = down.first; th < end.last + rows - 1; ++th) {
            const int64_t base = w_.number(td, th, 0);
            const int64_t id = through.start + td * w_.d.dilation;
            const int64_t ih = down.start + th * w_.h.dilation;
            const bool opens = th == down.first;
            if (straight) {
              list.push_back({in.line(id, ih), nullptr, base, opens});
              continue;
            }
            reduce_along(id, ih);
            const int64_t from = number(id, ih) * line;
            reduced.push_back(
                {reduced_.get() + from, lane(reduced_taps_.get(), from), base, opens});
          }
        const auto reduce = [&](const auto& finish) {
          constexpr Rule kRule = rule == Rule::kWatched ? Rule::kPlain : rule;
          const auto go = [&]<int G>() {
            const Neighbours n{down.first, down.last - down.first, int64_t(reduced.size()),
                               line,       reduced[0].base,        w_.w.kernel};
            reduce_down<R, kRule, Pairs, G>(n, reduced[0], b.columns(), width_, to, row, cell, taps,
                                            taps_row, taps_cell, finish);
          };
          if constexpr (kTiles)
            if (tile)
              return reduce_tiles<R, Pairs, rule == Rule::kWatched>(
                  tile_rows(in, through, h, int(rows)), w_.w, b.w0, b.w1, zeros.get(),
                  {width_, in.cell, cell, taps_cell, false, 0, 1, false}, to, row, taps, taps_row,
                  finish, special_);
          if (straight)
            reduce_row<R, rule, false, Pairs, U>(
                list.data(), int64_t(list.size()), columns_,
                {width_, step, cell, taps_cell, far_, ahead, along_, w_.w.adaptive()}, to, taps,
                finish, special_);
          else if (rows == 1)
            reduce_row<R, kRule, true, Pairs, U>(reduced.data(), int64_t(reduced.size()), units_,
                                                 {width_, 0, cell, taps_cell, false, 0, 1, false},
                                                 to, taps, finish, special_);
          else if (rows == kTogether)
            go.template operator()<kTogether>();
          else
            go.template operator()<kTogether / 2>();
        };
        if constexpr (R::kSums)
          if (factor == V(0)) {
            Quotients<V, kTogether> quotients{divisors_, b.w0, {}};
            for (int64_t j = 0; j < rows; ++j) quotients.rows[j] = V(divisors_->row(d, h + j));
            reduce(quotients);
            continue;
          }
        reduce(Products<V>{factor});
      }
    }
  }

  // Whether cells were read that need the full rule.
  bool special() const { return special_.any(); }

 private:
  // The rows of cells of a tile from row h of outputs on.
  template <class C>
  TileRows<C> tile_rows(const View<C>& in, const RealTaps& through, int64_t h, int wanted) const {
    TileRows<C> rows{{}, w_.h.start(h) < 0, wanted};
    for (int r = 0; r < kTileRows + 2; ++r) {
      const int64_t y = w_.h.start(h) + std::min(r, wanted + 1);
      const int64_t near = std::clamp<int64_t>(y, 0, w_.h.size - 1);
      if (!R::kSums || y == near)
        rows.cells[r] = in.line(through.start + through.first * w_.d.dilation, near);
    }
    return rows;
  }

  // How many rows of outputs from row h on, before `end`, go together. Groups begin at multiples:
  // which rows a block holds makes no difference to a sum.
  int64_t rows_together(int64_t h, int64_t end) const {
    for (int64_t some = down_; some >= kTogether / 2; some /= 2)
      if (h % some == 0 && h + some <= end) return some;
    return 1;
  }

  const Window& w_;
  const int64_t width_;
  const Divisors<V>* const divisors_;
  const int64_t along_, down_;   // outputs that go together along the row, and rows of them
  const bool far_, beyond_;      // whether the input is so large (ahead.h)
  int64_t begin_ = 0, end_ = 0;  // the outputs that columns_ are of
  std::vector<Column> columns_, units_;
  std::vector<char> done_;
  Buffer<V> reduced_;
  Buffer<L> reduced_taps_;
  Seen<V> special_{};
};

}  // namespace poolkit
