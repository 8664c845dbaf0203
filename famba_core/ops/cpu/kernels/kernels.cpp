// The kernels of a Vision Mamba layer for the CPU as plain C functions: building them needs no header of torch.
//
// Activations are float32 or bfloat16 (suffix of the name); parameters, states and sums are float32. Channels are last.
// The order of every sum is the same for any number of threads. A reversed direction is walked by index.

#include "conv.h"
#include "match.h"
#include "norm.h"
#include "scan.h"

#define FOR_STATES(CALL)                \
    switch (states) {                   \
        case 1: CALL(1); return 0;      \
        case 2: CALL(2); return 0;      \
        case 4: CALL(4); return 0;      \
        case 8: CALL(8); return 0;      \
        case 16: CALL(16); return 0;    \
        case 32: CALL(32); return 0;    \
        default: return 1;              \
    }

#define KERNELS(T, SUFFIX)                                                                                             \
    int famba_scan_forward_##SUFFIX(long batch, long length, long groups, long width, long states, long row,           \
                                    long group, long low_row, long low_group, long z_row, const T* u, const T* delta,  \
                                    const float* rate, const T* b, const T* c, const float* skip, const float* bias,   \
                                    const unsigned char* reverse, const T* z, T* out, int threads) {                   \
        const Scan s{batch, length, groups, width, row, group, low_row, low_group, z_row, reverse, threads};           \
        FOR_STATES(SCAN_FORWARD)                                                                                       \
    }                                                                                                                  \
    int famba_scan_backward_##SUFFIX(                                                                                  \
        long batch, long length, long groups, long width, long states, long row, long group, long low_row,             \
        long low_group, long z_row, const T* u, const T* delta, const float* rate, const T* b, const T* c,             \
        const float* skip, const float* bias, const unsigned char* reverse, const T* z, const T* grad_out, T* gated,   \
        T* grad_u, T* grad_delta, float* grad_parameters, float* low_blocks, T* grad_b, T* grad_c, T* grad_z,          \
        int threads) {                                                                                                 \
        const Scan s{batch, length, groups, width, row, group, low_row, low_group, z_row, reverse, threads};           \
        const ScanGradients<T> grad{gated, grad_u, grad_delta, grad_parameters, low_blocks, grad_b, grad_c, grad_z};   \
        FOR_STATES(SCAN_BACKWARD)                                                                                      \
    }                                                                                                                  \
    int famba_conv_forward_##SUFFIX(long batch, long length, long groups, long width, long x_row, long row,            \
                                    long group, const T* x, const float* weight, const float* bias,                    \
                                    const unsigned char* reverse, T* out, int threads) {                               \
        conv_forward(Conv{batch, length, groups, width, x_row, row, group, reverse, threads}, x, weight, bias, out);   \
        return 0;                                                                                                      \
    }                                                                                                                  \
    int famba_conv_backward_##SUFFIX(long batch, long length, long groups, long width, long x_row, long row,           \
                                     long group, const T* x, const float* weight, const float* bias,                   \
                                     const unsigned char* reverse, const T* grad_out, T* grad_x,                       \
                                     float* grad_parameters, int threads) {                                            \
        const Conv s{batch, length, groups, width, x_row, row, group, reverse, threads};                               \
        conv_backward(s, x, weight, bias, grad_out, grad_x, grad_parameters);                                          \
        return 0;                                                                                                      \
    }                                                                                                                  \
    int famba_merge_rows_##SUFFIX(long batch, long length, long merged, long width, const long* target,                \
                                  const float* share, const float* x, const float* weight, float eps, T* out,          \
                                  int threads) {                                                                       \
        merge_rows(Merge{batch, length, merged, width, target, share, threads}, x, weight, eps, out);                  \
        return 0;                                                                                                      \
    }                                                                                                                  \
    int famba_norm_backward_##SUFFIX(long batch, long length, long merged, long width, const long* target,             \
                                     const float* share, const float* x, const float* weight, float eps,               \
                                     const T* grad_hidden, const float* grad_skip, float* grad_x, float* grad_weight,  \
                                     int threads) {                                                                    \
        const Merge s{batch, length, merged, width, target, share, threads};                                           \
        norm_backward(s, x, weight, eps, grad_hidden, grad_skip, grad_x, grad_weight);                                 \
        return 0;                                                                                                      \
    }

#define SCAN_FORWARD(N) scan_forward<N>(s, u, delta, rate, b, c, skip, bias, z, out)
#define SCAN_BACKWARD(N) scan_backward<N>(s, u, delta, rate, b, c, skip, bias, z, grad_out, grad)

extern "C" {
KERNELS(float, float32)
KERNELS(bfloat16, bfloat16)
int famba_match(long batch, long length, long width, long r, long raster, const float* metric, const long* class_index,
                long* target, long* class_after, int threads) {
    match_tokens(Matching{batch, length, width, r, raster != 0, threads}, metric, class_index, target, class_after);
    return 0;
}
long famba_scan_blocks(long batch, long width) { return Scan{batch, 0, 0, width}.blocks(); }
}
