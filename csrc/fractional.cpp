// Fractional pooling: windows of one size, whose first cells are pseudo-random (Graham).
//
// Window j of an axis begins at int((j + u) a) - int(u a), with a = (L - k) / (O - 1) and one u per
// plane and axis; the last one at L - k. Hardly two planes have the same windows, so the lanes are
// outputs: of some rows of a contiguous plane, or of some channels of one place. Each lane has the
// address of its window's first cell, and tap after tap is read for all lanes. Half types are
// widened first, a plane at a time.
//
// Samples come from Python: whatever they hold, a start is kept within [0, L - k].
#include <cmath>
#include <tuple>
#include <vector>

#include "cells.h"
#include "operators.h"
#include "parts.h"

namespace poolkit {
namespace {

// Where the windows of an axis begin; the next start `step` further on.
template <class T, class I>
void find_starts(T sample, const Axis& a, int64_t step, I* starts) {
  // Rounded to the samples' type after every step, as torch has it.
  const auto rounded = [](auto v) { return widen(narrow<T>(Wide<T>(v))); };
  const int64_t room = a.size - a.kernel;
  const auto u = widen(sample);
  const auto share = a.out > 1 ? rounded(rounded(room) / rounded(a.out - 1)) : u;
  const double origin = std::trunc(double(rounded(u * share)));
  for (int64_t j = 0; j + 1 < a.out; ++j) {
    const double end = std::trunc(double(rounded(rounded(rounded(j) + u) * share)));
    const double start = end - origin;  // (NaN gives 0)
    starts[j * step] = I(start > 0 ? (start < double(room) ? int64_t(start) : room) : 0);
  }
  starts[(a.out - 1) * step] = I(room);
}

// What a call is about: values (or gradients), samples and a window whose stride does not count.
struct Call {
  Call(const Tensor& values, const Tensor& samples, const Window& w, bool channels_last)
      : w(w), format(channels_last), runs(has_channel_run(channels_last, values.dim(), w.rank)) {
    const auto dim = size_t(values.dim() - w.rank);
    for (size_t i = 0; i < dim; ++i) (runs && i == 1 ? run : planes) *= values.sizes()[i];
    u = torch::stable::contiguous(samples);
    STD_TORCH_CHECK(u.numel() == planes * run * w.rank && u.scalar_type() == values.scalar_type(),
                    "poolkit: one sample per plane and axis is needed, of the type of the values");
    for (const Axis* a : {&w.d, &w.h, &w.w})
      STD_TORCH_CHECK(a->kernel <= a->size && a->out > 0 && !a->adaptive(),
                      "poolkit: a window must fit into its axis");
  }
  Planes made(const Tensor& like, const int64_t* extents, ScalarType type) const {
    return empty_planes(like, extents, w.rank, runs, type);
  }

  const Window& w;
  const bool format, runs;  // channels-last, and whether the kernels see it
  int64_t planes = 1, run = 1;
  Tensor u;
};

constexpr int64_t kChannels = 16;  // of a plane at a time
constexpr int64_t kLeastLanes = 64;

// (Free functions, because a lambda forgets what does not overlap, and loops stay scalar.)
template <class I>
void add_starts(I corner, const I* __restrict starts, int64_t n, I* __restrict cells) {
  for (int64_t i = 0; i < n; ++i) cells[i] = corner + starts[i];
}
template <class I>
void add_starts(const I* __restrict d, const I* __restrict h, const I* __restrict w, int64_t n,
                I step, I* __restrict cells, I* __restrict at) {
  for (int64_t c = 0; c < n; ++c) {
    cells[c] = d[c] + h[c] + w[c];
    at[c] = cells[c] * step + I(c);
  }
}

// The windows of a plane, or of some channels of one. I holds the address of every cell of a plane.
template <class T, class I>
class Windows {
 public:
  Windows(const Call& call, int64_t step) : call_(call), w_(call.w), step_(I(step)) {
    const int64_t width = std::min(call.run, kChannels);
    rows_ = call.runs ? 1 : std::clamp<int64_t>(kLeastLanes / w_.w.out, 1, w_.h.out);
    columns_ = call.runs ? std::min(kLeastLanes / width, w_.w.out) : w_.w.out;
    most_ = rows_ * columns_ * width;
    starts_.reserve((w_.d.out + w_.h.out + w_.w.out) * width);
    lanes_.reserve(2 * most_);
  }
  int64_t most_lanes() const { return most_; }
  // The first cell of each lane's window in its plane, and its address in the values.
  const I* cells() const { return lanes_.get(); }
  const I* at() const { return call_.runs ? lanes_.get() + most_ : lanes_.get(); }

  // Calls f(first output, outputs) for all outputs of n channels, in row-major order: n lanes for
  // each.
  template <class F>
  void operator()(int64_t plane, int64_t channel, int64_t n, const F& f) {
    find(plane, channel, n);
    const I *const ds = starts_.get(), *const hs = ds + w_.d.out * n, *ws = hs + w_.h.out * n;
    I *const cells = lanes_.get(), *const at = cells + most_;
    for (int64_t d = 0; d < w_.d.out; ++d)
      for (int64_t h = 0; h < w_.h.out; h += rows_) {
        const int64_t first = (d * w_.h.out + h) * w_.w.out;
        if (!call_.runs) {
          const int64_t rows = std::min(rows_, w_.h.out - h);
          for (int64_t r = 0; r < rows; ++r)
            add_starts(I(ds[d] + hs[h + r]), ws, w_.w.out, cells + r * w_.w.out);
          f(first, rows * w_.w.out);
          continue;
        }
        for (int64_t i = 0; i < w_.w.out; i += columns_) {
          const int64_t columns = std::min(columns_, w_.w.out - i);
          for (int64_t k = 0; k < columns; ++k)
            add_starts(ds + d * n, hs + h * n, ws + (i + k) * n, n, step_, cells + k * n,
                       at + k * n);
          f(first + i, columns);
        }
      }
  }

 private:
  // Starts in cells: what those of all axes add up to is the first cell.
  void find(int64_t plane, int64_t channel, int64_t n) {
    const int rank = w_.rank;
    const auto* const u = static_cast<const T*>(call_.u.const_data_ptr());
    const Axis* const axes[3] = {&w_.d, &w_.h, &w_.w};
    const int64_t cells[3] = {w_.h.size * w_.w.size, w_.w.size, 1};
    I* starts = starts_.get();
    for (int i = 0; i < 3; starts += axes[i++]->out * n) {
      // torch's order of samples is (W, H) in 2-D, and (T, H, W) in 3-D.
      const int axis = rank == 2 ? 2 - i : i - (3 - rank);
      for (int64_t c = 0; c < n; ++c) {
        const T sample = i < 3 - rank ? T{} : u[(plane * call_.run + channel + c) * rank + axis];
        find_starts(sample, *axes[i], n, starts + c);
      }
      for (int64_t k = 0; k < axes[i]->out * n; ++k) starts[k] *= I(cells[i]);
    }
  }

  const Call& call_;
  const Window& w_;
  const I step_;
  int64_t rows_ = 1, columns_ = 1, most_ = 1;
  Buffer<I> starts_, lanes_;
};

// Where each tap is, counted in cells from a window's first, in row-major order.
inline std::vector<int64_t> taps_of(const Window& w) {
  std::vector<int64_t> taps;
  for (int64_t d = 0; d < w.d.kernel; ++d)
    for (int64_t h = 0; h < w.h.kernel; ++h)
      for (int64_t i = 0; i < w.w.kernel; ++i) taps.push_back((d * w.h.size + h) * w.w.size + i);
  return taps;
}

template <class V, class I>
void add_tap(const V* __restrict x, const I* __restrict at, int64_t n, V* __restrict sums) {
  for (int64_t i = 0; i < n; ++i) sums[i] += x[at[i]];
}
template <class V, class I>
void keep_larger(const V* __restrict x, const I* __restrict at, int64_t n, V* __restrict best) {
  for (int64_t i = 0; i < n; ++i) {
    const V v = x[at[i]];
    best[i] = beats(v, best[i]) ? v : best[i];
  }
}
template <class V, class I>
void keep_larger(const V* __restrict x, const I* __restrict at, int64_t n, V* __restrict best,
                 I* __restrict winners, I tap) {
  for (int64_t i = 0; i < n; ++i) {
    const V v = x[at[i]];
    const bool wins = beats(v, best[i]);
    best[i] = wins ? v : best[i];
    winners[i] = wins ? tap : winners[i];
  }
}
template <class I>
void add_indices(const I* __restrict cells, const I* __restrict winners, int64_t n,
                 int64_t* __restrict to) {
  for (int64_t i = 0; i < n; ++i) to[i] = int64_t(cells[i]) + int64_t(winners[i]);
}

// Whether a part is computed in a copy of it: what other channels lie between is far apart, so that
// few cells would stay in cache. Half types always are, in wider values.
template <class T>
bool stages(const Call& call) {
  constexpr int64_t kCache = 1 << 20;
  const int64_t bytes = capped_product(call.w.cells(), kChannels * int64_t(sizeof(T)));
  return !std::is_same_v<T, Wide<T>> || (call.run > kChannels && bytes <= kCache);
}

enum class Of { kMaxima, kMaximaAndIndices, kMeans };

// Forward over one part after the other.
template <class T, class I, Of of>
class Forward {
  using V = Wide<T>;

 public:
  Forward(const Call& call, const T* x, T* y, int64_t* indices)
      : call_(call),
        x_(x),
        y_(y),
        indices_(indices),
        stages_(stages<T>(call)),
        step_(stages_ ? std::min(call.run, kChannels) : call.run),
        windows_(call, step_),
        taps_(taps_of(call.w)) {
    if (stages_) copy_.reserve(call.w.cells() * step_);
    values_.reserve(windows_.most_lanes());
    if (of == Of::kMaximaAndIndices) winners_.reserve(windows_.most_lanes());
  }

  void operator()(int64_t plane, int64_t channel, int64_t n) {
    const Window& w = call_.w;
    const int64_t run = call_.run, first = plane * w.outputs() * run + channel;
    const V* const x = staged(x_ + plane * w.cells() * run + channel, n);
    windows_(plane, channel, n, [&](int64_t output, int64_t outputs) {
      reduce(x, outputs * n);
      // Lanes that are neighbours in the result.
      const int64_t lines = n == run ? 1 : outputs, lanes = outputs * n / lines;
      for (int64_t k = 0; k < lines; ++k) {
        const int64_t to = first + (output + k) * run, from = k * lanes;
        narrow_values(values_.get() + from, y_ + to, lanes);
        if constexpr (of == Of::kMaximaAndIndices)
          add_indices(windows_.cells() + from, winners_.get() + from, lanes, indices_ + to);
      }
    });
  }

 private:
  const V* staged(const T* x, int64_t n) {
    if constexpr (std::is_same_v<T, V>)
      if (!stages_) return x;
    for_cells(x, call_.run, copy_.get(), step_, call_.w.cells(), n,
              [](const T* from, V* to, int64_t count) { widen_values(from, to, count); });
    return copy_.get();
  }
  void reduce(const V* x, int64_t n) {
    const I* const at = windows_.at();
    V* const values = values_.get();
    I* const winners = winners_.get();
    for (int64_t i = 0; i < n; ++i) values[i] = x[at[i]];
    if constexpr (of == Of::kMaximaAndIndices) std::fill_n(winners, n, I(0));
    for (size_t t = 1; t < taps_.size(); ++t) {
      const V* const cells = x + taps_[t] * step_;
      if constexpr (of == Of::kMeans)
        add_tap(cells, at, n, values);
      else if constexpr (of == Of::kMaxima)
        keep_larger(cells, at, n, values);
      else
        keep_larger(cells, at, n, values, winners, I(taps_[t]));
    }
    if constexpr (of == Of::kMeans)
      for (int64_t i = 0; i < n; ++i) values[i] /= V(taps_.size());
  }

  const Call& call_;
  const T* const x_;
  T* const y_;
  int64_t* const indices_;
  const bool stages_;
  const int64_t step_;
  Windows<T, I> windows_;
  const std::vector<int64_t> taps_;
  Buffer<V> copy_, values_;
  Buffer<I> winners_;
};

// The gradient of a mean: every output's share is added to its cells.
template <class T, class I>
class Backward {
  using V = Wide<T>;

 public:
  Backward(const Call& call, const T* g, T* out)
      : call_(call),
        g_(g),
        out_(out),
        stages_(stages<T>(call)),
        step_(stages_ ? std::min(call.run, kChannels) : call.run),
        windows_(call, step_),
        taps_(taps_of(call.w)) {
    for (int64_t& tap : taps_) tap *= step_;
    if (stages_) copy_.reserve(call.w.cells() * step_);
  }

  void operator()(int64_t plane, int64_t channel, int64_t n) {
    const Window& w = call_.w;
    const int64_t run = call_.run, cells = w.cells();
    T* const out = out_ + plane * cells * run + channel;
    V* sums = copy_.get();
    if constexpr (std::is_same_v<T, V>)
      if (!stages_) sums = out;
    clear_cells(sums, cells, n, step_);
    const T* const g = g_ + plane * w.outputs() * run + channel;
    windows_(plane, channel, n, [&](int64_t output, int64_t outputs) {
      for (int64_t k = 0; k < outputs; ++k)
        add_shares(g + (output + k) * run, windows_.at() + k * n, n, sums);
    });
    if (stages_) narrow_cells(sums, step_, out, run, cells, n);
  }

 private:
  void add_shares(const T* g, const I* at, int64_t n, V* sums) const {
    const int64_t *const first = taps_.data(), *const end = first + taps_.size();
    const auto count = V(taps_.size());
    for (int64_t i = 0; i < n; ++i) {
      const V share = widen(g[i]) / count;
      V* const corner = sums + at[i];
      for (const int64_t* tap = first; tap < end; ++tap) corner[*tap] += share;
    }
  }

  const Call& call_;
  const T* const g_;
  T* const out_;
  const bool stages_;
  const int64_t step_;
  Windows<T, I> windows_;
  std::vector<int64_t> taps_;
  Buffer<V> copy_;
};

// All parts in parallel; make() gives what a thread does to each, make(I()) that with addresses I.
template <class F>
void for_parts(const Call& call, const F& make) {
  const Window& w = call.w;
  const int64_t width = std::min(call.run, kChannels);
  if (call.planes == 0 || width == 0) return;
  const int64_t parts = (call.run + width - 1) / width;
  const int64_t cost = (w.cells() + w.outputs() * std::min<int64_t>(w.taps(), 64)) * width;
  const auto go = [&]<class I>() {
    parallel(call.planes * parts, cost, [&](int64_t item, int64_t stop) {
      auto work = make(I());
      for (; item < stop; ++item) {
        const int64_t channel = item % parts * width;
        work(item / parts, channel, std::min(width, call.run - channel));
      }
    });
  };
  if (capped_product(w.cells(), call.run) <= INT32_MAX)
    go.template operator()<int32_t>();
  else
    go.template operator()<int64_t>();
}

template <Of of>
void forward(const Call& call, const Planes& in, Planes& out, int64_t* indices) {
  dispatch<kFloats>(in.tensor.scalar_type(), "fractional pooling", [&]<class T>() {
    const auto* const x = static_cast<const T*>(in.tensor.const_data_ptr());
    auto* const y = static_cast<T*>(out.tensor.mutable_data_ptr());
    for_parts(call, [&]<class I>(I) { return Forward<T, I, of>(call, x, y, indices); });
  });
}

// The values alone.
template <Of of>
Tensor pooled(const Tensor& x, const Tensor& samples, const Window& w) {
  check_extents(x, w.in, w.rank);
  const Call call(x, samples, w, suggests_channels_last(x));
  const Planes in = dense(x, call.runs, w.rank);
  Planes out = call.made(x, w.out, x.scalar_type());
  forward<of>(call, in, out, nullptr);
  return in_format(out.tensor, call.format, w.rank);
}

std::tuple<Tensor, Tensor> fractional_max_pool_indices(const Tensor& x, const Tensor& samples,
                                                       const Window& w) {
  check_extents(x, w.in, w.rank);
  const Call call(x, samples, w, suggests_channels_last(x));
  const Planes in = dense(x, call.runs, w.rank);
  Planes out = call.made(x, w.out, x.scalar_type());
  Planes indices = call.made(x, w.out, ScalarType::Long);
  forward<Of::kMaximaAndIndices>(call, in, out,
                                 static_cast<int64_t*>(indices.tensor.mutable_data_ptr()));
  return {in_format(out.tensor, call.format, w.rank),
          in_format(indices.tensor, call.format, w.rank)};
}

Tensor fractional_avg_pool_backward(const Tensor& g, const Tensor& samples, const Window& w) {
  check_extents(g, w.out, w.rank);
  const Call call(g, samples, w, w.channels_last);
  const Planes from = dense(g, call.runs, w.rank);
  Planes to = call.made(g, w.in, g.scalar_type());
  dispatch<kFloats>(g.scalar_type(), "fractional_avg_pool_backward", [&]<class T>() {
    const auto* const shares = static_cast<const T*>(from.tensor.const_data_ptr());
    auto* const out = static_cast<T*>(to.tensor.mutable_data_ptr());
    for_parts(call, [&]<class I>(I) { return Backward<T, I>(call, shares, out); });
  });
  return in_format(to.tensor, call.format, w.rank);
}

}  // namespace
}  // namespace poolkit

STABLE_TORCH_LIBRARY_IMPL(poolkit, CPU, m) {
  using poolkit::Of;
  poolkit::implement<poolkit::pooled<Of::kMaxima>>(m, "fractional_max_pool");
  poolkit::implement<poolkit::fractional_max_pool_indices>(m, "fractional_max_pool_indices");
  poolkit::implement<poolkit::pooled<Of::kMeans>>(m, "fractional_avg_pool");
  poolkit::implement<poolkit::fractional_avg_pool_backward>(m, "fractional_avg_pool_backward");
}
