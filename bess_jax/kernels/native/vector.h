// Vectors of floats and what formulas do with them. W, the number of lanes, follows from the compiler's flags.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define BESS_INLINE __attribute__((always_inline)) inline
#if defined(__clang__)
#define BESS_UNROLL _Pragma("unroll")
#else
#define BESS_UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
constexpr int N_REGISTER = W == 16 ? 32 : 16;

typedef float V __attribute__((vector_size(4 * W)));
typedef int32_t I __attribute__((vector_size(4 * W)));  // also of booleans: -1 is true

BESS_INLINE V splat(float x) { return x - V{}; }  // not x + V{}, which would turn -0 into 0
BESS_INLINE I splat(int32_t x) { return x - I{}; }

BESS_INLINE V load(const float* p) {
  V x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
BESS_INLINE void store(float* p, V x) { std::memcpy(p, &x, sizeof x); }

template <class F>
BESS_INLINE V lanes(F f, V x) {
  for (int i = 0; i < W; i++) x[i] = f(x[i]);
  return x;
}

BESS_INLINE V abs_of(V x) { return (V)((I)x & 0x7fffffff); }
BESS_INLINE I abs_of(I x) { return x < 0 ? -x : x; }

// The x86 instructions for V: a < b ? a : b, a > b ? a : b, and the square root, of which the first estimates are good
// to 12 bits.
#if defined(__AVX512F__)
BESS_INLINE V lesser(V a, V b) { return (V)_mm512_min_ps((__m512)a, (__m512)b); }
BESS_INLINE V greater(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }
BESS_INLINE V sqrt_of(V x) { return (V)_mm512_sqrt_ps((__m512)x); }
BESS_INLINE V rsqrt_roughly(V x) { return (V)_mm512_rsqrt14_ps((__m512)x); }
#elif defined(__AVX2__)
BESS_INLINE V lesser(V a, V b) { return (V)_mm256_min_ps((__m256)a, (__m256)b); }
BESS_INLINE V greater(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
BESS_INLINE V sqrt_of(V x) { return (V)_mm256_sqrt_ps((__m256)x); }
BESS_INLINE V rsqrt_roughly(V x) { return (V)_mm256_rsqrt_ps((__m256)x); }
#elif defined(__SSE2__)
BESS_INLINE V lesser(V a, V b) { return (V)_mm_min_ps((__m128)a, (__m128)b); }
BESS_INLINE V greater(V a, V b) { return (V)_mm_max_ps((__m128)a, (__m128)b); }
BESS_INLINE V sqrt_of(V x) { return (V)_mm_sqrt_ps((__m128)x); }
#else
BESS_INLINE V lesser(V a, V b) { return a < b ? a : b; }
BESS_INLINE V greater(V a, V b) { return a > b ? a : b; }
BESS_INLINE V sqrt_of(V x) { return lanes([](float y) { return std::sqrt(y); }, x); }
#endif

// Of two numbers; NaN if one is. The first one may be a constant, for which the question is settled early.
BESS_INLINE V max_of(V a, V b) { return a != a ? a : greater(a, b); }
BESS_INLINE V min_of(V a, V b) { return a != a ? a : lesser(a, b); }
BESS_INLINE I max_of(I a, I b) { return a > b ? a : b; }
BESS_INLINE I min_of(I a, I b) { return a < b ? a : b; }

BESS_INLINE V sign_of(V x) { return x > 0.0f ? splat(1.0f) : (x < 0.0f ? splat(-1.0f) : x); }
BESS_INLINE I sign_of(I x) { return (x < 0) - (x > 0); }

// 1, which the compiler does not know to be 1, where it costs less to add x * 1 than x.
BESS_INLINE V opaque_one() {
  V one = splat(1.0f);
#if defined(__FMA__)
  asm("" : "+x"(one));
#endif
  return one;
}

#if defined(__AVX2__)
// From an estimate r of x^-1/2 by a series in e = 1 - x r^2, good to 1.5 units in the last place, in less time than a root
// and a quotient take. Where x is 0 or infinite, the series gives NaN and r + r counts; elsewhere that is larger.
BESS_INLINE V rsqrt_of(V x) {
  const V r = rsqrt_roughly(x), e = 1.0f - x * r * r;
  return lesser(r + r * e * (0.5f + 0.375f * e), r + r);
}
#else
BESS_INLINE V rsqrt_of(V x) { return 1.0f / sqrt_of(x); }
#endif

#define BESS_BY_LANE(name) \
  BESS_INLINE V name##_of(V x) { return lanes([](float y) { return std::name(y); }, x); }
BESS_BY_LANE(exp)
BESS_BY_LANE(exp2)
BESS_BY_LANE(expm1)
BESS_BY_LANE(log)
BESS_BY_LANE(log1p)
BESS_BY_LANE(tanh)
BESS_BY_LANE(sin)
BESS_BY_LANE(cos)
BESS_BY_LANE(floor)
BESS_BY_LANE(ceil)
#undef BESS_BY_LANE
BESS_INLINE V pow_of(V x, V y) {
  for (int i = 0; i < W; i++) x[i] = std::pow(x[i], y[i]);
  return x;
}
