// RMSNorm and the merge of fused tokens after it: forward and backward.

#pragma once

#include <cmath>

#include "vector.h"

namespace {

// Token t of `length` is added to token target[t] of `merged` with weight share[t]; without targets, every token stays.
struct Merge {
    long batch, length, merged, width;
    const long* target;
    const float* share;
    int threads;

    long to(long image, long t) const { return image * merged + (target ? target[image * length + t] : t); }
    float weight(long image, long t) const { return target ? share[image * length + t] : 1.0f; }
};

// 1 / sqrt(mean(x^2) + eps)
inline float inverse_rms(const float* x, long width, float eps) {
    return 1.0f / std::sqrt(sum_of_squares(x, width) / width + eps);
}

// out [B, merged, D]: over the tokens with this target, the sum of share x, or with a weight, of share norm(x) weight.
template <class T>
void merge_rows(const Merge& s, const float* x, const float* weight, float eps, T* out) {
#pragma omp parallel for num_threads(s.threads)
    for (long image = 0; image < s.batch; ++image) {
        const long columns = (s.width + LANES - 1) / LANES;
        Vec* sums = s.target ? scratch(s.merged * columns) : nullptr;
        if (sums) std::memset(sums, 0, s.merged * columns * sizeof(Vec));
        for (long t = 0; t < s.length; ++t) {
            const float* row = x + (image * s.length + t) * s.width;
            const float scale = s.weight(image, t) * (weight ? inverse_rms(row, s.width, eps) : 1.0f);
            const long to = s.to(image, t);
            for (long column = 0; column < columns; ++column) {
                const long e = column * LANES;
                const int lanes = lanes_at(e, s.width);
                const Vec v = load(row + e, lanes) * scale * (weight ? load(weight + e, lanes) : Vec{} + 1.0f);
                if (sums) sums[(to - image * s.merged) * columns + column] += v;
                else store(out + to * s.width + e, v, lanes);
            }
        }
        if (!sums) continue;
        for (long t = 0; t < s.merged; ++t)
            for (long column = 0; column < columns; ++column)
                store(out + (image * s.merged + t) * s.width + column * LANES, sums[t * columns + column],
                      lanes_at(column * LANES, s.width));
    }
}

// grad_x is the gradient through both merged outputs: x itself (grad_skip) and norm(x) weight (grad_hidden).
// grad_weight [B, D] is separate for each image.
template <class T>
void norm_backward(const Merge& s, const float* x, const float* weight, float eps, const T* grad_hidden,
                   const float* grad_skip, float* grad_x, float* grad_weight) {
#pragma omp parallel for num_threads(s.threads)
    for (long image = 0; image < s.batch; ++image) {
        const long columns = (s.width + LANES - 1) / LANES;
        Vec* grad_w = scratch(columns);
        std::memset(grad_w, 0, columns * sizeof(Vec));
        for (long t = 0; t < s.length; ++t) {
            const float* row = x + (image * s.length + t) * s.width;
            const float inverse = inverse_rms(row, s.width, eps), share = s.weight(image, t);
            const long from = s.to(image, t) * s.width;
            Vec along = {};  // component of the gradient along the row, which the norm removes
            for (long column = 0; column < columns; ++column) {
                const long e = column * LANES;
                const int lanes = lanes_at(e, s.width);
                const Vec g = share * load(grad_hidden + from + e, lanes) * load(row + e, lanes) * inverse;
                grad_w[column] += g;
                along += g * load(weight + e, lanes);
            }
            const float mean = sum(along) / s.width;
            for (long column = 0; column < columns; ++column) {
                const long e = column * LANES;
                const int lanes = lanes_at(e, s.width);
                const Vec g = share * load(grad_hidden + from + e, lanes) * load(weight + e, lanes);
                const Vec through_norm = inverse * (g - load(row + e, lanes) * inverse * mean);
                store(grad_x + (image * s.length + t) * s.width + e,
                      share * load(grad_skip + from + e, lanes) + through_norm, lanes);
            }
        }
        for (long column = 0; column < columns; ++column)
            store(grad_weight + image * s.width + column * LANES, grad_w[column], lanes_at(column * LANES, s.width));
    }
}

}  // namespace
