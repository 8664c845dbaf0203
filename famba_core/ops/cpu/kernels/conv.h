// SiLU of the causal depthwise convolution of each direction: forward and backward.

#pragma once

#include "vector.h"

namespace {

constexpr int TAPS = 4;

// Sizes and strides, in elements. x [B, L, E] has the stride `x_row` between tokens; the output and its gradient
// [B, L, G, E] have `row` between tokens and `group` between directions.
struct Conv {
    long batch, length, groups, width, x_row, row, group;
    const unsigned char* reverse;
    int threads;

    long time(long g, long i) const { return reverse[g] ? length - 1 - i : i; }
};

// The taps of one direction for 16 channels, and the last TAPS inputs.
struct Window {
    Vec w[TAPS], bias, x[TAPS] = {};

    Window(const Conv& s, const float* weight, const float* offset, long g, long e, int lanes) {
        for (int k = 0; k < TAPS; ++k) w[k] = load(weight + (g * TAPS + k) * s.width + e, lanes);
        bias = load(offset + g * s.width + e, lanes);
    }

    Vec next(Vec input) {
        for (int k = 0; k < TAPS - 1; ++k) x[k] = x[k + 1];
        x[TAPS - 1] = input;
        Vec out = bias;
        for (int k = 0; k < TAPS; ++k) out += w[k] * x[k];
        return out;
    }
};

// weight [G, TAPS, E], bias [G, E]
template <class T>
void conv_forward(const Conv& s, const T* x, const float* weight, const float* bias, T* out) {
    const long columns = (s.width + LANES - 1) / LANES;
#pragma omp parallel for num_threads(s.threads) collapse(2)
    for (long image = 0; image < s.batch; ++image)
        for (long column = 0; column < columns; ++column) {
            const long e = column * LANES;
            const int lanes = lanes_at(e, s.width);
            for (long g = 0; g < s.groups; ++g) {
                Window window(s, weight, bias, g, e, lanes);
                for (long i = 0; i < s.length; ++i) {
                    const long t = image * s.length + s.time(g, i);
                    const Vec v = window.next(load(x + t * s.x_row + e, lanes));
                    store(out + t * s.row + g * s.group + e, v * sigmoid(v), lanes);
                }
            }
        }
}

// grad_x has the strides of x and is the sum over the directions. grad_parameters [B, G, TAPS + 1, E], bias last, are
// separate for each image.
template <class T>
void conv_backward(const Conv& s, const T* x, const float* weight, const float* bias, const T* grad_out, T* grad_x,
                   float* grad_parameters) {
    const long columns = (s.width + LANES - 1) / LANES;
#pragma omp parallel for num_threads(s.threads) collapse(2)
    for (long image = 0; image < s.batch; ++image)
        for (long column = 0; column < columns; ++column) {
            const long e = column * LANES;
            const int lanes = lanes_at(e, s.width);
            Vec* total = scratch(s.length);
            for (long g = 0; g < s.groups; ++g) {
                Window window(s, weight, bias, g, e, lanes);
                Vec grad_w[TAPS] = {}, grad_bias = {}, recent[TAPS] = {};
                for (long i = 0; i < s.length + TAPS - 1; ++i) {
                    Vec grad = {};
                    if (i < s.length) {
                        const long t = image * s.length + s.time(g, i);
                        const Vec v = window.next(load(x + t * s.x_row + e, lanes)), q = sigmoid(v);
                        grad = load(grad_out + t * s.row + g * s.group + e, lanes) * q * (1.0f + v * (1.0f - q));
                        grad_bias += grad;
                        for (int k = 0; k < TAPS; ++k) grad_w[k] += grad * window.x[k];
                    }
                    // an input contributes to its own output and the next TAPS - 1
                    for (int k = 0; k < TAPS - 1; ++k) recent[k] = recent[k + 1];
                    recent[TAPS - 1] = grad;
                    if (i < TAPS - 1) continue;
                    Vec grad_input = {};
                    for (int k = 0; k < TAPS; ++k) grad_input += recent[TAPS - 1 - k] * window.w[k];
                    Vec& sum = total[s.time(g, i - (TAPS - 1))];
                    sum = g == 0 ? grad_input : sum + grad_input;
                }
                float* parameters = grad_parameters + (image * s.groups + g) * (TAPS + 1) * s.width + e;
                for (int k = 0; k < TAPS; ++k) store(parameters + k * s.width, grad_w[k], lanes);
                store(parameters + TAPS * s.width, grad_bias, lanes);
            }
            for (long i = 0; i < s.length; ++i)
                store(grad_x + (image * s.length + i) * s.x_row + e, total[i], lanes);
        }
}

}  // namespace
