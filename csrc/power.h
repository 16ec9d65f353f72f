// x^p for one p and many x.
//
// Small powers are multiplications. Any other of float is 2^(p log2 x), both by series in double,
// vector by vector: half a place from the true value at most, and the same bits in every library.
// Of double the standard library's pow is taken, value by value.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "convert.h"

namespace poolkit {

template <class V>
class Power {
 public:
  // x^p as pow has it, |x|^p, or sign(x) |x|^p.
  enum Sign { kPlain, kAbsolute, kSigned };

  explicit Power(double p, Sign sign = kPlain) : p_(p) {
    const bool whole = std::trunc(p) == p, odd = whole && std::fmod(p, 2) != 0;
    signed_ = sign == kSigned || (sign == kPlain && odd);
    real_ = sign != kPlain || whole;
    // A root and its reciprocal have rules of their own for -inf and -0, as in torch.
    root_ = sign == kPlain && std::abs(p) == 0.5;
  }

  // Whether x^p is x.
  bool identity() const { return p_ == 1 && real_ && signed_; }

  // `to` may be `from`.
  void operator()(const V* from, V* to, int64_t n) const {
    if (p_ == 0)
      each<V>(from, to, n, [](const Vec<V>&) { return splat(V(1)); });
    else if (p_ == 1)
      each<V>(from, to, n, [](const Vec<V>& a) { return a; });
    else if (p_ == 2)
      each<V>(from, to, n, [](const Vec<V>& a) { return a * a; });
    else if (p_ == 3)
      each<V>(from, to, n, [](const Vec<V>& a) { return a * a * a; });
    else if (p_ == -1)
      each<V>(from, to, n, [](const Vec<V>& a) { return splat(V(1)) / a; });
    else if (p_ == 0.5)
      each<V>(from, to, n, [](const Vec<V>& a) { return square_root<V>(a); });
    else if (p_ == -0.5)
      each<V>(from, to, n, [](const Vec<V>& a) { return splat(V(1)) / square_root<V>(a); });
    else
      each<double>(from, to, n, [p = std::clamp(p_, -1e300, 1e300)](const Vec<double>& a) {
        if constexpr (std::is_same_v<V, float>) return float_power(a, p);
        Vec<double> result{};
        for (int k = 0; k < kLanes<double>; ++k) result[k] = std::pow(a[k], p);
        return result;
      });
  }

 private:
  // Calls f(|x|) for vectors of W, and gives what it returns its sign.
  template <class W, class F>
  void each(const V* from, V* to, int64_t n, const F& f) const {
    constexpr int N = kLanes<W>;
    int64_t i = 0;
    for (; i + N <= n; i += N) store_as<V, W>(to + i, with_sign<W>(load_as<W>(from + i), f));
    if (i == n) return;
    V rest[N] = {};
    std::copy_n(from + i, n - i, rest);
    store_as<V, W>(rest, with_sign<W>(load_as<W>(rest), f));
    std::copy_n(rest, n - i, to + i);
  }

  template <class W, class F>
  [[gnu::always_inline]] Vec<W> with_sign(const Vec<W>& x, const F& f) const {
    using U = Unsigned<sizeof(W)>;
    if (root_) return f(x);
    const Vec<U> minus = splat(U(U(1) << (8 * sizeof(U) - 1)));
    const auto a = Vec<W>(Vec<U>(x) & ~minus);
    const Vec<W> power = f(a);
    if (signed_) return Vec<W>(Vec<U>(power) | (Vec<U>(x) & minus));
    if (real_) return power;
    const Vec<W> nan = splat(std::numeric_limits<W>::quiet_NaN());
    return ((x < Vec<W>{}) & (a <= splat(std::numeric_limits<W>::max()))) ? nan : power;
  }

  // Of the polynomials of these degrees those that come closest: 2 / ln 2 artanh(s) / s in s^2, to
  // 2^-37, and 2^z for |z| <= 1/2, to 2^-34.
  static constexpr double kLog[] = {2.8853900817900797, 0.9617966733505514, 0.5770835831871686,
                                    0.4116728313173337, 0.3407279341941497};
  static constexpr double kExp[] = {
      0.9999999999616814,   0.6931471807284517,    0.2402265119815657,     0.0555041035344265,
      0.009618027253829434, 0.0013333922565821167, 0.00015469291091999102, 1.5201921249444195e-05};

  template <size_t N>
  [[gnu::always_inline]] static Vec<double> polynomial(const Vec<double>& x, const double (&c)[N]) {
    Vec<double> sum = splat(c[N - 1]);
    POOLKIT_UNROLL
    for (int k = N - 2; k >= 0; --k) sum = sum * x + c[k];
    return sum;
  }

  // a^p for floats a >= 0, or NaN.
  [[gnu::always_inline]] static Vec<double> float_power(const Vec<double>& a, double p) {
    using Bits = Vec<uint64_t>;
    const double infinity = std::numeric_limits<double>::infinity();
    // a = m 2^e with m from sqrt(1/2) to sqrt(2). (A float that is not 0 is no denormal here.)
    constexpr uint64_t kLeast = 0x3fe6a09e667f3bcd, kBias = 1023, kWhole = 0x4330000000000000;
    const Bits shifted = Bits(a) - (kLeast - (kBias << 52));
    const Bits exponent = shifted >> 52;
    const auto m = Vec<double>(Bits(a) - (exponent << 52) + (kBias << 52));
    const Vec<double> e = Vec<double>(exponent | kWhole) - (0x1p52 + double(kBias));
    // log2(m) = 2 / ln 2 artanh(s), and |s| is at most 0.172.
    const Vec<double> s = (m - 1.0) / (m + 1.0);
    const Vec<double> log = e + s * polynomial(s * s, kLog);
    // 2^z: what a float cannot hold is far within these bounds.
    Vec<double> z = log * p;
    z = z < -1000.0 ? splat(-1000.0) : z;
    z = z > 1000.0 ? splat(1000.0) : z;
    const Vec<double> near = z + 0x1.8p52, whole = near - 0x1.8p52;
    Vec<double> power = polynomial(z - whole, kExp);
    power = Vec<double>(Bits(power) + (Bits(near) << 52));
    power = a == 0.0 ? splat(p > 0 ? 0.0 : infinity) : power;
    power = a == infinity ? splat(p > 0 ? infinity : 0.0) : power;
    return a != a ? a : power;
  }

  double p_;
  bool signed_, real_, root_;
};

}  // namespace poolkit
