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

#include "cells.h"
#include "operators.h"

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

// The windows of a plane, or of some channels of one. I holds the address of every cell of a plane.
template <class T, class I>
class Windows {
 public:
  Windows(const Call& call, int64_t step) : call_(call), w_(call.w), step_(step) {
    const int64_t width = std::min(call.run, kChannels);
    rows_ = std::clamp<int64_t>(kLeastLanes / w_.w.out, 1, w_.h.out);
    most_ = call.runs ? width : rows_ * w_.w.out;
    starts_.reserve((w_.d.out + w_.h.out + w_.w.out) * width);
    lanes_.reserve(2 * most_);
  }
  int64_t most_lanes() const { return most_; }
  // The first cell of each lane's window in its plane, and its address in the values.
  const I* cells() const { return lanes_.get(); }
  const I* at() const { return call_.runs ? lanes_.get() + most_ : lanes_.get(); }

  // Calls f(first output, lanes) for all lanes of a part.
  template <class F>
  void operator()(int64_t plane, int64_t channel, int64_t n, const F& f) {
    find(plane, channel, n);
    const I *const ds = starts_.get(), *const hs = ds + w_.d.out * n, *ws = hs + w_.h.out * n;
    I *const cells = lanes_.get(), *const at = cells + most_;
    const I slice = I(w_.h.size), row = I(w_.w.size), step = I(step_);
    for (int64_t d = 0; d < w_.d.out; ++d)
      for (int64_t h = 0; h < w_.h.out; h += call_.runs ? 1 : rows_) {
        const int64_t first = (d * w_.h.out + h) * w_.w.out;
        if (call_.runs) {
          for (int64_t i = 0; i < w_.w.out; ++i) {
            for (int64_t c = 0; c < n; ++c) {
              cells[c] = (ds[d * n + c] * slice + hs[h * n + c]) * row + ws[i * n + c];
              at[c] = cells[c] * step + I(c);
            }
            f(first + i, n);
          }
          continue;
        }
        const int64_t rows = std::min(rows_, w_.h.out - h);
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t i = 0; i < w_.w.out; ++i)
            cells[r * w_.w.out + i] = (ds[d] * slice + hs[h + r]) * row + ws[i];
        f(first, rows * w_.w.out);
      }
  }

 private:
  void find(int64_t plane, int64_t channel, int64_t n) {
    const int rank = w_.rank;
    const auto* const u = static_cast<const T*>(call_.u.const_data_ptr());
    I* starts = starts_.get();
    const Axis* const axes[3] = {&w_.d, &w_.h, &w_.w};
    for (int i = 0; i < 3; starts += axes[i++]->out * n)
      for (int64_t c = 0; c < n; ++c) {
        // torch's order of samples is (W, H) in 2-D, and (T, H, W) in 3-D.
        const int axis = rank == 2 ? 2 - i : i - (3 - rank);
        const T sample = i < 3 - rank ? T{} : u[(plane * call_.run + channel + c) * rank + axis];
        find_starts(sample, *axes[i], n, starts + c);
      }
  }

  const Call& call_;
  const Window& w_;
  const int64_t step_;
  int64_t rows_ = 1, most_ = 1;
  Buffer<I> starts_, lanes_;
};

// Calls f(first cell of a tap, counted from the window's) for each tap, in row-major order.
template <class F>
void for_taps(const Window& w, const F& f) {
  for (int64_t d = 0; d < w.d.kernel; ++d)
    for (int64_t h = 0; h < w.h.kernel; ++h)
      for (int64_t i = 0; i < w.w.kernel; ++i) f((d * w.h.size + h) * w.w.size + i);
}

enum class Of { kMaxima, kMaximaAndIndices, kMeans };

// Forward over one part after the other.
template <class T, class I, Of of>
class Forward {
  using V = Wide<T>;
  static constexpr bool kStaged = !std::is_same_v<T, V>;

 public:
  Forward(const Call& call, const T* x, T* y, int64_t* indices)
      : call_(call), x_(x), y_(y), indices_(indices), step_(step_of(call)), windows_(call, step_) {
    values_.reserve(windows_.most_lanes());
    if (of == Of::kMaximaAndIndices) winners_.reserve(windows_.most_lanes());
  }

  void operator()(int64_t plane, int64_t channel, int64_t n) {
    const Window& w = call_.w;
    const int64_t run = call_.run, first = plane * w.outputs() * run + channel;
    const V* const x = staged(x_ + plane * w.cells() * run + channel, n);
    windows_(plane, channel, n, [&](int64_t output, int64_t lanes) {
      reduce(x, lanes);
      const int64_t to = first + output * run;
      const V* const values = values_.get();
      for (int64_t i = 0; i < lanes; ++i)
        y_[to + i] = narrow<T>(of == Of::kMeans ? values[i] / V(w.taps()) : values[i]);
      if constexpr (of == Of::kMaximaAndIndices)
        for (int64_t i = 0; i < lanes; ++i)
          indices_[to + i] = int64_t(windows_.cells()[i]) + winners_.get()[i];
    });
  }

 private:
  static int64_t step_of(const Call& call) {
    return kStaged ? std::min(call.run, kChannels) : call.run;
  }
  const V* staged(const T* x, int64_t n) {
    if constexpr (kStaged) {
      const int64_t cells = call_.w.cells();
      V* const to = staged_.reserve(cells * step_);
      if (call_.run == 1)
        widen_values(x, to, cells);
      else
        for (int64_t i = 0; i < cells; ++i) widen_values(x + i * call_.run, to + i * step_, n);
      return to;
    } else {
      return x;
    }
  }
  void reduce(const V* x, int64_t n) {
    const I* __restrict const at = windows_.at();
    V* __restrict const values = values_.get();
    I* __restrict const winners = winners_.get();
    for (int64_t i = 0; i < n; ++i) values[i] = x[at[i]];
    if constexpr (of == Of::kMaximaAndIndices) std::fill_n(winners, n, I(0));
    for_taps(call_.w, [=, step = step_](int64_t tap) {
      if (tap == 0) return;
      const V* const cells = x + tap * step;
      for (int64_t i = 0; i < n; ++i) {
        const V v = cells[at[i]];
        if constexpr (of == Of::kMeans) {
          values[i] += v;
        } else {
          const bool wins = beats(v, values[i]);
          values[i] = wins ? v : values[i];
          if constexpr (of == Of::kMaximaAndIndices) winners[i] = wins ? I(tap) : winners[i];
        }
      }
    });
  }

  const Call& call_;
  const T* const x_;
  T* const y_;
  int64_t* const indices_;
  const int64_t step_;
  Windows<T, I> windows_;
  Buffer<V> staged_, values_;
  Buffer<I> winners_;
};

// The gradient of a mean: every output's share is added to its cells.
template <class T, class I>
class Backward {
  using V = Wide<T>;
  static constexpr bool kStaged = !std::is_same_v<T, V>;

 public:
  Backward(const Call& call, const T* g, T* out)
      : call_(call),
        g_(g),
        out_(out),
        step_(kStaged ? std::min(call.run, kChannels) : call.run),
        windows_(call, step_) {
    if (kStaged) staged_.reserve(call.w.cells() * step_);
  }

  void operator()(int64_t plane, int64_t channel, int64_t n) {
    const Window& w = call_.w;
    const int64_t run = call_.run, cells = w.cells(), step = step_;
    T* const out = out_ + plane * cells * run + channel;
    V* sums = staged_.get();
    if constexpr (!kStaged) sums = out;
    for (int64_t i = 0; i < cells; ++i) std::fill_n(sums + i * step, n, V(0));
    const T* const g = g_ + plane * w.outputs() * run + channel;
    windows_(plane, channel, n, [&](int64_t output, int64_t lanes) {
      const I* const at = windows_.at();
      for (int64_t i = 0; i < lanes; ++i) {
        const V share = widen(g[output * run + i]) / V(w.taps());
        for_taps(w, [=](int64_t tap) { sums[at[i] + tap * step] += share; });
      }
    });
    if constexpr (kStaged)
      for (int64_t i = 0; i < cells; ++i)
        for (int64_t c = 0; c < n; ++c) out[i * run + c] = narrow<T>(sums[i * step + c]);
  }

 private:
  const Call& call_;
  const T* const g_;
  T* const out_;
  const int64_t step_;
  Windows<T, I> windows_;
  Buffer<V> staged_;
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
