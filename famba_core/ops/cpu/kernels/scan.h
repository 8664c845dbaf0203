// The selective scan of all directions of an image, with or without the gate after it: forward and backward.

#pragma once

#include <algorithm>

#include "vector.h"

namespace {

// Sizes and strides, in elements. Tensors like u [B, L, G, E] have the stride `row` between tokens and `group` between
// directions, B and C have `low_row` and `low_group`.
struct Scan {
    long batch, length, groups, width, row, group, low_row, low_group, z_row;
    const unsigned char* reverse;
    int threads;

    // With few images, the channels of each are divided into blocks, so that all threads have work. The division does
    // not depend on the number of threads, so neither do the results.
    long blocks() const { return batch < 16 ? (width + 127) / 128 : 1; }
    long block_width() const { return blocks() == 1 ? width : 128; }
    long token(long image, long g, long i) const { return image * length + (reverse[g] ? length - 1 - i : i); }
};

// Writes B and C of one direction as floats [L, 2, N], in the order of the direction.
template <int N, class T>
void gather_low(const Scan& s, long image, long g, const T* b, const T* c, float* to) {
    for (long i = 0; i < s.length; ++i) {
        const long at = s.token(image, g, i) * s.low_row + g * s.low_group;
        for (int n = 0; n < N; ++n) to[2 * N * i + n] = value(b[at + n]);
        for (int n = 0; n < N; ++n) to[2 * N * i + N + n] = value(c[at + n]);
    }
}

// rate [G, N, E], skip and bias [G, E]. With a gate z [B, L, E], out [B, L, E] is the mean of the directions times
// SiLU(z); without one, it has the shape and the strides of u.
template <int N, class T>
void scan_forward(const Scan& s, const T* u, const T* delta, const float* rate, const T* b, const T* c,
                  const float* skip, const float* bias, const T* z, T* out) {
    const long blocks = s.blocks(), block_width = s.block_width();
#pragma omp parallel for num_threads(s.threads) collapse(2)
    for (long image = 0; image < s.batch; ++image)
        for (long block = 0; block < blocks; ++block) {
            const size_t low_floats = 2 * N * s.length;
            Vec* total = scratch(s.length + (s.groups * low_floats + LANES - 1) / LANES);
            float* low = (float*)(total + s.length);
            for (long g = 0; g < s.groups; ++g) gather_low<N>(s, image, g, b, c, low + g * low_floats);
            const long first = block * block_width, last = std::min(first + block_width, s.width);
            for (long e = first; e < last; e += LANES) {
                const int lanes = lanes_at(e, s.width);
                for (long g = 0; g < s.groups; ++g) {
                    Vec h[N] = {}, a[N];
                    for (int n = 0; n < N; ++n) a[n] = LOG2_E * load(rate + (g * N + n) * s.width + e, lanes);
                    const Vec d = load(skip + g * s.width + e, lanes), offset = load(bias + g * s.width + e, lanes);
                    const float* low_i = low + g * low_floats;
                    for (long i = 0; i < s.length; ++i, low_i += 2 * N) {
                        const long t = s.token(image, g, i), at = t * s.row + g * s.group + e;
                        Vec unused;
                        const Vec x = load(u + at, lanes), dt = softplus(load(delta + at, lanes) + offset, unused);
                        const Vec dx = dt * x;
                        Vec y = d * x;
                        for (int n = 0; n < N; ++n) {
                            h[n] = exp2(dt * a[n]) * h[n] + dx * low_i[n];
                            y += h[n] * low_i[N + n];
                        }
                        Vec& sum = total[t - image * s.length];
                        if (!z) store(out + at, y, lanes);
                        else sum = g == 0 ? y : sum + y;
                    }
                }
                if (!z) continue;
                for (long i = 0; i < s.length; ++i) {
                    const long t = image * s.length + i;
                    const Vec gate = load(z + t * s.z_row + e, lanes);
                    store(out + t * s.width + e, total[i] * (1.0f / s.groups) * gate * sigmoid(gate), lanes);
                }
            }
        }
}

template <class T>
struct ScanGradients {
    T *gated, *u, *delta;  // gated [B, L, E]: the output of scan_forward again, for the projection after it
    float* parameters;     // [B, G, N + 2, E]: of A, D and the bias, separate for each image
    float* low_blocks;     // [B, blocks, G, L, 2, N]: of B and C, summed to b and c
    T *b, *c;              // with the strides of B and C
    T* z;                  // with the strides of z
};

// One step of 16 channels of one direction.
struct Step {
    Vec dt, slope, dx, gy, y, gdx, gdt;
};

// Computes TILE states of all steps again, as many as fit in the registers; `low` starts at the first of them.
template <int N, int TILE>
void tile_forward(long length, const Vec* a, const float* low, Step* steps, Vec* decay, Vec* state) {
    Vec h[TILE] = {};
    for (long i = 0; i < length; ++i, low += 2 * N, decay += TILE, state += TILE) {
        const Vec dt = steps[i].dt, dx = steps[i].dx;
        Vec y = steps[i].y;
#pragma GCC unroll 8
        for (int k = 0; k < TILE; ++k) {
            const Vec w = exp2(dt * a[k]);
            h[k] = w * h[k] + dx * low[k];
            y += h[k] * low[N + k];
            decay[k] = w;
            state[k] = h[k];
        }
        steps[i].y = y;
    }
}

// Replaces the rates in `a` by their gradients.
template <int N, int TILE>
void tile_backward(long length, Vec* a, const float* low, Step* steps, const Vec* decay, const Vec* state, Vec* sums) {
    Vec ga[TILE] = {}, carry[TILE] = {};
    for (long i = length - 1; i >= 0; --i) {
        Step& step = steps[i];
        const Vec dt = step.dt, dx = step.dx, gy = step.gy;
        Vec gdx = step.gdx, gdt = step.gdt;
        const float* low_i = low + 2 * N * i;
        const Vec *decay_i = decay + i * TILE, *state_i = state + i * TILE;
        Vec* sums_i = sums + 2 * N * i;
#pragma GCC unroll 8
        for (int k = 0; k < TILE; ++k) {
            const Vec gh = gy * low_i[N + k] + carry[k];
            sums_i[N + k] += gy * state_i[k];
            sums_i[k] += gh * dx;
            gdx += gh * low_i[k];
            carry[k] = gh * decay_i[k];
            // the first step has no previous state
            const Vec gexp = i > 0 ? carry[k] * state_i[k - TILE] : Vec{};
            gdt += gexp * a[k];
            ga[k] += gexp * dt;
        }
        step.gdx = gdx;
        step.gdt = gdt;
    }
    for (int k = 0; k < TILE; ++k) a[k] = ga[k];
}

// The gradients of B and C are summed over channels in the lanes, and at the end over the lanes.
template <int N, class T>
void scan_backward(const Scan& s, const T* u, const T* delta, const float* rate, const T* b, const T* c,
                   const float* skip, const float* bias, const T* z, const T* grad_out, ScanGradients<T> grad) {
    const long blocks = s.blocks(), block_width = s.block_width(), states = s.length * N;
#pragma omp parallel for num_threads(s.threads) collapse(2)
    for (long image = 0; image < s.batch; ++image)
        for (long block = 0; block < blocks; ++block) {
            const long first = block * block_width, last = std::min(first + block_width, s.width);
            const long columns = (last - first + LANES - 1) / LANES;
            const size_t low_floats = 2 * N * s.length;
            constexpr int TILE = N < 8 ? N : 8;
            const size_t low_vectors = (low_floats + LANES - 1) / LANES, step_vectors = sizeof(Step) / sizeof(Vec);
            Vec* sums = scratch(2 * states + s.length * (2 * TILE + 2 * columns + step_vectors) + low_vectors);
            Vec *decay = sums + 2 * states, *state = decay + s.length * TILE, *gy_of = state + s.length * TILE;
            Vec* y_of = gy_of + columns * s.length;
            Step* steps = (Step*)(y_of + columns * s.length);
            float* low = (float*)(steps + s.length);

            if (z)
                for (long column = 0; column < columns; ++column)
                    for (long i = 0; i < s.length; ++i) {
                        const long t = image * s.length + i, e = first + column * LANES;
                        const int lanes = lanes_at(e, s.width);
                        const Vec gate = load(z + t * s.z_row + e, lanes);
                        gy_of[column * s.length + i] = load(grad_out + t * s.width + e, lanes) * gate * sigmoid(gate) *
                                                       (1.0f / s.groups);
                    }
            for (long g = 0; g < s.groups; ++g) {
                gather_low<N>(s, image, g, b, c, low);
                std::memset(sums, 0, 2 * states * sizeof(Vec));
                for (long column = 0; column < columns; ++column) {
                    const long e = first + column * LANES;
                    const int lanes = lanes_at(e, s.width);
                    const Vec d = load(skip + g * s.width + e, lanes), offset = load(bias + g * s.width + e, lanes);
                    Vec *y_column = y_of + column * s.length, *gy_column = gy_of + column * s.length;
                    for (long i = 0; i < s.length; ++i) {
                        const long t = s.token(image, g, i), at = t * s.row + g * s.group + e;
                        const Vec x = load(u + at, lanes), raw = load(delta + at, lanes) + offset;
                        Vec small;
                        Step& step = steps[i];
                        step.dt = softplus(raw, small);
                        step.slope = softplus_slope(raw, small);
                        step.dx = step.dt * x;
                        step.gy = z ? gy_column[t - image * s.length] : load(grad_out + at, lanes);
                        step.y = d * x;
                        step.gdx = step.gdt = Vec{};
                    }
                    float* parameters = grad.parameters + (image * s.groups + g) * (N + 2) * s.width + e;
                    for (int n = 0; n < N; n += TILE) {
                        Vec a[TILE];
                        for (int k = 0; k < TILE; ++k)
                            a[k] = LOG2_E * load(rate + (g * N + n + k) * s.width + e, lanes);
                        tile_forward<N, TILE>(s.length, a, low + n, steps, decay, state);
                        tile_backward<N, TILE>(s.length, a, low + n, steps, decay, state, sums + n);
                        for (int k = 0; k < TILE; ++k) store(parameters + (n + k) * s.width, a[k], lanes);
                    }
                    Vec gd = {}, goffset = {};
                    for (long i = 0; i < s.length; ++i) {
                        const long t = s.token(image, g, i), at = t * s.row + g * s.group + e;
                        const Step& step = steps[i];
                        const Vec x = load(u + at, lanes);
                        const Vec graw = (step.gdt * (1.0f / LOG2_E) + step.gdx * x) * step.slope;
                        gd += step.gy * x;
                        goffset += graw;
                        store(grad.delta + at, graw, lanes);
                        store(grad.u + at, step.gdx * step.dt + step.gy * d, lanes);
                        Vec& sum = y_column[t - image * s.length];
                        if (z) sum = g == 0 ? step.y : sum + step.y;
                    }
                    store(parameters + N * s.width, gd, lanes);
                    store(parameters + (N + 1) * s.width, goffset, lanes);
                }
                float* low_block = grad.low_blocks + ((image * blocks + block) * s.groups + g) * low_floats;
                for (size_t k = 0; k < low_floats; ++k) low_block[k] = sum(sums[k]);
            }
            if (z)
                for (long column = 0; column < columns; ++column)
                    for (long i = 0; i < s.length; ++i) {
                        const long t = image * s.length + i, e = first + column * LANES;
                        const int lanes = lanes_at(e, s.width);
                        const Vec gate = load(z + t * s.z_row + e, lanes), q = sigmoid(gate);
                        const Vec mean = y_of[column * s.length + i] * (1.0f / s.groups);
                        store(grad.gated + t * s.width + e, mean * gate * q, lanes);
                        const Vec slope = q * (1.0f + gate * (1.0f - q));
                        store(grad.z + t * s.z_row + e, load(grad_out + t * s.width + e, lanes) * mean * slope, lanes);
                    }
        }
#pragma omp parallel for num_threads(s.threads) collapse(2)
    for (long image = 0; image < s.batch; ++image)
        for (long g = 0; g < s.groups; ++g)
            for (long i = 0; i < s.length; ++i) {
                const long at = s.token(image, g, i) * s.low_row + g * s.low_group;
                for (int n = 0; n < 2 * N; ++n) {
                    float total = 0;
                    for (long block = 0; block < blocks; ++block)
                        total += grad.low_blocks[(((image * blocks + block) * s.groups + g) * s.length + i) * 2 * N +
                                                 n];
                    set(n < N ? grad.b + at + n : grad.c + at + n - N, total);
                }
            }
}

}  // namespace
