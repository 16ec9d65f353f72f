// The p-norm of every window, and its gradient.
//
// Forward for p = 2, in one pass: each cell is squared when it is read, sums go by the scheme of
// forward.h, and an output's root is taken where an average would be divided. For any other p a
// cell's power costs more than to read it, and windows share cells: so the powers of some planes,
// or of some rows of one, go into a buffer that stays in cache, averages of these to the result,
// and roots in its place.
// Backward: the gradient of an average, of g y^(1-p), times x^(p-1).
#include "forward.h"
#include "operators.h"
#include "parts.h"
#include "power.h"

namespace poolkit {

template <class T>
void avg_planes(const T* x, T* y, const Window& w, int64_t planes, int64_t run);  // avg_pool.cpp
Tensor avg_pool_backward(const Tensor& g, const Window& w);

namespace {

template <class T>
using Squares = Forms<T, SumOfSquares<Wide<T>>, SumOfSquares<Wide<T>>, NoOffset>;

// A norm whose window has a divisor of its own, 1, is one of absolute values, and none of its
// windows is scaled up.
bool is_absolute(const Window& w) { return w.divisor != 0; }

// Planes, or outputs along the outermost axis of one plane, whose powers are in cache together.
class Slabs {
 public:
  // (The number of threads changes none of this, so that it does not change bits.)
  Slabs(const Window& w, int64_t planes, int64_t run, int64_t value_bytes)
      : w_(w), planes_(planes) {
    constexpr int64_t kBytes = 256 << 10, kLanesAtMost = 16;
    const int64_t bytes = std::max<int64_t>(1, w.cells() * run * value_bytes);
    step_ = std::max<int64_t>(1, kBytes / bytes);
    if (run == 1 && 2 * step_ >= kLanesAtMost)  // small planes go side by side
      step_ = (step_ + kLanesAtMost - 1) / kLanesAtMost * kLanesAtMost;
    const Axis& a = axis();
    if (step_ > 1 || a.adaptive() || a.out < 2 || a.start(a.out - 1) >= a.size) return;
    // Neighbours share rows, whose powers are computed twice.
    const int64_t rows = std::max(kBytes / (bytes / a.size + 1), 4 * a.extent());
    const int64_t most = std::clamp<int64_t>((rows - a.extent()) / a.stride + 1, 1, a.out);
    parts_ = (a.out + most - 1) / most;
  }
  int64_t count() const { return (planes_ + step_ - 1) / step_ * parts_; }

  // Calls f(window, planes, first cell, first output) of slab i.
  template <class F>
  void operator()(int64_t i, const F& f) const {
    const int64_t plane = i / parts_ * step_, planes = std::min(step_, planes_ - plane);
    const int64_t cell = plane * w_.cells(), output = plane * w_.outputs();
    if (parts_ == 1) return f(w_, planes, cell, output);
    const Axis& a = axis();
    const int64_t part = i % parts_;
    const int64_t begin = part * a.out / parts_, end = (part + 1) * a.out / parts_;
    Window w = w_;
    Axis& slab = &a == &w_.d ? w.d : &a == &w_.h ? w.h : w.w;
    const int64_t low = std::max<int64_t>(0, a.start(begin));
    const int64_t high = std::clamp(a.start(end - 1) + a.extent(), low + 1, a.size);
    slab.size = high - low, slab.out = end - begin;
    slab.before = low - a.start(begin), slab.after = a.size + a.after - high;
    f(w, 1, cell + low * (w_.cells() / a.size), output + begin * (w_.outputs() / a.out));
  }

 private:
  const Axis& axis() const { return w_.d.size > 1 ? w_.d : w_.h.size > 1 ? w_.h : w_.w; }

  const Window& w_;
  const int64_t planes_;
  int64_t step_, parts_ = 1;
};

template <class T>
void norms(const T* x, T* y, double p, const Window& w, int64_t planes, int64_t run) {
  using V = Wide<T>;
  constexpr bool kSame = std::is_same_v<T, V>;
  const Power<V> power(p, is_absolute(w) ? Power<V>::kAbsolute : Power<V>::kPlain);
  const Power<V> root(1 / p);
  const auto taps = V(is_absolute(w) ? 1 : w.taps());
  const Slabs slabs(w, w.outputs() * run == 0 ? 0 : planes, run, sizeof(V));
  const int64_t work = 8 * planes * (w.cells() + w.outputs()) * run;
  parallel(slabs.count(), work / std::max<int64_t>(1, slabs.count()), [&](int64_t i, int64_t stop) {
    Buffer<V> powers, sums;
    for (; i < stop; ++i)
      slabs(i, [&](const Window& part, int64_t n, int64_t cell, int64_t output) {
        const int64_t cells = n * part.cells() * run, outputs = n * part.outputs() * run;
        const V* from;
        V* to;
        if constexpr (kSame) {
          from = x + cell * run, to = y + output * run;
        } else {
          to = sums.reserve(outputs);
          widen_values(x + cell * run, powers.reserve(cells), cells);
          from = powers.get();
        }
        if (!power.identity()) {
          power(from, powers.reserve(cells), cells);
          from = powers.get();
        }
        avg_planes<V>(from, to, part, n, run);
        // (-0, the sum of reciprocals of -inf, would give -inf.)
        for (int64_t k = 0; k < outputs; ++k) to[k] = to[k] * taps + V(0);
        root(to, to, outputs);
        if constexpr (!kSame) narrow_values(to, y + output * run, outputs);
      });
  });
}

void check_exponent(double p) {
  STD_TORCH_CHECK(std::isfinite(p) && p != 0, "poolkit: p must be a finite number other than 0");
}

Tensor lp_pool(const Tensor& x, double p, const Window& w) {
  check_exponent(p);
  check_extents(x, w.in, w.rank);
  const bool suggested = suggests_channels_last(x);
  const bool runs = has_channel_run(suggested, x.dim(), w.rank);
  const Planes in = dense(x, runs, w.rank);
  Planes out = empty_planes(x, w.out, w.rank, runs, x.scalar_type());
  dispatch<kFloats>(x.scalar_type(), "lp_pool", [&]<class T>() {
    const auto* const from = static_cast<const T*>(in.tensor.const_data_ptr());
    auto* const to = static_cast<T*>(out.tensor.mutable_data_ptr());
    if (p == 2) {
      const Runs inner = in_rows_of_runs(w, in.planes, in.run, kLanes<Wide<T>>);
      const Divisors<Wide<T>> roots(inner.window, Divisors<Wide<T>>::kNorm);
      forward<Squares<T>>(from, Result<Squares<T>, T>{to, {}, &roots}, inner.window, inner.planes,
                          inner.run);
    } else {
      norms(from, to, p, w, in.planes, in.run);
    }
  });
  return in_format(out.tensor, suggested, w.rank);
}

// f(begin, n) for pieces of the values of a tensor, each in cache.
constexpr int64_t kPiece = 4096;
template <class F>
void for_pieces(const Planes& p, int64_t cells, const F& f) {
  const int64_t n = p.planes * cells * p.run;
  parallel((n + kPiece - 1) / kPiece, kPiece, [&](int64_t i, int64_t stop) {
    for (; i < stop; ++i) f(i * kPiece, std::min(kPiece, n - i * kPiece));
  });
}

// What the cells of an output get of its gradient g, but for their own power, y being its norm.
// A sum of 0 hands on nothing, and neither does 0, the norm of an infinite sum.
template <class T>
void find_shares(const T* g, const T* y, T* to, int64_t n, double p, Wide<T> taps) {
  using V = Wide<T>;
  if (p == 2) {
    for (int64_t i = 0; i < n; ++i) {
      const auto root = widen(y[i]), share = taps * widen(g[i]) / root;
      to[i] = narrow<T>(root == 0 ? 0 : share);
    }
    return;
  }
  const V of_no_sum = p < 0 ? std::numeric_limits<V>::infinity() : V(0);
  const Buffer<V> memory(n);
  V* const roots = memory.get();
  widen_values(y, roots, n);
  Power<V>(1 - p)(roots, roots, n);
  for (int64_t i = 0; i < n; ++i) {
    const auto root = widen(y[i]), share = taps * widen(g[i]) * roots[i];
    to[i] = narrow<T>(root == 0 || root == of_no_sum ? 0 : share);
  }
}

// Times each cell's own power. The derivative of a power below 1 is infinite at 0, and that of |x|
// jumps there: both are taken as 0.
template <class T>
void multiply_by_powers(const T* x, T* to, int64_t n, double p, bool absolute) {
  using V = Wide<T>;
  if (p == 2) {
    for (int64_t i = 0; i < n; ++i) to[i] = narrow<T>(widen(to[i]) * widen(x[i]));
    return;
  }
  const V lost = p < 1 || (p == 1 && absolute) ? V(0) : std::numeric_limits<V>::quiet_NaN();
  const Buffer<V> memory(n);
  V* const powers = memory.get();
  widen_values(x, powers, n);
  Power<V>(p - 1, absolute ? Power<V>::kSigned : Power<V>::kPlain)(powers, powers, n);
  for (int64_t i = 0; i < n; ++i) {
    const V product = widen(to[i]) * powers[i];
    to[i] = narrow<T>(widen(x[i]) == lost ? 0 : product);
  }
}

Tensor lp_pool_backward(const Tensor& g, const Tensor& y, const Tensor& x, double p,
                        const Window& w) {
  check_exponent(p);
  check_extents(g, w.out, w.rank);
  check_extents(y, w.out, w.rank);
  check_extents(x, w.in, w.rank);
  const ScalarType type = g.scalar_type();
  STD_TORCH_CHECK(g.numel() == y.numel() && y.scalar_type() == type && x.scalar_type() == type,
                  "poolkit: g, y and x must be of one dtype, g and y of one size");
  const bool runs = has_channel_run(w.channels_last, g.dim(), w.rank);
  const Planes from = dense(g, runs, w.rank), roots = dense(y, runs, w.rank);
  const Planes shares = empty_planes(g, w.out, w.rank, runs, type);
  dispatch<kFloats>(type, "lp_pool_backward", [&]<class T>() {
    const auto* const gradients = static_cast<const T*>(from.tensor.const_data_ptr());
    const auto* const norms = static_cast<const T*>(roots.tensor.const_data_ptr());
    auto* const to = static_cast<T*>(shares.tensor.mutable_data_ptr());
    const auto taps = Wide<T>(is_absolute(w) ? 1 : w.taps());
    for_pieces(shares, w.outputs(), [=](int64_t i, int64_t n) {
      find_shares(gradients + i, norms + i, to + i, n, p, taps);
    });
  });
  Tensor spread = avg_pool_backward(shares.tensor, w);
  const bool swapped = w.channels_last && !runs;  // its planes lie as the format says
  const Planes cells = dense(x, runs || swapped, w.rank);
  STD_TORCH_CHECK(spread.numel() == x.numel(), "poolkit: g and x must have the same planes");
  dispatch<kFloats>(type, "lp_pool_backward", [&]<class T>() {
    const auto* const values = static_cast<const T*>(cells.tensor.const_data_ptr());
    auto* const to = static_cast<T*>(spread.mutable_data_ptr());
    for_pieces(cells, w.cells(), [=, absolute = is_absolute(w)](int64_t i, int64_t n) {
      multiply_by_powers(values + i, to + i, n, p, absolute);
    });
  });
  return spread;
}

}  // namespace
}  // namespace poolkit

STABLE_TORCH_LIBRARY_IMPL(poolkit, CPU, m) {
  poolkit::implement<poolkit::lp_pool>(m, "lp_pool");
  poolkit::implement<poolkit::lp_pool_backward>(m, "lp_pool_backward");
}
