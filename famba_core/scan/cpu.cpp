// The causal convolution with SiLU and the selective scan, forward and backward, for the CPU.
//
// Plain C functions over contiguous float32 arrays, so that no header of torch is needed to build them. Tensors are
// [B, L, G, E]: B images, L tokens, G directions over the same sequence, E channels, channels last. One task is one
// image in one direction, so every sum has one order, whatever the number of threads. 16 channels share a vector, and
// the states of a channel stay in registers; a direction that runs backwards is walked by index.

#include <cstring>

namespace {

constexpr int LANES = 16;
typedef float Vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int IntVec __attribute__((vector_size(LANES * sizeof(int))));

inline Vec load(const float* from, int lanes) {
    Vec v = {};
    if (lanes == LANES) std::memcpy(&v, from, sizeof v);
    else std::memcpy(&v, from, lanes * sizeof(float));
    return v;
}

inline void store(float* to, Vec v, int lanes) {
    if (lanes == LANES) std::memcpy(to, &v, sizeof v);
    else std::memcpy(to, &v, lanes * sizeof(float));
}

inline float sum(Vec v) {
    float total = 0;
    for (int i = 0; i < LANES; ++i) total += v[i];
    return total;
}

// exp(x) = 2^k exp(f), k the nearest whole number to x / ln 2, and a polynomial for exp(f), good to 2e-7. x is held
// within -87 and 88, where neither 2^k nor the result leaves the normal numbers.
inline Vec exp(Vec x) {
    const Vec lowest = Vec{} - 87.0f, highest = Vec{} + 88.0f;
    x = x < lowest ? lowest : x;
    x = x > highest ? highest : x;
    const Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's last bits are the rounded integer
    const Vec k = shifted - 12582912.0f;
    const Vec f = x - k * 0.693359375f + k * 2.12194440e-4f;
    Vec p = f * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    const IntVec bits = ((IntVec)shifted - 0x4B400000 + 127) << 23;
    return p * (Vec)bits;
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

// log(1 + exp(x)) = max(x, 0) + 2 artanh(z / (2 + z)) with z = exp(-|x|), by the first terms of artanh's series: to
// 1e-7 of the result even where that is tiny. `slope` becomes the derivative, sigmoid(x).
inline Vec softplus(Vec x, Vec& slope) {
    const Vec zero = {};
    const Vec z = exp(x < zero ? x : -x), s = z / (2.0f + z), q = s * s;
    Vec p = q * (1.0f / 13.0f) + 1.0f / 11.0f;
    p = p * q + 1.0f / 9.0f;
    p = p * q + 1.0f / 7.0f;
    p = p * q + 1.0f / 5.0f;
    p = p * q + 1.0f / 3.0f;
    p = p * q + 1.0f;
    slope = (x < zero ? z : zero + 1.0f) / (1.0f + z);
    return (x > zero ? x : zero) + 2.0f * s * p;
}

inline Vec softplus(Vec x) {
    Vec slope;
    return softplus(x, slope);
}

struct Shape {
    long batch, length, groups, width, states;
};

template <int N>
void scan_forward(Shape s, const float* u, const float* delta, const float* rate, const float* b, const float* c,
                  const float* skip, const float* bias, const unsigned char* reverse, float* y, int threads) {
    const long step = s.groups * s.width, step_n = s.groups * N;
#pragma omp parallel for num_threads(threads) collapse(2)
    for (long image = 0; image < s.batch; ++image)
        for (long g = 0; g < s.groups; ++g)
            for (long e = 0; e < s.width; e += LANES) {
                const int lanes = s.width - e < LANES ? int(s.width - e) : LANES;
                Vec h[N] = {}, a[N];
                for (int n = 0; n < N; ++n) a[n] = load(rate + (g * N + n) * s.width + e, lanes);
                const Vec d = load(skip + g * s.width + e, lanes), offset = load(bias + g * s.width + e, lanes);
                for (long i = 0; i < s.length; ++i) {
                    const long t = image * s.length + (reverse[g] ? s.length - 1 - i : i);
                    const long at = t * step + g * s.width + e, at_n = t * step_n + g * N;
                    const Vec x = load(u + at, lanes), dt = softplus(load(delta + at, lanes) + offset), dx = dt * x;
                    Vec out = d * x;
                    for (int n = 0; n < N; ++n) {
                        h[n] = exp(dt * a[n]) * h[n] + dx * b[at_n + n];
                        out += h[n] * c[at_n + n];
                    }
                    store(y + at, out, lanes);
                }
            }
}

// Gradients of B and C are summed over the channels in lanes and once across them; those of A, D and the bias are left
// per image. `work` holds, for each thread and token, the step and its slope, 2 N of decays and states, 2 N of gradients.
template <int N>
void scan_backward(Shape s, const float* u, const float* delta, const float* rate, const float* b, const float* c,
                   const float* skip, const float* bias, const unsigned char* reverse, const float* gy, float* gu,
                   float* gdelta, float* grate, float* gb, float* gc, float* gskip, float* gbias, Vec* work,
                   int threads) {
    const long step = s.groups * s.width, step_n = s.groups * N, tokens = s.length * N;
#pragma omp parallel num_threads(threads)
    {
        Vec* mine = nullptr;
#pragma omp critical
        {
            mine = work;
            work += 4 * tokens + 2 * s.length;
        }
        Vec *decay = mine, *state = mine + tokens, *sum_b = mine + 2 * tokens, *sum_c = mine + 3 * tokens;
        Vec *step_of = mine + 4 * tokens, *slope_of = step_of + s.length;
#pragma omp for collapse(2)
        for (long image = 0; image < s.batch; ++image)
            for (long g = 0; g < s.groups; ++g) {
                std::memset(sum_b, 0, 2 * tokens * sizeof(Vec));
                for (long e = 0; e < s.width; e += LANES) {
                    const int lanes = s.width - e < LANES ? int(s.width - e) : LANES;
                    Vec h[N] = {}, a[N], ga[N] = {}, carry[N] = {}, gd = {}, goffset = {};
                    for (int n = 0; n < N; ++n) a[n] = load(rate + (g * N + n) * s.width + e, lanes);
                    const Vec d = load(skip + g * s.width + e, lanes), offset = load(bias + g * s.width + e, lanes);
                    for (long i = 0; i < s.length; ++i) {
                        const long t = image * s.length + (reverse[g] ? s.length - 1 - i : i);
                        const long at = t * step + g * s.width + e, at_n = t * step_n + g * N;
                        const Vec dt = step_of[i] = softplus(load(delta + at, lanes) + offset, slope_of[i]);
                        const Vec dx = dt * load(u + at, lanes);
                        for (int n = 0; n < N; ++n) {
                            const Vec w = exp(dt * a[n]);
                            h[n] = w * h[n] + dx * b[at_n + n];
                            decay[i * N + n] = w;
                            state[i * N + n] = h[n];
                        }
                    }
                    for (long i = s.length - 1; i >= 0; --i) {
                        const long t = image * s.length + (reverse[g] ? s.length - 1 - i : i);
                        const long at = t * step + g * s.width + e, at_n = t * step_n + g * N;
                        const Vec x = load(u + at, lanes), dt = step_of[i], dx = dt * x, grad = load(gy + at, lanes);
                        Vec gdx = {}, gdt = {};
                        for (int n = 0; n < N; ++n) {
                            const Vec gh = grad * c[at_n + n] + carry[n];
                            sum_c[i * N + n] += grad * state[i * N + n];
                            sum_b[i * N + n] += gh * dx;
                            gdx += gh * b[at_n + n];
                            carry[n] = gh * decay[i * N + n];
                            const Vec gexp = i > 0 ? carry[n] * state[(i - 1) * N + n] : Vec{};
                            gdt += gexp * a[n];
                            ga[n] += gexp * dt;
                        }
                        gd += grad * x;
                        const Vec graw = (gdt + gdx * x) * slope_of[i];
                        goffset += graw;
                        store(gdelta + at, graw, lanes);
                        store(gu + at, gdx * dt + grad * d, lanes);
                    }
                    for (int n = 0; n < N; ++n)
                        store(grate + ((image * s.groups + g) * N + n) * s.width + e, ga[n], lanes);
                    store(gskip + (image * s.groups + g) * s.width + e, gd, lanes);
                    store(gbias + (image * s.groups + g) * s.width + e, goffset, lanes);
                }
                for (long i = 0; i < s.length; ++i) {
                    const long t = image * s.length + (reverse[g] ? s.length - 1 - i : i);
                    for (int n = 0; n < N; ++n) {
                        gb[t * step_n + g * N + n] = sum(sum_b[i * N + n]);
                        gc[t * step_n + g * N + n] = sum(sum_c[i * N + n]);
                    }
                }
            }
    }
}

constexpr int TAPS = 4;

// Convolution of one token: taps reach back in the direction's order; x is a row-strided [B, L, E] shared by all g.
inline Vec convolve(const float* x, long row, long i, long last, bool backwards, const Vec* w, Vec bias, int lanes) {
    Vec out = bias;
    for (int k = 0; k < TAPS; ++k) {
        const long j = i - (TAPS - 1 - k);
        if (j >= 0) out += w[k] * load(x + (backwards ? last - j : j) * row, lanes);
    }
    return out;
}

}  // namespace

extern "C" {

#define DISPATCH(CALL)                  \
    switch (states) {                   \
        case 1: CALL(1); return 0;      \
        case 2: CALL(2); return 0;      \
        case 4: CALL(4); return 0;      \
        case 8: CALL(8); return 0;      \
        case 16: CALL(16); return 0;    \
        case 32: CALL(32); return 0;    \
        default: return 1;              \
    }

int famba_scan_forward(long batch, long length, long groups, long width, long states, const float* u,
                       const float* delta, const float* rate, const float* b, const float* c, const float* skip,
                       const float* bias, const unsigned char* reverse, float* y, int threads) {
    const Shape s{batch, length, groups, width, states};
#define CALL(N) scan_forward<N>(s, u, delta, rate, b, c, skip, bias, reverse, y, threads)
    DISPATCH(CALL)
#undef CALL
}

int famba_scan_backward(long batch, long length, long groups, long width, long states, const float* u,
                        const float* delta, const float* rate, const float* b, const float* c, const float* skip,
                        const float* bias, const unsigned char* reverse, const float* gy, float* gu, float* gdelta,
                        float* grate, float* gb, float* gc, float* gskip, float* gbias, float* work, int threads) {
    const Shape s{batch, length, groups, width, states};
#define CALL(N)                                                                                                   \
    scan_backward<N>(s, u, delta, rate, b, c, skip, bias, reverse, gy, gu, gdelta, grate, gb, gc, gskip, gbias, \
                     (Vec*)work, threads)
    DISPATCH(CALL)
#undef CALL
}

// out = SiLU(conv(x) + bias) for every direction; x [B, L, E] with rows `row` floats apart, weight [G, TAPS, E].
int famba_conv_forward(long batch, long length, long groups, long width, const float* x, long row, const float* weight,
                       const float* bias, const unsigned char* reverse, float* out, int threads) {
#pragma omp parallel for num_threads(threads) collapse(2)
    for (long image = 0; image < batch; ++image)
        for (long g = 0; g < groups; ++g)
            for (long e = 0; e < width; e += LANES) {
                const int lanes = width - e < LANES ? int(width - e) : LANES;
                Vec w[TAPS];
                for (int k = 0; k < TAPS; ++k) w[k] = load(weight + (g * TAPS + k) * width + e, lanes);
                const Vec offset = load(bias + g * width + e, lanes);
                const float* mine = x + image * length * row + e;
                for (long i = 0; i < length; ++i) {
                    const Vec v = convolve(mine, row, i, length - 1, reverse[g], w, offset, lanes);
                    const long t = reverse[g] ? length - 1 - i : i;
                    store(out + ((image * length + t) * groups + g) * width + e, v * sigmoid(v), lanes);
                }
            }
    return 0;
}

// gx [B, L, E] sums the directions; gweight [B, G, TAPS, E] and gbias [B, G, E] are left per image.
int famba_conv_backward(long batch, long length, long groups, long width, const float* x, long row,
                        const float* weight, const float* bias, const unsigned char* reverse, const float* gout,
                        float* gx, float* gweight, float* gbias, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long image = 0; image < batch; ++image) {
        float* gx_image = gx + image * length * width;
        std::memset(gx_image, 0, length * width * sizeof(float));
        for (long g = 0; g < groups; ++g)
            for (long e = 0; e < width; e += LANES) {
                const int lanes = width - e < LANES ? int(width - e) : LANES;
                Vec w[TAPS], gw[TAPS] = {}, gb = {};
                for (int k = 0; k < TAPS; ++k) w[k] = load(weight + (g * TAPS + k) * width + e, lanes);
                const Vec offset = load(bias + g * width + e, lanes);
                const float* mine = x + image * length * row + e;
                for (long i = 0; i < length; ++i) {
                    const long t = reverse[g] ? length - 1 - i : i;
                    const Vec v = convolve(mine, row, i, length - 1, reverse[g], w, offset, lanes), q = sigmoid(v);
                    const Vec gv = load(gout + ((image * length + t) * groups + g) * width + e, lanes) * q *
                                   (1.0f + v * (1.0f - q));
                    gb += gv;
                    for (int k = 0; k < TAPS; ++k) {
                        const long j = i - (TAPS - 1 - k);
                        if (j < 0) continue;
                        const long from = reverse[g] ? length - 1 - j : j;
                        gw[k] += gv * load(mine + from * row, lanes);
                        float* to = gx_image + from * width + e;
                        store(to, load(to, lanes) + gv * w[k], lanes);
                    }
                }
                for (int k = 0; k < TAPS; ++k)
                    store(gweight + ((image * groups + g) * TAPS + k) * width + e, gw[k], lanes);
                store(gbias + (image * groups + g) * width + e, gb, lanes);
            }
    }
    return 0;
}
}
