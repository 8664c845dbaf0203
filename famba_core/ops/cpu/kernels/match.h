// The choice of the tokens that fuse, and the target of every token (Famba-V section 3.2).

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "vector.h"

namespace {

struct Matching {
    long batch, length, width, r;
    bool raster;
    int threads;

    long evens() const { return (length + 1) / 2; }
    long odds() const { return length / 2; }
};

// The most similar odd token of an even token, the first of equals. Without one, the similarity is below every cosine.
struct Partner {
    float similarity = -std::numeric_limits<float>::infinity();
    int odd = 0;
};

inline float inverse_norm(const float* row, long width) {
    return 1.0f / std::max(std::sqrt(sum_of_squares(row, width)), 1e-12f);
}

// Compares four even tokens at a time with 16 odd tokens in the lanes; the similarities are never stored.
inline void find_partners(const Matching& s, const float* tokens, long class_at, Partner* partners) {
    constexpr int ROWS = 4;
    const long columns = (s.odds() + LANES - 1) / LANES;
    Vec* odd_tokens = scratch(columns * s.width);  // [columns, width], one unit vector in each lane
    float* lanes = (float*)odd_tokens;
    std::memset(lanes, 0, columns * s.width * sizeof(Vec));
    for (long odd = 0; odd < s.odds(); ++odd) {
        const float* row = tokens + (2 * odd + 1) * s.width;
        const float scale = inverse_norm(row, s.width);
        float* to = lanes + odd / LANES * s.width * LANES + odd % LANES;
        for (long e = 0; e < s.width; ++e) to[e * LANES] = row[e] * scale;
    }
    IntVec lane_numbers;
    for (int lane = 0; lane < LANES; ++lane) lane_numbers[lane] = lane;
    const Vec lowest = Vec{} - std::numeric_limits<float>::infinity();
    for (long even = 0; even < s.evens(); even += ROWS) {
        const float* rows[ROWS];
        for (int k = 0; k < ROWS; ++k) rows[k] = tokens + 2 * std::min(even + k, s.evens() - 1) * s.width;
        Vec best[ROWS] = {lowest, lowest, lowest, lowest};
        IntVec best_odd[ROWS] = {};
        for (long column = 0; column < columns; ++column) {
            const Vec* others = odd_tokens + column * s.width;
            Vec products[ROWS] = {};
            for (long e = 0; e < s.width; ++e)
                for (int k = 0; k < ROWS; ++k) products[k] += rows[k][e] * others[e];
            const IntVec odd = lane_numbers + int(column * LANES);
            const IntVec is_candidate = (odd < int(s.odds())) & (2 * odd + 1 != int(class_at));
            for (int k = 0; k < ROWS; ++k) {
                const Vec candidates = is_candidate ? products[k] : lowest;
                const IntVec better = candidates > best[k];
                best[k] = better ? candidates : best[k];
                best_odd[k] = better ? odd : best_odd[k];
            }
        }
        for (int k = 0; k < ROWS && even + k < s.evens(); ++k) {
            Partner& partner = partners[even + k] = Partner{};
            if (2 * (even + k) == class_at) continue;
            for (int lane = 0; lane < LANES; ++lane) {
                const float found = best[k][lane];
                const bool first = found == partner.similarity && best_odd[k][lane] < partner.odd;
                if (found > partner.similarity || first) partner = Partner{found, best_odd[k][lane]};
            }
            // last, because the norm of the even token does not change the order of the odd ones
            partner.similarity *= inverse_norm(rows[k], s.width);
        }
    }
}

// target [B, L]: index of every token in the shortened sequence; class_after [B]: that of the class token.
inline void match_tokens(const Matching& s, const float* metric, const long* class_index, long* target,
                         long* class_after) {
#pragma omp parallel for num_threads(s.threads)
    for (long image = 0; image < s.batch; ++image) {
        std::vector<Partner> partners(s.evens());
        find_partners(s, metric + image * s.length * s.width, class_index[image], partners.data());
        std::vector<int> order(s.evens());
        for (int i = 0; i < s.evens(); ++i) order[i] = i;
        std::nth_element(order.begin(), order.begin() + s.r - 1, order.end(), [&](int a, int b) {
            const float x = partners[a].similarity, y = partners[b].similarity;
            return x > y || (x == y && a < b);
        });
        std::vector<bool> removed(s.length);
        for (int i = 0; i < s.r; ++i) removed[2 * order[i]] = true;

        long* to = target + image * s.length;
        long next = 0;
        for (long t = 0; t < s.length; t += s.raster ? 1 : 2)
            if (!removed[t]) to[t] = next++;
        if (!s.raster)
            for (long t = 1; t < s.length; t += 2) to[t] = next++;
        for (int i = 0; i < s.r; ++i) to[2 * order[i]] = to[2 * partners[order[i]].odd + 1];
        class_after[image] = to[class_index[image]];
    }
}

}  // namespace
