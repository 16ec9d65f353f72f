// The norm of every window, and its gradient.
//
// Forward, in one pass: each cell is squared when it is read, sums go by the scheme of forward.h,
// and an output's root is taken where an average would be divided. Backward: the gradient of an
// average, of g / y, times x.
#include "forward.h"
#include "operators.h"

namespace poolkit {

Tensor avg_pool_backward(const Tensor& g, const Window& w);  // avg_pool.cpp

namespace {

template <class T>
using Squares = Forms<T, SumOfSquares<Wide<T>>, SumOfSquares<Wide<T>>, NoOffset>;

Tensor l2_pool(const Tensor& x, const Window& w) {
  check_extents(x, w.in, w.rank);
  const bool suggested = suggests_channels_last(x);
  const bool runs = has_channel_run(suggested, x.dim(), w.rank);
  const Planes in = dense(x, runs, w.rank);
  Planes out = empty_planes(x, w.out, w.rank, runs, x.scalar_type());
  dispatch<kFloats>(x.scalar_type(), "l2_pool", [&]<class T>() {
    using V = Wide<T>;
    const Divisors<V> norms(w, Divisors<V>::kNorm);
    forward<Squares<T>>(
        static_cast<const T*>(in.tensor.const_data_ptr()),
        Result<Squares<T>, T>{static_cast<T*>(out.tensor.mutable_data_ptr()), {}, &norms}, w,
        in.planes, in.run);
  });
  return in_format(out.tensor, suggested, w.rank);
}

// f(begin, end) for the values of a tensor.
template <class F>
void for_values(const Planes& p, int64_t cells, const F& f) {
  constexpr int64_t kPiece = 4096;
  const int64_t n = p.planes * cells * p.run;
  parallel((n + kPiece - 1) / kPiece, kPiece,
           [&](int64_t begin, int64_t end) { f(begin * kPiece, std::min(n, end * kPiece)); });
}

// A norm of 0 has no gradient: that of its cells is taken as 0.
Tensor l2_pool_backward(const Tensor& g, const Tensor& y, const Tensor& x, const Window& w) {
  check_extents(g, w.out, w.rank);
  check_extents(y, w.out, w.rank);
  check_extents(x, w.in, w.rank);
  const ScalarType type = g.scalar_type();
  STD_TORCH_CHECK(g.numel() == y.numel() && y.scalar_type() == type && x.scalar_type() == type,
                  "poolkit: g, y and x must be of one dtype, g and y of one size");
  const bool runs = has_channel_run(w.channels_last, g.dim(), w.rank);
  const Planes from = dense(g, runs, w.rank), norms = dense(y, runs, w.rank);
  const Planes shares = empty_planes(g, w.out, w.rank, runs, type);
  dispatch<kFloats>(type, "l2_pool_backward", [&]<class T>() {
    const auto* const gradients = static_cast<const T*>(from.tensor.const_data_ptr());
    const auto* const roots = static_cast<const T*>(norms.tensor.const_data_ptr());
    auto* const to = static_cast<T*>(shares.tensor.mutable_data_ptr());
    const auto taps = Wide<T>(w.divisor ? 1 : w.taps());
    for_values(shares, w.outputs(), [=](int64_t i, int64_t end) {
      for (; i < end; ++i) {
        const auto root = widen(roots[i]), share = taps * widen(gradients[i]) / root;
        to[i] = narrow<T>(root == 0 ? 0 : share);
      }
    });
  });
  Tensor spread = avg_pool_backward(shares.tensor, w);
  const bool swapped = w.channels_last && !runs;  // its planes lie as the format says
  const Planes cells = dense(x, runs || swapped, w.rank);
  STD_TORCH_CHECK(spread.numel() == x.numel(), "poolkit: g and x must have the same planes");
  dispatch<kFloats>(type, "l2_pool_backward", [&]<class T>() {
    const auto* const values = static_cast<const T*>(cells.tensor.const_data_ptr());
    auto* const to = static_cast<T*>(spread.mutable_data_ptr());
    for_values(cells, w.cells(), [=](int64_t i, int64_t end) {
      for (; i < end; ++i) to[i] = narrow<T>(widen(to[i]) * widen(values[i]));
    });
  });
  return spread;
}

}  // namespace
}  // namespace poolkit

STABLE_TORCH_LIBRARY_IMPL(poolkit, CPU, m) {
  poolkit::implement<poolkit::l2_pool>(m, "l2_pool");
  poolkit::implement<poolkit::l2_pool_backward>(m, "l2_pool_backward");
}
