// Vectors of 16 floats, stored as float or bfloat16, and their functions.

#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;
typedef float Vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int IntVec __attribute__((vector_size(LANES * sizeof(int))));
typedef uint16_t HalfVec __attribute__((vector_size(LANES * sizeof(uint16_t))));

struct bfloat16 {
    uint16_t bits;
};

inline Vec widen(HalfVec bits) { return (Vec)(__builtin_convertvector(bits, IntVec) << 16); }

inline HalfVec narrow(Vec v) {
#ifdef __AVX512BF16__
    return (HalfVec)_mm512_cvtneps_pbh((__m512)v);
#else
    const IntVec bits = (IntVec)v, odd = (bits >> 16) & 1;  // to the nearest, ties to even
    const IntVec rounded = v == v ? (bits + 0x7fff + odd) >> 16 : IntVec{} + 0x7fc0;
    return __builtin_convertvector(rounded, HalfVec);
#endif
}

inline Vec load(const float* from, int lanes) {
    Vec v = {};
    if (lanes == LANES) std::memcpy(&v, from, sizeof v);
    else std::memcpy(&v, from, lanes * sizeof(float));
    return v;
}

inline Vec load(const bfloat16* from, int lanes) {
    HalfVec v = {};
    if (lanes == LANES) std::memcpy(&v, from, sizeof v);
    else std::memcpy(&v, from, lanes * sizeof(bfloat16));
    return widen(v);
}

inline void store(float* to, Vec v, int lanes) {
    if (lanes == LANES) std::memcpy(to, &v, sizeof v);
    else std::memcpy(to, &v, lanes * sizeof(float));
}

inline void store(bfloat16* to, Vec v, int lanes) {
    const HalfVec half = narrow(v);
    if (lanes == LANES) std::memcpy(to, &half, sizeof half);
    else std::memcpy(to, &half, lanes * sizeof(bfloat16));
}

inline float value(float x) { return x; }

inline float value(bfloat16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

inline void set(float* to, float x) { *to = x; }

inline void set(bfloat16* to, float x) {
    const HalfVec half = narrow(Vec{} + x);
    to->bits = half[0];
}

// Number of channels that the vector at e covers in a row of `width`.
inline int lanes_at(long e, long width) { return width - e < LANES ? int(width - e) : LANES; }

inline float sum(Vec v) {
    v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    return v[0];
}

inline float sum_of_squares(const float* row, long width) {
    Vec squares = {};
    for (long e = 0; e < width; e += LANES) {
        const Vec v = load(row + e, lanes_at(e, width));
        squares += v * v;
    }
    return sum(squares);
}

constexpr float LOG2_E = 1.44269504f;

// 2^x = 2^k 2^f with k the nearest integer and a polynomial for 2^f, relative error 1e-7. The polynomial is exact at 0,
// because a step of length zero must not change a state.
inline Vec exp2(Vec x) {
#ifdef __AVX512F__
    const Vec k = (Vec)_mm512_roundscale_ps((__m512)x, 8);
#else
    const Vec lowest = Vec{} - 126.0f, highest = Vec{} + 127.0f;
    x = x < lowest ? lowest : x;
    x = x > highest ? highest : x;
    const Vec shifted = x + 12582912.0f;  // 1.5 * 2^23: the last bits of the sum are the rounded integer
    const Vec k = shifted - 12582912.0f;
#endif
    const Vec f = x - k;
    Vec p = f * 1.32647273e-3f + 9.67151299e-3f;
    p = p * f + 5.55073358e-2f;
    p = p * f + 2.40222424e-1f;
    p = p * f + 6.93147004e-1f;
    p = p * f + 1.0f;
#ifdef __AVX512F__
    return (Vec)_mm512_scalef_ps((__m512)p, (__m512)k);
#else
    return p * (Vec)(((IntVec)shifted - 0x4B400000 + 127) << 23);
#endif
}

// 1 / x of a normal number, relative error 1e-7: an estimate of 14 bits and one Newton step, three times as fast as a
// division.
inline Vec reciprocal(Vec x) {
#ifdef __AVX512F__
    const Vec r = (Vec)_mm512_rcp14_ps((__m512)x);
    return r * (2.0f - x * r);
#else
    return 1.0f / x;
#endif
}

inline Vec sigmoid(Vec x) {
    const Vec exponent = x * -LOG2_E, highest = Vec{} + 126.0f;  // beyond it the result counts as 0
    return reciprocal(1.0f + exp2(exponent < highest ? exponent : highest));
}

// log(1 + exp(x)) = max(x, 0) + z q(z) with z = exp(-|x|) and a polynomial q for log(1 + z) / z. The relative error is
// 1e-7, also for tiny results. z is an output, for softplus_slope.
inline Vec softplus(Vec x, Vec& z) {
    const Vec zero = {};
    z = exp2((x > zero ? x : -x) * -LOG2_E);
    Vec q = z * 5.23268012e-3f - 2.95051876e-2f;
    q = q * z + 7.82258809e-2f;
    q = q * z - 1.36632413e-1f;
    q = q * z + 1.91060051e-1f;
    q = q * z - 2.48429820e-1f;
    q = q * z + 3.33190978e-1f;
    q = q * z - 4.99994934e-1f;
    q = q * z + 9.9999994e-1f;
    return (x > zero ? x : zero) + z * q;
}

// The derivative of softplus, sigmoid(x), from the z of softplus.
inline Vec softplus_slope(Vec x, Vec z) { return (x < Vec{} ? z : Vec{} + 1.0f) * reciprocal(1.0f + z); }

// Memory of this thread, kept between calls: it stays in the cache and needs no new pages.
inline Vec* scratch(size_t vectors) {
    thread_local std::vector<Vec> memory;
    if (memory.size() < vectors) memory.resize(vectors);
    return memory.data();
}

}  // namespace
