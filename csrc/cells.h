// Cells on their way between tensors and registers: memory for them, and the types in which they
// are reduced.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include "convert.h"
#include "reduce.h"
#include "tensor.h"

namespace poolkit {

// Memory that a thread keeps from call to call: to ask the allocator takes as long as to pool a
// tiny tensor.
class ThreadMemory {
 public:
  struct Piece {
    void* data = nullptr;
    size_t bytes = 0;
  };

  static Piece take(size_t bytes) {
    for (Piece& piece : kept().pieces)
      if (piece.bytes >= bytes) return std::exchange(piece, Piece());
    bytes = std::bit_ceil(std::max<size_t>(bytes, 4096));
    return {::operator new(bytes, kAlign), bytes};
  }
  static void give(Piece piece) {
    if (piece.bytes <= kMost)
      for (Piece& other : kept().pieces)
        if (other.bytes < piece.bytes) std::swap(other, piece);  // the largest stay
    release(piece);
  }

 private:
  static constexpr std::align_val_t kAlign{64};
  static constexpr size_t kMost = 1 << 20;

  struct Kept {
    Piece pieces[6];
    ~Kept() {
      for (const Piece& piece : pieces) release(piece);
    }
  };
  static Kept& kept() {
    thread_local Kept pieces;
    return pieces;
  }
  static void release(const Piece& piece) {
    if (piece.data) ::operator delete(piece.data, kAlign);
  }
};

// Memory for vectors: aligned, and not cleared.
template <class V>
class Buffer {
 public:
  explicit Buffer(int64_t n = 0) { reserve(n); }
  ~Buffer() { ThreadMemory::give(piece_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  V* reserve(int64_t n) {
    const size_t bytes = size_t(n) * sizeof(V);
    if (bytes > piece_.bytes) {
      ThreadMemory::give(std::exchange(piece_, ThreadMemory::Piece()));
      piece_ = ThreadMemory::take(bytes);
    }
    return get();
  }
  V* get() const { return static_cast<V*>(piece_.data); }

 private:
  ThreadMemory::Piece piece_;
};

template <>
class Buffer<NoOffset> {
 public:
  explicit Buffer(int64_t = 0) {}
  NoOffset* reserve(int64_t) { return nullptr; }
  NoOffset* get() const { return nullptr; }
};

// ---- reading and writing vectors of another type ----

// The forms of a half type: its key (int16_t), an integer that is ordered as the numbers are, or
// its value (float).
inline Vec<int16_t> flip_key(const Vec<int16_t>& bits) {  // its own inverse
  return bits ^ ((bits >> 15) & 0x7fff);
}

// One value of T as V, and whether plain comparisons will not do for it.
template <class V, class T>
V convert(T v) {
  if constexpr (is_half<T> && std::is_same_v<V, int16_t>)
    return V(int16_t(v) ^ ((int16_t(v) >> 15) & 0x7fff));
  else if constexpr (is_half<T>)
    return widen(v);
  else
    return V(v);
}

template <class V, class T>
bool is_special(T v) {
  if constexpr (is_half<T> && std::is_same_v<V, int16_t>)
    return is_nan(v) || int16_t(v) == int16_t(-0x8000);
  else
    return is_nan(v);
}

template <class V>
using Special = decltype(Vec<V>{} != Vec<V>{});

// kLanes<V> values of T as V. Sets the sign of lanes of `special`: by comparisons, for loops that
// stream through memory (Masks), or by fewer instructions.
template <class V, bool Masks = false, class T>
[[gnu::always_inline]] inline Vec<V> read(const T* p, Special<V>& special) {
  if constexpr (is_half<T> && std::is_same_v<V, int16_t>) {
    Vec<int16_t> bits;
    std::memcpy(&bits, p, sizeof(bits));
    const Vec<int16_t> magnitude = bits & 0x7fff;
    if constexpr (Masks)
      special |= (magnitude > kInfinity<T>) | (bits == int16_t(-0x8000));
    else  // one difference is negative for NaN; so is the other, and the number, for -0
      special |= (kInfinity<T> - magnitude) | ((magnitude - 1) & bits);
    return flip_key(bits);
  } else {
    const Vec<V> v = load_as<V>(p);
    if constexpr (std::is_floating_point_v<V>) special |= v != v;
    return v;
  }
}

// Whether values of type T are compared as keys.
template <class V, class T>
constexpr bool kKeys = is_half<T> && std::is_same_v<V, int16_t>;

// The keys of half types, watched by all that was read: -0 has the least bits of all numbers, and
// the magnitude of a NaN is beyond infinity. That is two instructions a cell, not five.
struct SeenKeys {
  Vec<int16_t> least{}, most{};

  template <class T>
  [[gnu::always_inline]] Vec<int16_t> read(const T* p) {
    Vec<int16_t> bits;
    std::memcpy(&bits, p, sizeof(bits));
    least = lesser(bits, least);
    most = greater<int16_t>(bits & 0x7fff, most);
    return flip_key(bits);
  }
  // Negative where a lane saw one.
  template <class T>
  Special<int16_t> lanes() const {
    return (least == int16_t(-0x8000)) | (most > kInfinity<T>);
  }
};

// What watches cells of type T that are compared as V, several together.
template <class V, class T>
struct WatchedCells : Watch<V> {
  std::conditional_t<kKeys<V, T>, SeenKeys, NoOffset> keys{};

  bool any() {
    if constexpr (kKeys<V, T>) this->lanes() |= keys.template lanes<T>();
    return Watch<V>::any();
  }
  [[gnu::always_inline]] void join(const WatchedCells& other) {
    Watch<V>::join(other);
    if constexpr (kKeys<V, T>) {
      keys.least = lesser(keys.least, other.keys.least);
      keys.most = greater<int16_t>(keys.most, other.keys.most);
    }
  }
};

// The way back.
template <class T, class V>
T convert_back(V v) {
  if constexpr (is_half<T> && std::is_same_v<V, int16_t>)
    return T(convert<int16_t>(T(v)));
  else if constexpr (is_half<T>)
    return narrow<T>(v);
  else
    return T(v);
}

template <class T, class V>
[[gnu::always_inline]] inline void write(T* p, const Vec<V>& v) {
  if constexpr (is_half<T> && std::is_same_v<V, int16_t>) {
    const Vec<int16_t> bits = flip_key(v);
    std::memcpy(p, &bits, sizeof(bits));
  } else {
    store_as<T, V>(p, v);
  }
}

// The first n lanes.
template <class T, class V>
void write_some(T* p, const Vec<V>& v, int64_t n) {
  T some[kLanes<V>];
  write<T, V>(some, v);
  std::memcpy(p, some, size_t(n) * sizeof(T));
}

// The first n lanes, as cells that are `step` apart.
template <class T, class V>
[[gnu::always_inline]] inline void store_cells(T* p, int64_t step, const Vec<V>& v, int n) {
  if (step == 1 && n == kLanes<V>)
    write<T, V>(p, v);
  else if (step == 1)
    write_some<T, V>(p, v, n);
  else
    for (int k = 0; k < n; ++k) p[k * step] = convert_back<T, V>(v[k]);
}

// Where offsets go: uint8 (SmallOffset), or uint16, int32 and int64 tensors.
struct Offsets {
  void* data = nullptr;
  ScalarType type = ScalarType::Byte;

  // Stores a vector of taps.
  template <class Offset, class L>
  void put(int64_t at, const Vec<L>& taps) const {
    as<Offset>([&]<class O>(O* offsets) { store_as<O, L>(offsets + at, taps); });
  }

  // Calls f with the pointer in its own type.
  template <class Offset, class F>
  void as(const F& f) const {
    const auto go = [&]<class O>() { f(static_cast<O*>(data)); };
    if constexpr (std::is_same_v<Offset, SmallOffset>)
      go.template operator()<uint8_t>();
    else
      dispatch_offsets(type, go);
  }
};

}  // namespace poolkit
