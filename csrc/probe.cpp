// Which of our libraries this processor runs best. Compiled for the oldest processor and free of
// torch, so that it can be loaded and asked before any other library is.

extern "C" __attribute__((visibility("default"))) const char* poolkit_best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // Feature by feature, because clang learnt the name "x86-64-v4" only in release 18 and gcc in 12.
  // Every processor with these four also has the rest of its level (F16C, LZCNT, MOVBE).
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (v4) return "v4";
  if (v3) return "v3";
#endif
  return "baseline";
}
