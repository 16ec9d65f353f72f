// Every operator's schema: the contract between Python and C++ on one page.
//
// `window` is a packed window (src/poolkit/window.py). Operators come in adjoint pairs: scatter is
// pick's derivative and the other way round, avg_pool_backward is avg_pool's, and so with put,
// add_at, fractional_avg_pool and blur_pool; no other derivative is needed, of any order. No
// operator has an optional argument or return: boxing them costs time.
//
// Each has two overloads of one kernel. Sizes that may be symbolic need SymInt[]. An eager call
// uses `text`, the same integers as text: a string crosses in 0.3 us, a list of 16 integers in 1.0
// us.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(poolkit, m) {
  // Values alone, for inference.
  m.def("max_pool(Tensor x, SymInt[] window) -> Tensor");
  m.def("max_pool.text(Tensor x, str window) -> Tensor");
  // Values, and the number of the winner's tap: uint8 up to 256 taps, then uint16, int32, int64.
  m.def("max_pool_offsets(Tensor x, SymInt[] window) -> (Tensor, Tensor)");
  m.def("max_pool_offsets.text(Tensor x, str window) -> (Tensor, Tensor)");
  // The value of x at the cell that each offset names.
  m.def("pick(Tensor x, Tensor offsets, SymInt[] window) -> Tensor");
  m.def("pick.text(Tensor x, Tensor offsets, str window) -> Tensor");
  // The sum, at each cell, of the values g whose offset names it.
  m.def("scatter(Tensor g, Tensor offsets, SymInt[] window) -> Tensor");
  m.def("scatter.text(Tensor g, Tensor offsets, str window) -> Tensor");
  // torch's int64 index in the input plane of the cell that each offset names.
  m.def("plane_indices(Tensor offsets, SymInt[] window) -> Tensor");
  m.def("plane_indices.text(Tensor offsets, str window) -> Tensor");
  // Values at torch's int64 indices of their plane, whose cells are the window's inputs; only its
  // extents count. put: the last value that names a cell, or 0; add_at: the sum of all that do.
  m.def("put(Tensor x, Tensor indices, SymInt[] window) -> Tensor");
  m.def("put.text(Tensor x, Tensor indices, str window) -> Tensor");
  m.def("put_backward(Tensor g, Tensor indices, SymInt[] window) -> Tensor");
  m.def("put_backward.text(Tensor g, Tensor indices, str window) -> Tensor");
  m.def("add_at(Tensor g, Tensor indices, SymInt[] window) -> Tensor");
  m.def("add_at.text(Tensor g, Tensor indices, str window) -> Tensor");
  m.def("take(Tensor x, Tensor indices, SymInt[] window) -> Tensor");
  m.def("take.text(Tensor x, Tensor indices, str window) -> Tensor");
  // Windows of one size at pseudo-random places, which follow from one sample per plane and axis
  // (N, C, rank); of `window` the extents and the kernel count. Indices are torch's.
  m.def("fractional_max_pool(Tensor x, Tensor samples, SymInt[] window) -> Tensor");
  m.def("fractional_max_pool.text(Tensor x, Tensor samples, str window) -> Tensor");
  m.def(
      "fractional_max_pool_indices(Tensor x, Tensor samples, SymInt[] window)"
      " -> (Tensor, Tensor)");
  m.def(
      "fractional_max_pool_indices.text(Tensor x, Tensor samples, str window)"
      " -> (Tensor, Tensor)");
  m.def("fractional_avg_pool(Tensor x, Tensor samples, SymInt[] window) -> Tensor");
  m.def("fractional_avg_pool.text(Tensor x, Tensor samples, str window) -> Tensor");
  m.def("fractional_avg_pool_backward(Tensor g, Tensor samples, SymInt[] window) -> Tensor");
  m.def("fractional_avg_pool_backward.text(Tensor g, Tensor samples, str window) -> Tensor");
  m.def("avg_pool(Tensor x, SymInt[] window) -> Tensor");
  m.def("avg_pool.text(Tensor x, str window) -> Tensor");
  m.def("avg_pool_backward(Tensor g, SymInt[] window) -> Tensor");
  m.def("avg_pool_backward.text(Tensor g, str window) -> Tensor");
  // The p-norm of every window, p finite and not 0, of absolute values where the window has a
  // divisor, which is 1; and the gradient of x, where y = lp_pool(x).
  m.def("lp_pool(Tensor x, float p, SymInt[] window) -> Tensor");
  m.def("lp_pool.text(Tensor x, float p, str window) -> Tensor");
  m.def("lp_pool_backward(Tensor g, Tensor y, Tensor x, float p, SymInt[] window) -> Tensor");
  m.def("lp_pool_backward.text(Tensor g, Tensor y, Tensor x, float p, str window) -> Tensor");
  // The sum of every window weighted by `taps`, the weights of the first axis and then of the next;
  // max_blur_pool: of the maxima over the windows `dense`, whose stride is 1.
  m.def("blur_pool(Tensor x, float[] taps, SymInt[] window) -> Tensor");
  m.def("blur_pool.text(Tensor x, float[] taps, str window) -> Tensor");
  m.def("blur_pool_backward(Tensor g, float[] taps, SymInt[] window) -> Tensor");
  m.def("blur_pool_backward.text(Tensor g, float[] taps, str window) -> Tensor");
  m.def("max_blur_pool(Tensor x, float[] taps, SymInt[] dense, SymInt[] window) -> Tensor");
  m.def("max_blur_pool.text(Tensor x, float[] taps, str dense, str window) -> Tensor");
  // The same, and the offsets of the maxima; and the gradient of x, which goes by these.
  m.def(
      "max_blur_pool_offsets(Tensor x, float[] taps, SymInt[] dense, SymInt[] window)"
      " -> (Tensor, Tensor)");
  m.def(
      "max_blur_pool_offsets.text(Tensor x, float[] taps, str dense, str window)"
      " -> (Tensor, Tensor)");
  m.def(
      "max_blur_pool_backward(Tensor g, Tensor offsets, float[] taps, SymInt[] dense,"
      " SymInt[] window) -> Tensor");
  m.def(
      "max_blur_pool_backward.text(Tensor g, Tensor offsets, float[] taps, str dense, str window)"
      " -> Tensor");
}
