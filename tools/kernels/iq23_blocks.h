// How blocks of IQ3_XXS, IQ3_S, IQ2_XXS, IQ2_XS and IQ2_S are written.

#pragma once

#include "lanes.h"

#define MOST_GROUPS 8           // points of a sub-block

// What is stored of a group of sub-blocks.
struct stored {
    float scale[AT_ONCE];
    uint16_t index[AT_ONCE][MOST_GROUPS];
    uint8_t signs[AT_ONCE][4];        // of eight values each
    bool dead[AT_ONCE];
    bool refused[AT_ONCE];
};

// The scales as whole numbers of 4 bits, l for 2 l + 1, and what half of such a step is worth. False: all are zero.
static bool round_scales(int n, const float * scale, uint8_t * l, float * d) {
    float max = 0;
    for (int j = 0; j < n; ++j) {
        max = max > scale[j] ? max : scale[j];
    }
    *d = max / 31;
    const float id = 1 / *d;
    for (int j = 0; j < n; ++j) {
        const int rounded = nearest_scalar(0.5f * (id * scale[j] - 1));
        l[j] = (uint8_t) (max == 0 || rounded < 0 ? 0 : rounded > 15 ? 15 : rounded);
    }
    return max != 0;
}

static void join_nibbles(int n, const uint8_t * l, uint8_t * bytes) {
    for (int j = 0; j < n; j += 2) {
        bytes[j / 2] = (uint8_t) (l[j] | l[j + 1] << 4);
    }
}

static uint32_t join_signs(const uint8_t * signs, uint8_t l) {
    return signs[0] | (uint32_t) signs[1] << 7 | (uint32_t) signs[2] << 14 | (uint32_t) signs[3] << 21 | (uint32_t) l << 28;
}

// `first` is the block's first sub-block in `from`.

static void put_iq3_xxs(block_iq3_xxs * y, const struct stored * from, int first) {
    uint8_t l[8];
    float d;
    const bool some = round_scales(8, from->scale + first, l, &d);
    y->d = ggml_fp32_to_fp16(d * 1.0125f);
    if (!some) {
        memset(y->qs, 0, sizeof y->qs);
        return;
    }
    for (int j = 0; j < 8; ++j) {
        for (int g = 0; g < 8; ++g) {
            y->qs[8 * j + g] = (uint8_t) from->index[first + j][g];
        }
        const uint32_t word = join_signs(from->signs[first + j], l[j]);
        memcpy(y->qs + QK_K / 4 + 4 * j, &word, sizeof word);
    }
}

// ggml-quants.c moves on in `qs` and `signs` only after a sub-block that is not all zero: what follows one that is comes to
// stand in its place. The same is done here, for the same file.
static void put_iq3_s(block_iq3_s * y, const struct stored * from, int first) {
    uint8_t l[8];
    float d;
    round_scales(8, from->scale + first, l, &d);
    memset(y, 0, sizeof *y);
    y->d = ggml_fp32_to_fp16(d * 1.033f);
    join_nibbles(8, l, y->scales);
    for (int j = 0, place = 0; j < 8; ++j) {
        if (from->dead[first + j]) {
            continue;
        }
        for (int g = 0; g < 8; ++g) {
            y->qs[8 * place + g] = (uint8_t) from->index[first + j][g];
            y->qh[j] |= (uint8_t) (from->index[first + j][g] >> 8 << g);
        }
        memcpy(y->signs + 4 * place, from->signs[first + j], 4);
        ++place;
    }
}

static void put_iq2_xxs(block_iq2_xxs * y, const struct stored * from, int first) {
    uint8_t l[8];
    float d;
    const bool some = round_scales(8, from->scale + first, l, &d);
    y->d = ggml_fp32_to_fp16(d);
    if (!some) {
        memset(y->qs, 0, sizeof y->qs);
        return;
    }
    for (int j = 0; j < 8; ++j) {
        uint32_t words[2] = { 0, join_signs(from->signs[first + j], l[j]) };
        for (int g = 0; g < 4; ++g) {
            words[0] |= (uint32_t) from->index[first + j][g] << 8 * g;
        }
        memcpy(y->qs + 4 * j, words, sizeof words);
    }
}

static void put_iq2_xs(block_iq2_xs * y, const struct stored * from, int first) {
    uint8_t l[16];
    float d;
    const bool some = round_scales(16, from->scale + first, l, &d);
    y->d = ggml_fp32_to_fp16(d);
    join_nibbles(16, l, y->scales);
    for (int j = 0; j < 16; ++j) {
        for (int g = 0; g < 2; ++g) {
            const int bits = from->index[first + j][g] | from->signs[first + j][g] << 9;
            y->qs[2 * j + g] = (uint16_t) (some ? bits : 0);
        }
    }
}

static void put_iq2_s(block_iq2_s * y, const struct stored * from, int first) {
    uint8_t l[16];
    float d;
    round_scales(16, from->scale + first, l, &d);
    y->d = ggml_fp32_to_fp16(d * 0.9875f);
    join_nibbles(16, l, y->scales);
    memset(y->qh, 0, sizeof y->qh);
    for (int j = 0; j < 16; ++j) {
        for (int g = 0; g < 2; ++g) {
            const int at = 2 * j + g, index = from->index[first + j][g];
            y->qs[at] = (uint8_t) index;
            y->qh[at / 4] |= (uint8_t) (index >> 8 << 2 * (at % 4));
            y->qs[QK_K / 8 + at] = from->signs[first + j][g];
        }
    }
}
