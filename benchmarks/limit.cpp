// The limit: read the case's input bytes once, write its output bytes once, do nothing else.
//
// Both buffers are cut into the same number of units, so that a thread always reads and writes side
// by side, as a pooling kernel does. What is stored depends on what was read, and a checksum leaves
// the function, so that no compiler may drop a load. The caller passes torch's own parallel_for:
// a second pool of threads would fight with torch's, which keep spinning after their work.
//
// Compiled by limit.py at first use with -O3 -march=native; the inner loops become vector loops.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t unit_bytes = 4096;        // of the larger buffer
constexpr int64_t bytes_per_thread = 65536; // less is not worth waking a thread
constexpr int64_t lanes = 32;               // 64-bit sums side by side: four registers of 512 bits
constexpr int64_t line = lanes * sizeof(uint64_t);

using Range = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain, Range, void* context);

struct Stream {
  const char* in;
  int64_t in_bytes;
  char* out;
  int64_t out_bytes;
  int64_t units;
  std::atomic<uint64_t> sink{0};

  // First byte of a unit: a multiple of the line, save for the end of the buffer.
  int64_t cut(int64_t bytes, int64_t unit) const {
    return unit == units ? bytes : bytes * unit / units / line * line;
  }
};

void stream(int64_t begin, int64_t end, void* context) {
  auto& s = *static_cast<Stream*>(context);
  uint64_t sums[lanes] = {};
  for (int64_t unit = begin; unit < end; ++unit) {
    const char* in = s.in + s.cut(s.in_bytes, unit);
    const char* in_end = s.in + s.cut(s.in_bytes, unit + 1);
    for (; in + line <= in_end; in += line) {
      uint64_t values[lanes];
      std::memcpy(values, in, line);
      for (int64_t i = 0; i < lanes; ++i) sums[i] += values[i];
    }
    for (; in < in_end; ++in) sums[0] += static_cast<unsigned char>(*in);

    char* out = s.out + s.cut(s.out_bytes, unit);
    char* out_end = s.out + s.cut(s.out_bytes, unit + 1);
    for (; out + line <= out_end; out += line) std::memcpy(out, sums, line);
    std::memcpy(out, sums, out_end - out);
  }
  uint64_t sum = 0;
  for (uint64_t lane : sums) sum += lane;
  s.sink += sum;
}

}  // namespace

extern "C" uint64_t poolkit_limit(const void* in, int64_t in_bytes, void* out, int64_t out_bytes,
                                  void* parallel_for) {
  const int64_t larger = std::max<int64_t>(std::max(in_bytes, out_bytes), 1);
  Stream s{static_cast<const char*>(in), in_bytes, static_cast<char*>(out), out_bytes,
           (larger + unit_bytes - 1) / unit_bytes};
  const int64_t unit_traffic = (in_bytes + out_bytes) / s.units + 1;
  const int64_t grain = std::max<int64_t>(bytes_per_thread / unit_traffic, 1);
  reinterpret_cast<ParallelFor>(parallel_for)(0, s.units, grain, stream, &s);
  return s.sink;
}
