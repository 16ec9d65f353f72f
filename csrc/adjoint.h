// Backward over vectors: each cell of the input gathers from the outputs that hold it.
//
// The mirror of lanes.h. Vectors are channels (channels-last), or, of averages, as many contiguous
// planes as there are lanes, transposed in cache. For one input cell the outputs that hold it are
// visited in row-major order; the gradient of each is added where its offset names the cell (max),
// or divided (average). Every cell is written once, and its sum begins with 0: torch's bits, for
// any number of threads, and no two threads ever write the same cell.
//
// Offsets come back from Python and are not trusted: they are only compared, never followed.
#pragma once

#include <algorithm>
#include <vector>

#include "ahead.h"
#include "backward.h"
#include "divisors.h"
#include "lane_planes.h"

namespace poolkit {

// An output that holds a cell, and by which tap.
struct Holder {
  int64_t output, tap;
};

// The holders of cells [begin, end) of an axis.
class Holders {
 public:
  void find(const Axis& a, int64_t begin, int64_t end) {
    if (begin == begin_ && end == end_) return;
    begin_ = begin, end_ = end;
    firsts_.clear(), holders_.clear();
    for (int64_t c = begin; c < end; ++c) {
      firsts_.push_back(holders_.size());
      for_holders(a, c, [&](int64_t output, int64_t tap) { holders_.push_back({output, tap}); });
    }
    firsts_.push_back(holders_.size());
  }
  const Holder* begin(int64_t cell) const {
    return holders_.data() + firsts_[size_t(cell - begin_)];
  }
  const Holder* end(int64_t cell) const {
    return holders_.data() + firsts_[size_t(cell - begin_) + 1];
  }

 private:
  int64_t begin_ = 0, end_ = 0;
  std::vector<size_t> firsts_;
  std::vector<Holder> holders_;
};

// The outputs [low, high) that hold cells [begin, end) of an axis; those between may hold none.
inline std::pair<int64_t, int64_t> outputs_of(const Axis& a, int64_t begin, int64_t end) {
  const int64_t low = std::min(a.lowest_output(begin), a.out);
  return {low, std::max(low, a.highest_output(end - 1))};
}

// V: what gradients are summed in. O: the type of offsets, or NoOffset for an average.
template <class T, class O>
class Adjoint {
  using V = Wide<T>;
  static constexpr bool kChosen = !std::is_same_v<O, NoOffset>;
  static constexpr int N = kLanes<V>;
  static constexpr bool kBytes = kComparesBytes<V, O>;
  static_assert(!kChosen || sizeof(O) <= sizeof(V));

 public:
  // `planes` counts planes of single values.
  Adjoint(const T* g, const O* offsets, T* out, const Window& w, int64_t planes, int64_t run,
          const Divisors<V>* divisors)
      : g_(g),
        offsets_(offsets),
        out_(out),
        w_(w),
        planes_(planes),
        run_(run),
        divisors_(divisors),
        far_(is_far<T>(planes * w.outputs())) {}

  // Shares the work out: planes as lanes, or channels as they are.
  void operator()() const {
    const bool lanes = !kChosen && run_ < N;
    const bool bytes = kBytes && run_ >= 4 * N;
    // Several vectors of planes at a time: one addition waits for the one before it.
    const int64_t group = planes_ >= 8 * N ? 2 * N : N;
    const int64_t width = lanes ? group : run_;
    const int64_t most = std::max<int64_t>(1, kCache / (width * int64_t(sizeof(V))));
    const int64_t units = lanes ? (planes_ + group - 1) / group : planes_ / run_;
    const int64_t threads = torch::stable::get_num_threads();
    int64_t columns = std::min(w_.w.size, most);
    int64_t rows = std::clamp<int64_t>(most / columns, 1, w_.h.size);
    // Neighbouring blocks read the same outputs where windows overlap.
    rows = std::clamp<int64_t>(rows, std::min(w_.h.size, 2 * w_.h.extent()), w_.h.size);
    while (rows > 1 && units * w_.d.size * ((w_.h.size + rows - 1) / rows) < 4 * threads)
      rows = (rows + 1) / 2;
    const int64_t hs = (w_.h.size + rows - 1) / rows, ws = (w_.w.size + columns - 1) / columns;
    rows = (w_.h.size + hs - 1) / hs;
    // Channels are shared out only where there is too little else.
    int64_t parts = 1, part = width;
    if (!lanes && units * w_.d.size * hs * ws < 4 * threads) {
      part = std::max<int64_t>(4 * N, run_ / (4 * threads) / (4 * N) * (4 * N));
      parts = std::max<int64_t>(1, run_ / part);
      if (parts == 1) part = width;
    }
    const int64_t cost = rows * columns * part;
    parallel(units * w_.d.size * hs * ws * parts, cost, [&](int64_t item, int64_t stop) {
      Scratch scratch;
      for (; item < stop; ++item) {
        int64_t rest = item;
        const int64_t p = rest % parts;
        rest /= parts;
        Block b;
        b.w0 = rest % ws * columns, rest /= ws;
        b.h0 = rest % hs * rows, rest /= hs;
        b.d0 = rest % w_.d.size, rest /= w_.d.size;
        b.d1 = b.d0 + 1, b.h1 = std::min(w_.h.size, b.h0 + rows);
        b.w1 = std::min(w_.w.size, b.w0 + columns);
        if (b.h0 >= b.h1) continue;
        b.plane = lanes ? rest * group : rest;
        b.planes = lanes ? std::min<int64_t>(group, planes_ - b.plane) : 1;
        const int64_t first = p * part, n = p + 1 == parts ? run_ - first : part;
        if constexpr (!kChosen)
          if (lanes) {
            group > N ? by_planes<2>(b, scratch) : by_planes<1>(b, scratch);
            continue;
          }
        if (bytes) {
          if constexpr (kBytes) by_channels<O>(b, first, n, scratch);
        } else {
          using L = std::conditional_t<kChosen, Unsigned<sizeof(V)>, NoOffset>;
          by_channels<L>(b, first, n, scratch);
        }
      }
    });
  }

 private:
  static constexpr int64_t kCache = 96 << 10;

  // Gradients and offsets of a row of outputs, and the first tap by which it holds the cells.
  struct Row {
    const void *g, *taps;
    int64_t tap;
  };
  struct Scratch {
    Buffer<V> g, sums, taps;  // taps of L: bytes, or as wide as V
    std::vector<Row> rows;
    Holders columns;
  };
  // Outputs in memory: (d, h, i) is at (d * slice + h * row + i * cell) - origin.
  template <class L, class C>
  struct Held {
    const C* g;
    const L* taps;
    int64_t origin, slice, row, cell;
  };
  // The outputs that a block of cells asks for, staged: cells `width` values wide.
  struct Outputs {
    int64_t d0, d1, h0, h1, w0, w1, width;

    int64_t columns() const { return w1 - w0; }
    int64_t line() const { return columns() * width; }
    int64_t size() const { return (d1 - d0) * (h1 - h0) * line(); }
    int64_t at(int64_t d, int64_t h) const { return ((d - d0) * (h1 - h0) + h - h0) * line(); }
  };

  Outputs outputs_for(const Block& b, int64_t width) const {
    const auto [d0, d1] = outputs_of(w_.d, b.d0, b.d1);
    const auto [h0, h1] = outputs_of(w_.h, b.h0, b.h1);
    const auto [w0, w1] = outputs_of(w_.w, b.w0, b.w1);
    return {d0, d1, h0, h1, w0, w1, width};
  }

  void divide(const Outputs& o, int64_t d, int64_t h, V* line) const {
    if (divisors_) divisors_->divide_cells(line, d, h, o.w0, o.w1, o.width, o.width);
  }

  // Whether values are added by vectors of two parts.
  template <class L, class C>
  static constexpr bool kPairs = kBytes && std::is_same_v<L, O> && std::is_same_v<C, BFloat16>;

  // Adds a vector of gradients: of maxima those whose tap is `tap`.
  template <class L, class C, int P>
  [[gnu::always_inline]] static void add(const C* g, const L* taps, int64_t tap, Vec<V> (&sum)[P]) {
    if constexpr (P == 2) {
      Vec<V> parts[2];
      load_parts_where<V>(g, taps, L(tap), parts);
      sum[0] += parts[0], sum[1] += parts[1];
    } else if constexpr (kChosen) {
      add_where<V>(sum[0], taps, L(tap), load_as<V>(g));
    } else {
      sum[0] += load_as<V>(g);
    }
  }

  // Asks for what lies some outputs behind the row's output at `at`. (What only asks would be left
  // out, as a function without effects.)
  template <class L, class C>
  [[gnu::noipa]] static void fetch_ahead(const Row& row, int64_t at, int64_t width) {
    at += kAheadBytes / int64_t(sizeof(C));
    const C* const g = static_cast<const C*>(row.g) + at;
    for (int64_t k = 0; k < width; k += 64 / int64_t(sizeof(C))) fetch<1>(g + k);
    if constexpr (kChosen) {
      const L* const taps = static_cast<const L*>(row.taps) + at;
      for (int64_t k = 0; k < width; k += 64 / int64_t(sizeof(L))) fetch<1>(taps + k);
    }
  }

  // The sums of one row of cells, `width` values wide.
  template <int U, class L, class C, class D>
  void add_row(const Held<L, C>& held, int64_t d, int64_t h, int64_t w0, int64_t w1, int64_t width,
               Scratch& s, D* to, int64_t pitch) const {
    constexpr int P = kPairs<L, C> ? 2 : 1;
    s.columns.find(w_.w, w0, w1);
    s.rows.clear();
    for_output_rows(w_, d, h, [&](int64_t, int64_t od, int64_t oh, int64_t tap) {
      const int64_t at = od * held.slice + oh * held.row - held.origin;
      s.rows.push_back({held.g + at, lane(held.taps, at), tap});
    });
    for (int64_t c = w0; c < w1; ++c, to += pitch) {
      const Holder *const begin = s.columns.begin(c), *const end = s.columns.end(c);
      if (far_ && begin != end && !s.rows.empty())
        fetch_ahead<L, C>(s.rows.back(), begin->output * held.cell, width);
      for (int64_t k = 0; k < width; k += U * N) {
        k = std::min(k, width - U * N);  // the last step overlaps the one before
        Vec<V> sum[U / P][P] = {};
        for (const Row& row : s.rows)
          for (auto* holder = begin; holder != end; ++holder) {
            const int64_t at = holder->output * held.cell + k;
            const C* const g = static_cast<const C*>(row.g) + at;
            const L* const taps = lane(static_cast<const L*>(row.taps), at);
            POOLKIT_UNROLL
            for (int u = 0; u < U / P; ++u)
              add<L>(g + u * P * N, lane(taps, u * P * N), row.tap + holder->tap, sum[u]);
          }
        POOLKIT_UNROLL
        for (int u = 0; u < U / P; ++u) {
          if constexpr (P == 2)
            store_parts<V>(to + k + u * P * N, sum[u]);
          else
            store_as<D, V>(to + k + u * N, sum[u][0]);
        }
      }
    }
  }

  template <int U>
  void by_planes(const Block& b, Scratch& s) const {
    constexpr int64_t kWidth = U * N;
    const Outputs o = outputs_for(b, kWidth);
    const PlaneStarts from{run_, w_.outputs()}, into{run_, w_.cells()};
    V* const staged = s.g.reserve(o.size());
    const bool whole = o.columns() == w_.w.out;
    for (int64_t d = o.d0; d < o.d1; ++d)
      for (int64_t h = o.h0; h < o.h1; h = whole ? o.h1 : h + 1) {
        const int64_t corner = ((d * w_.h.out + h) * w_.w.out + o.w0) * run_;
        const int64_t n = o.columns() * (whole ? o.h1 - o.h0 : 1), to = o.at(d, h);
        const auto start = [&](int64_t k) {
          return from[b.plane + std::min(k, b.planes - 1)] + corner;
        };
        for (int64_t u = 0; u < U; ++u) {
          const T* g[N];
          for (int k = 0; k < N; ++k) g[k] = g_ + start(u * N + k);
          gather_planes<false, T, V>(g, run_, n, g_ + planes_ * w_.outputs(), staged + to + u * N,
                                     kWidth);
        }
      }
    for (int64_t d = o.d0; d < o.d1; ++d)
      for (int64_t h = o.h0; h < o.h1; ++h) divide(o, d, h, staged + o.at(d, h));
    const Held<NoOffset, V> held{
        staged, nullptr, o.w0 * kWidth - o.at(0, 0), o.at(1, 0) - o.at(0, 0), o.line(), kWidth};
    const int64_t line = b.columns() * kWidth;
    V* const sums = s.sums.reserve(b.rows() * line);
    for (int64_t h = b.h0; h < b.h1; ++h)
      add_row<U>(held, b.d0, h, b.w0, b.w1, kWidth, s, sums + (h - b.h0) * line, kWidth);
    const bool rows_join = b.columns() == w_.w.size;
    for (int64_t h = b.h0; h < b.h1; h = rows_join ? b.h1 : h + 1)
      for (int64_t u = 0; u < U && u * N < b.planes; ++u) {
        const int64_t corner = ((b.d0 * w_.h.size + h) * w_.w.size + b.w0) * run_;
        T* to[N];
        for (int k = 0; k < N; ++k)
          to[k] = out_ + into[b.plane + std::min(u * N + k, b.planes - 1)] + corner;
        scatter_planes(
            sums + (h - b.h0) * line + u * N, std::min<int64_t>(N, b.planes - u * N),
            b.columns() * (rows_join ? b.h1 - b.h0 : 1),
            [&](int64_t k, int64_t c, const Vec<V>& v, int lanes) {
              store_cells<T, V>(to[k] + c * run_, run_, v, lanes);
            },
            kWidth);
      }
  }

  // Channels [first, first + n), at least one vector of them.
  template <class L>
  void by_channels(const Block& b, int64_t first, int64_t n, Scratch& s) const {
    // Bytes are compared where they are, and gradients are read there.
    constexpr bool kDirect = std::is_same_v<L, O> && kChosen;
    const int64_t plane = b.plane * w_.outputs() * run_ + first;
    Held<L, std::conditional_t<kDirect, T, V>> held;
    if constexpr (kDirect) {
      held = {g_ + plane, offsets_ + plane, 0, w_.h.out * w_.w.out * run_, w_.w.out * run_, run_};
    } else {
      const Outputs o = outputs_for(b, n);
      V* const staged = s.g.reserve(o.size());
      L* const taps = reinterpret_cast<L*>(kChosen ? s.taps.reserve(o.size()) : nullptr);
      for (int64_t d = o.d0; d < o.d1; ++d)
        for (int64_t h = o.h0; h < o.h1; ++h) {
          const int64_t from = plane + ((d * w_.h.out + h) * w_.w.out + o.w0) * run_;
          const bool joined = n == run_;  // the row is one long run
          const int64_t lines = joined ? 1 : o.columns(), length = joined ? o.line() : n;
          for (int64_t i = 0; i < lines; ++i) {
            const int64_t to = o.at(d, h) + i * n;
            widen_values(g_ + from + i * run_, staged + to, length);
            if constexpr (kChosen)
              for (int64_t k = 0; k < length; ++k) taps[to + k] = L(offsets_[from + i * run_ + k]);
          }
          if (!divisors_) continue;
          const V row = V(divisors_->row(d, h));
          for (int64_t i = 0; i < o.columns(); ++i) {
            const V divisor = row * V(divisors_->column(o.w0 + i));
            V* const cell = staged + o.at(d, h) + i * n;
            for (int64_t k = 0; k < n; ++k) cell[k] /= divisor;
          }
        }
      held = {staged, taps, o.w0 * n - o.at(0, 0), o.at(1, 0) - o.at(0, 0), o.line(), n};
    }
    T* const out = out_ + b.plane * w_.cells() * run_ + first;
    const auto go = [&]<int U>() {
      for (int64_t h = b.h0; h < b.h1; ++h) {
        T* const row = out + ((b.d0 * w_.h.size + h) * w_.w.size + b.w0) * run_;
        add_row<U>(held, b.d0, h, b.w0, b.w1, n, s, row, run_);
      }
    };
    if (n >= 4 * N)
      go.template operator()<4>();
    else if constexpr (!kChosen || sizeof(L) == sizeof(V))
      go.template operator()<1>();
  }

  const T* const g_;
  const O* const offsets_;
  T* const out_;
  const Window& w_;
  const int64_t planes_, run_;
  const Divisors<V>* const divisors_;
  const bool far_;
};

// Whether a comparison and an addition for each tap of a maximum take less time than one addition
// per output (named.h): where taps are few, and where these additions would miss the cache.
template <class V, class O>
bool gathers(const Window& w, int64_t run) {
  constexpr int64_t kMostTaps = kComparesBytes<V, O> ? 16 : kLanes<V> / 2, kCache = 512 << 10;
  const int64_t slices = std::min(w.d.extent(), w.d.size) - 1;
  const int64_t rows = slices * w.h.size + std::min(w.h.extent(), w.h.size);
  const bool far = rows * w.w.size * run * int64_t(sizeof(V)) > kCache;
  return w.taps() <= kMostTaps || (far && outputs_per_cell(w) <= 16);
}

}  // namespace poolkit
