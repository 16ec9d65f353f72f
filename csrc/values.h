// The values a kernel meets: how they compare, how they add up, how they are stored.
//
// Half types are handled as their 16 bits. Maxima never leave the bits (no conversion, 32 lanes to
// a 512-bit register); sums widen to float. Every function here is branch-free, so that plain loops
// over rows become SIMD code.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace poolkit {

// Enumerations, not structures: the compiler makes SIMD code of loops over these.
enum class Half : int16_t {};
enum class BFloat16 : int16_t {};

template <class T>
constexpr bool is_half = std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>;

// ---- order ----

template <class T>
constexpr int16_t kInfinity = std::is_same_v<T, Half> ? 0x7c00 : 0x7f80;

template <class T>
bool is_nan(T v) {
  if constexpr (is_half<T>)
    return int16_t(int16_t(v) & 0x7fff) > kInfinity<T>;
  else if constexpr (std::is_floating_point_v<T>)
    return v != v;
  else
    return false;
}

// The bits of a half type as an integer that is ordered as the numbers are: both zeros give 0, and
// every NaN lies beyond the infinities.
constexpr int16_t kNanKey = 0x7fff;

template <class T>
int16_t order_key(T v) {
  const auto bits = int16_t(v);
  const auto key = int16_t(bits ^ int16_t(int16_t(bits >> 15) & 0x7fff));
  const int16_t number = key == -1 ? int16_t(0) : key;  // only -0 has the key -1
  return is_nan(v) ? kNanKey : number;
}

// Whether v takes the place of the maximum so far: it is greater, or it is NaN. Applied in
// row-major order this keeps the first of equal values (zeros of either sign are equal) and the
// last NaN.
template <class T>
bool beats(T v, T best) {
  if constexpr (is_half<T>) {
    // A NaN is beaten by the next NaN, so it counts as one less where it stands.
    const int16_t key = order_key(best);
    return order_key(v) > (key < kNanKey ? key : int16_t(kNanKey - 1));
  } else {
    return (v > best) | is_nan(v);
  }
}

template <class T>
T lowest() {
  if constexpr (is_half<T>)
    return T(int16_t(kInfinity<T> | 0x8000));
  else if constexpr (std::is_floating_point_v<T>)
    return -std::numeric_limits<T>::infinity();
  else
    return std::numeric_limits<T>::lowest();
}

// ---- widening ----

inline float widen(BFloat16 v) { return std::bit_cast<float>(uint32_t(uint16_t(v)) << 16); }

inline float widen(Half v) {
  // Shift exponent and mantissa into place, then scale by 2^112 to mend the exponent's bias; the
  // product is exact for denormals too. Infinity and NaN need their exponent filled by hand.
  const auto h = uint32_t(uint16_t(v));
  const uint32_t magnitude = (h & 0x7fff) << 13;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude >= (0x7c00u << 13) ? 0x7f800000u : 0u;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | (h & 0x8000) << 16);
}

inline float widen(float v) { return v; }
inline double widen(double v) { return v; }
// Sums of int64 wrap as torch's do; unsigned arithmetic makes that defined.
inline uint64_t widen(int64_t v) { return uint64_t(v); }
inline uint64_t widen(uint64_t v) { return v; }

// What T is summed in.
template <class T>
using Wide = decltype(widen(T{}));

// ---- rounding to nearest even ----

template <class T>
T narrow(Wide<T> v) {
  return T(v);
}

template <>
inline BFloat16 narrow<BFloat16>(float v) {
  const auto bits = std::bit_cast<uint32_t>(v);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return BFloat16(int16_t(v != v ? 0x7fc0 : rounded));
}

template <>
inline Half narrow<Half>(float v) {
  const auto bits = std::bit_cast<uint32_t>(v);
  const uint32_t magnitude = bits & 0x7fffffff;
  // Normal results: rebias the exponent and round the thirteen lost bits to nearest even.
  const uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Below 2^-14 the adder rounds: next to 0.5 a float's last place is a half denormal's.
  const uint32_t tiny = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) -
                        std::bit_cast<uint32_t>(0.5f);
  const uint32_t finite = magnitude < (113u << 23) ? tiny : normal;
  const uint32_t huge = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t half = magnitude >= (143u << 23) ? huge : finite;
  return Half(int16_t(half | (bits >> 16 & 0x8000)));
}

// ---- dispatch ----

// Call f.template operator()<T>() with the element type of `dtype`; bool is stored and ordered as a
// byte. `Wanted` lists the kinds an operator has.
enum Kinds { kFloats = 1, kInt64 = 2, kAllIntegers = 6 };

template <int Wanted, class F>
auto dispatch(torch::headeronly::ScalarType dtype, const char* name, const F& f) {
  using enum torch::headeronly::ScalarType;
  switch (dtype) {
    case Float:
      return f.template operator()<float>();
    case Double:
      return f.template operator()<double>();
    case Half:
      return f.template operator()<poolkit::Half>();
    case BFloat16:
      return f.template operator()<poolkit::BFloat16>();
    case Long:
      if constexpr (Wanted & kInt64) return f.template operator()<int64_t>();
      break;
    case Int:
      if constexpr ((Wanted & kAllIntegers) == kAllIntegers)
        return f.template operator()<int32_t>();
      break;
    case Short:
      if constexpr ((Wanted & kAllIntegers) == kAllIntegers)
        return f.template operator()<int16_t>();
      break;
    case Char:
      if constexpr ((Wanted & kAllIntegers) == kAllIntegers) return f.template operator()<int8_t>();
      break;
    case Byte:
    case Bool:
      if constexpr ((Wanted & kAllIntegers) == kAllIntegers)
        return f.template operator()<uint8_t>();
      break;
    default:
      break;
  }
  STD_TORCH_CHECK(false, name, ": no kernel for this dtype");
}

// The type of offsets: the smallest that numbers all taps (src/poolkit/window.py, offset_dtype).
inline torch::headeronly::ScalarType offset_type(int64_t taps) {
  using enum torch::headeronly::ScalarType;
  STD_TORCH_CHECK(
      taps < INT64_MAX,
      "poolkit: the window has more taps than 64 bits can number, so its maxima have no "
      "index and no gradient");
  return taps <= 1 << 8 ? Byte : taps <= 1 << 16 ? UInt16 : taps <= INT32_MAX ? Int : Long;
}

inline int64_t bytes_of_offset(torch::headeronly::ScalarType type) {
  using enum torch::headeronly::ScalarType;
  return type == Byte ? 1 : type == UInt16 ? 2 : type == Int ? 4 : 8;
}

template <class F>
auto dispatch_offsets(torch::headeronly::ScalarType type, const F& f) {
  using enum torch::headeronly::ScalarType;
  if (type == Byte) return f.template operator()<uint8_t>();
  if (type == UInt16) return f.template operator()<uint16_t>();
  if (type == Int) return f.template operator()<int32_t>();
  STD_TORCH_CHECK(type == Long, "poolkit: offsets must be uint8, uint16, int32 or int64");
  return f.template operator()<int64_t>();
}

}  // namespace poolkit
