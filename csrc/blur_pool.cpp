// Blurs, their adjoint, and blurs of maxima: what the loops do is in blur.h, blur_adjoint.h and
// blur_pairs.h, and how maxima are blurred in blur_max.h. Here the scheme is chosen, for all alike,
// and the work cut for the threads.
//
// - Contiguous rows of stride 2, in float, of medium length go through registers (blur_pairs.h).
// - Others are read where they lie, if cells are runs that fill a register, or rows are long.
// - Other planes are turned into lanes (lane_planes.h), as many at once as there are.
#include <tuple>

#include "blur.h"
#include "blur_adjoint.h"
#include "blur_max.h"
#include "blur_pairs.h"
#include "lane_planes.h"
#include "operators.h"
#include "planes.h"

namespace poolkit {
namespace {

// Rows where they lie. make_worker(): what puts rows of results.
template <class Op, class T, class F>
void by_rows(const Op& op, const T* x, T* y, int64_t planes, int64_t run, const F& make_worker) {
  const Extents in = op.in(), out = op.out();
  const int64_t threads = torch::stable::get_num_threads();
  // What strips have in common is read, or reduced, by each.
  int64_t strips = 1;
  while (planes * out.d * strips < 4 * threads && out.h / (2 * strips) >= 8) strips *= 2;
  const int64_t height = (out.h + strips - 1) / strips, line = in.w * run;
  const T* const end = x + planes * in.cells() * run;
  parallel(planes * out.d * strips, height * run * op.cost(), [&](int64_t item, int64_t stop) {
    auto&& worker = make_worker();
    for (; item < stop; ++item) {
      const int64_t h0 = item % strips * height, h1 = std::min(out.h, h0 + height);
      const int64_t d = item / strips % out.d, plane = item / strips / out.d;
      const PlaneRows<T> rows{x + plane * in.cells() * run, end, in.h * line, line};
      if (h0 < h1) worker(rows, d, h0, h1, y + ((plane * out.d + d) * out.h + h0) * out.w * run);
    }
  });
}

// Planes as lanes: a vector of planes, or of channels that do not fill one, is turned in cache.
template <class Op, class T>
class ByLanes {
  using V = Wide<T>;
  static constexpr int N = kLanes<V>;
  static constexpr int64_t kCells = (256 << 10) / int64_t(sizeof(V)) / N;

 public:
  ByLanes(const Op& op, int64_t planes, int64_t run)
      : op_(op), in_(op.in()), out_(op.out()), planes_(planes * run), run_(run) {
    groups_ = (planes_ + N - 1) / N;
    const bool all = in_.cells() + out_.cells() <= 2 * kCells;
    slices_ = all ? out_.d : 1;
    height_ = out_.h;
    while (height_ > 1 && !fits()) height_ = (height_ + 1) / 2;
    strips_ = (out_.h + height_ - 1) / height_;
  }

  // Whether lanes are filled, the input is turned once, and all threads have something to do.
  bool suits() const {
    return run_ < N && 2 * planes_ > N && fits() && (strips_ == 1 || height_ >= 8) &&
           items() >= std::min<int64_t>(torch::stable::get_num_threads(), 4);
  }

  void operator()(const T* x, T* y) const {
    parallel(items(), N * slices_ * height_ * op_.cost(), [&](int64_t item, int64_t stop) {
      Buffer<V> cells, results;
      typename Op::template Worker<V, V> worker(op_, N);
      for (; item < stop; ++item) {
        const int64_t h0 = item % strips_ * height_, h1 = std::min(out_.h, h0 + height_);
        const int64_t d0 = item / strips_ % (out_.d / slices_) * slices_;
        const int64_t first = item / strips_ / (out_.d / slices_) * N;
        if (h0 >= h1) continue;
        const PlaneRows<V> rows = gathered(x, first, d0, h0, h1, cells);
        const int64_t slice = (h1 - h0) * out_.w;
        V* const values = results.reserve((slices_ * slice + 2) * N);
        for (int64_t d = d0; d < d0 + slices_; ++d)
          worker(rows, d, h0, h1, values + (d - d0) * slice * N);
        scatter(y, first, d0, h0, slice, values);
      }
    });
  }

 private:
  int64_t items() const { return groups_ * (out_.d / slices_) * strips_; }

  // Whether what a strip looks at stays in cache.
  bool fits() const {
    const auto [h_low, h_high] = op_.rows(0, height_);
    const auto [d_low, d_high] = op_.slices(0, slices_);
    return (d_high - d_low) * (h_high - h_low) * in_.w <= kCells &&
           slices_ * height_ * out_.w <= kCells;
  }

  PlaneRows<V> gathered(const T* x, int64_t first, int64_t d0, int64_t h0, int64_t h1,
                        Buffer<V>& cells) const {
    const auto [h_low, h_high] = op_.rows(h0, h1);
    const auto [d_low, d_high] = op_.slices(d0, d0 + slices_);
    const int64_t slice = (h_high - h_low) * in_.w;
    V* const to = cells.reserve(((d_high - d_low) * slice + 2) * N);
    const PlaneStarts starts{run_, in_.cells()};
    for (int64_t d = d_low; d < d_high; ++d) {
      const T* planes[N];
      for (int64_t k = 0; k < N; ++k)
        planes[k] =
            x + starts[std::min(first + k, planes_ - 1)] + (d * in_.h + h_low) * in_.w * run_;
      gather_planes<false, T, V>(planes, run_, slice, x + planes_ * in_.cells(),
                                 to + (d - d_low) * slice * N);
    }
    return {to, nullptr, slice * N, in_.w * N, d_low, h_low};
  }

  void scatter(T* y, int64_t first, int64_t d0, int64_t h0, int64_t slice, const V* values) const {
    const PlaneStarts starts{run_, out_.cells()};
    for (int64_t d = d0; d < d0 + slices_; ++d) {
      const int64_t corner = (d * out_.h + h0) * out_.w * run_;
      scatter_planes(values + (d - d0) * slice * N, std::min<int64_t>(N, planes_ - first), slice,
                     [&](int64_t k, int64_t c, const Vec<V>& v, int lanes) {
                       store_cells<T, V>(y + starts[first + k] + corner + c * run_, run_, v, lanes);
                     });
    }
  }

  const Op& op_;
  const Extents in_, out_;
  const int64_t planes_, run_;
  int64_t groups_, slices_, height_, strips_;
};

template <class Op, class T>
void compute(const Op& op, const T* x, T* y, int64_t planes, int64_t run) {
  if (planes == 0) return;
  if constexpr (kHasPairs<Op, T>)
    if (run == 1)
      if (const Pairs<Op> pairs(op, is_far<T>(planes * op.in().cells())); pairs.suits())
        return by_rows(op, x, y, planes, run, [&]() -> const Pairs<Op>& { return pairs; });
  if (const ByLanes<Op, T> lanes(op, planes, run); lanes.suits())
    lanes(x, y);
  else
    by_rows(op, x, y, planes, run, [&] { return typename Op::template Worker<T, T>(op, run); });
}

// ---- blurs of maxima ----

// Planes of a blur of maxima, and the types of the values and the offsets.
struct MaxBlur {
  const Window &maxima, &window;
  const Blur& blur;
  const std::vector<double>& taps;
  const ScalarType dtype, offset_dtype;
  const int64_t planes, run;

  // Values of a plane.
  int64_t cells() const { return maxima.cells() * run; }
  int64_t held() const { return maxima.outputs() * run; }
  int64_t outputs() const { return window.outputs() * run; }

  // Where the offsets of a maximum are.
  template <class Byte>
  Byte* offset(Byte* offsets, int64_t maximum) const {
    return offsets ? offsets + maximum * bytes_of_offset(offset_dtype) : nullptr;
  }
};

// How planes are cut, if their maxima are of type T: those that are turned into lanes fill them.
template <class Op, class T>
BlurCut cut_of(const Op& op, const MaxBlur& m, int64_t rows) {
  bool lanes = ByLanes<Op, T>(op, m.planes, m.run).suits();
  if constexpr (kHasPairs<Op, T>) lanes &= m.run > 1 || !Pairs<Op>(op, false).suits();
  return cut_for(m.planes, m.held() * int64_t(sizeof(T)), lanes ? kLanes<Wide<T>> : 1, rows);
}

// Calls f(first, last) for parts: one thread for each, or all threads for one after the other if
// parts are few.
template <class F>
void for_parts(int64_t parts, int64_t cost, const F& f) {
  if (parts < torch::stable::get_num_threads())
    f(int64_t(0), parts);
  else
    parallel(parts, cost, f);
}

// The maxima of every part, and their blur. `offsets`: where those of the maxima go, or null.
template <class T>
void blur_maxima(const MaxBlur& m, const T* x, T* y, char* offsets) {
  const BlurForward op{m.blur};
  const Axis &cells = m.maxima.outermost(), &outputs = m.window.outermost();
  const BlurCut cut = cut_of<BlurForward, T>(op, m, outputs.out);
  const std::vector<BlurPart> strips = blur_parts(m.maxima, m.window, cut.strips);
  const int64_t count = std::max<int64_t>(1, int64_t(strips.size())), parts = cut.groups * count;
  for_parts(parts, cut.at_once * m.held() * m.blur.steps() / count,
            [&](int64_t part, int64_t stop) {
              Buffer<T> buffer;
              const auto find = [&](const T* from, T* to, int64_t maximum, bool own,
                                    const Window& w, int64_t planes) {
                const InParts in_parts(parts);
                max_planes(m.dtype, from, to,
                           {own ? m.offset(offsets, maximum) : nullptr, m.offset_dtype}, w, planes,
                           m.run);
              };
              for (; part < stop; ++part) {
                const int64_t plane = part / count * cut.at_once;
                const T* const from = x + plane * m.cells();
                T* const to = y + plane * m.outputs();
                if (strips.empty()) {
                  const int64_t n = std::min(cut.at_once, m.planes - plane);
                  T* const values = buffer.reserve(n * m.held());
                  find(from, values, plane * m.held(), true, m.maxima, n);
                  compute(op, values, to, n, m.run);
                  continue;
                }
                const BlurPart& strip = strips[size_t(part % count)];
                const int64_t step = m.held() / outputs.size;
                T* const values = buffer.reserve(strip.held * step);
                for (const BlurPart::Maxima& some : strip.maxima)
                  find(from + some.cell * (m.cells() / cells.size),
                       values + (some.maximum - strip.maximum) * step,
                       plane * m.held() + some.maximum * step, some.own, some.window, 1);
                const Blur own(strip.blur, m.taps);
                compute(BlurForward{own}, values, to + strip.output * (m.outputs() / outputs.out),
                        1, m.run);
              }
            });
}

// The other way round: gradients go to the maxima of a part, and from there to the cells that the
// offsets name.
template <class T>
void blur_maxima_backward(const MaxBlur& m, const T* g, T* out, const char* offsets) {
  const BlurBackward op{m.blur};
  const BlurCut cut = cut_of<BlurBackward, T>(op, m, 0);
  for_parts(cut.groups, cut.at_once * m.held() * m.blur.steps(), [&](int64_t part, int64_t stop) {
    Buffer<T> buffer;
    for (; part < stop; ++part) {
      const int64_t plane = part * cut.at_once, n = std::min(cut.at_once, m.planes - plane);
      T* const values = buffer.reserve(n * m.held());
      compute(op, g + plane * m.outputs(), values, n, m.run);
      scatter_planes(m.dtype, values, m.offset(offsets, plane * m.held()), m.offset_dtype,
                     out + plane * m.cells(), m.maxima, n, m.run);
    }
  });
}

void check_fit(const Window& maxima, const Window& w) {
  STD_TORCH_CHECK(maxima.rank == w.rank && std::equal(maxima.out, maxima.out + w.rank, w.in),
                  "poolkit: the windows of a blur of maxima do not fit each other");
  for (const Axis& a : maxima.apart) {
    STD_TORCH_CHECK(a.stride == 1 && a.dilation == 1,
                    "poolkit: the maxima of a blur have stride 1 and no dilation");
    STD_TORCH_CHECK(a.before < a.kernel && a.after < a.kernel && a.ends_in_padding(),
                    "poolkit: the maxima of a blur have impossible fields");
  }
}

}  // namespace

// ---- operators ----------------------------------------------------------------------------------

Tensor blur_pool(const Tensor& x, const std::vector<double>& taps, const Window& w) {
  check_extents(x, w.in, w.rank);
  const Blur b(w, taps);
  const bool suggested = suggests_channels_last(x);
  const bool runs = has_channel_run(suggested, x.dim(), w.rank);
  const Planes in = dense(x, runs, w.rank);
  Planes out = empty_planes(x, w.out, w.rank, runs, x.scalar_type());
  dispatch<kFloats>(x.scalar_type(), "blur_pool", [&]<class T>() {
    compute(BlurForward{b}, static_cast<const T*>(in.tensor.const_data_ptr()),
            static_cast<T*>(out.tensor.mutable_data_ptr()), in.planes, in.run);
  });
  return in_format(out.tensor, suggested, w.rank);
}

Tensor blur_pool_backward(const Tensor& g, const std::vector<double>& taps, const Window& w) {
  check_extents(g, w.out, w.rank);
  const Blur b(w, taps);
  const bool runs = has_channel_run(w.channels_last, g.dim(), w.rank);
  const Planes in = dense(g, runs, w.rank);
  Planes out = empty_planes(g, w.in, w.rank, runs, g.scalar_type());
  dispatch<kFloats>(g.scalar_type(), "blur_pool_backward", [&]<class T>() {
    compute(BlurBackward{b}, static_cast<const T*>(in.tensor.const_data_ptr()),
            static_cast<T*>(out.tensor.mutable_data_ptr()), out.planes, out.run);
  });
  return in_format(out.tensor, w.channels_last, w.rank);
}

// The outputs, and the offsets of the maxima if somebody wants them.
std::tuple<Tensor, Tensor> max_blur(const Tensor& x, const std::vector<double>& taps,
                                    const Window& maxima, const Window& w, bool with_offsets) {
  check_fit(maxima, w);
  check_extents(x, maxima.in, maxima.rank);
  const Blur blur(w, taps);
  const bool suggested = suggests_channels_last(x);
  const bool runs = has_channel_run(suggested, x.dim(), w.rank);
  const Planes in = dense(x, runs, w.rank);
  Planes out = empty_planes(x, w.out, w.rank, runs, x.scalar_type()), offsets;
  const ScalarType type = with_offsets ? offset_type(maxima.packed_taps()) : ScalarType::Byte;
  if (with_offsets) offsets = empty_planes(x, maxima.out, w.rank, runs, type);
  const MaxBlur m{maxima, w, blur, taps, x.scalar_type(), type, in.planes, in.run};
  dispatch<kFloats>(m.dtype, "max_blur_pool", [&]<class T>() {
    if (m.planes > 0)
      blur_maxima(m, static_cast<const T*>(in.tensor.const_data_ptr()),
                  static_cast<T*>(out.tensor.mutable_data_ptr()),
                  with_offsets ? static_cast<char*>(offsets.tensor.mutable_data_ptr()) : nullptr);
  });
  return {in_format(out.tensor, suggested, w.rank),
          with_offsets ? in_format(offsets.tensor, suggested, w.rank) : offsets.tensor};
}

Tensor max_blur_pool(const Tensor& x, const std::vector<double>& taps, const Window& maxima,
                     const Window& w) {
  return std::get<0>(max_blur(x, taps, maxima, w, false));
}

std::tuple<Tensor, Tensor> max_blur_pool_offsets(const Tensor& x, const std::vector<double>& taps,
                                                 const Window& maxima, const Window& w) {
  return max_blur(x, taps, maxima, w, true);
}

Tensor max_blur_pool_backward(const Tensor& g, const Tensor& offsets,
                              const std::vector<double>& taps, const Window& maxima,
                              const Window& w) {
  check_fit(maxima, w);
  check_extents(g, w.out, w.rank);
  check_extents(offsets, maxima.out, w.rank);
  dispatch_offsets(offsets.scalar_type(), []<class Offset>() {});  // knows them
  const Blur blur(w, taps);
  const bool runs = has_channel_run(maxima.channels_last, g.dim(), w.rank);
  const Planes in = dense(g, runs, w.rank), at = dense(offsets, runs, w.rank);
  bool fits = g.dim() == offsets.dim();
  for (int64_t i = 0; fits && i < g.dim() - w.rank; ++i)
    fits = g.sizes()[size_t(i)] == offsets.sizes()[size_t(i)];
  STD_TORCH_CHECK(fits, "poolkit: one offset per maximum is needed");
  Planes out = empty_planes(g, maxima.in, w.rank, runs, g.scalar_type());
  const MaxBlur m{maxima,     w,      blur, taps, g.scalar_type(), offsets.scalar_type(),
                  out.planes, out.run};
  dispatch<kFloats>(m.dtype, "max_blur_pool_backward", [&]<class T>() {
    if (m.planes > 0)
      blur_maxima_backward(m, static_cast<const T*>(in.tensor.const_data_ptr()),
                           static_cast<T*>(out.tensor.mutable_data_ptr()),
                           static_cast<const char*>(at.tensor.const_data_ptr()));
  });
  return in_format(out.tensor, maxima.channels_last, w.rank);
}

}  // namespace poolkit

STABLE_TORCH_LIBRARY_IMPL(poolkit, CPU, m) {
  poolkit::implement<poolkit::blur_pool>(m, "blur_pool");
  poolkit::implement<poolkit::blur_pool_backward>(m, "blur_pool_backward");
  poolkit::implement<poolkit::max_blur_pool>(m, "max_blur_pool");
  poolkit::implement<poolkit::max_blur_pool_offsets>(m, "max_blur_pool_offsets");
  poolkit::implement<poolkit::max_blur_pool_backward>(m, "max_blur_pool_backward");
}
