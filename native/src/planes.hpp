// Slicing words into planes of bits: bit k of word i is bit i mod 64 of plane k's word i / 64.
//
// A square of 64 x 64 bits is turned by exchanging ever smaller squares within it: 6 steps of 32 exchanges (Hacker's
// Delight, 7-3), about 16 instructions a word.
#pragma once

#include "kernels.hpp"

namespace mitai {
namespace {

// Turns the square with bit k of word i in place of bit i of word k.
inline void transpose(uint64_t* x) {
    uint64_t mask = 0x00000000ffffffff;
    for (std::size_t half = 32; half != 0; half >>= 1, mask ^= mask << half)
        for (std::size_t i = 0; i < 64; i = ((i | half) + 1) & ~half) {
            const uint64_t t = ((x[i] >> half) ^ x[i | half]) & mask;
            x[i] ^= t << half;
            x[i | half] ^= t;
        }
}

inline void to_planes(const uint64_t* x, std::size_t n, std::size_t bits, uint64_t* planes) {
    const std::size_t words = (n + 63) / 64;
    for (std::size_t w = 0; w < words; w++) {
        uint64_t square[64];
        for (std::size_t i = 0; i < 64; i++) square[i] = w * 64 + i < n ? x[w * 64 + i] : 0;
        transpose(square);
        for (std::size_t k = 0; k < bits; k++) planes[k * words + w] = square[k];
    }
}

inline void from_planes(const uint64_t* planes, std::size_t n, std::size_t bits, uint64_t* x) {
    const std::size_t words = (n + 63) / 64;
    for (std::size_t w = 0; w < words; w++) {
        uint64_t square[64];
        for (std::size_t k = 0; k < 64; k++) square[k] = k < bits ? planes[k * words + w] : 0;
        transpose(square);
        for (std::size_t i = 0; i < 64 && w * 64 + i < n; i++) x[w * 64 + i] = square[i];
    }
}

// out[s] = XOR over the terms of sum s of the AND of their factors' planes; no factors are all ones. Done by stretches
// that lie in L1 with all planes, so the floor is a load and an AND for each factor and vector.
inline void sum_products(const uint8_t* planes, size_t bytes, const int32_t* sum_ends, size_t sums,
                         const int32_t* term_ends, const int32_t* factors, uint8_t* out) {
    constexpr size_t stretch = 512;
    for (size_t start = 0; start < bytes; start += stretch) {
        const size_t length = bytes - start < stretch ? bytes - start : stretch;
        int32_t term = 0, factor = 0;
        for (size_t s = 0; s < sums; s++) {
            alignas(64) uint8_t sum[stretch] = {};
            for (; term < sum_ends[s]; term++) {
                alignas(64) uint8_t product[stretch];
                for (size_t i = 0; i < length; i++) product[i] = 0xff;
                for (; factor < term_ends[term]; factor++) {
                    const uint8_t* plane = planes + size_t(factors[factor]) * bytes + start;
                    for (size_t i = 0; i < length; i++) product[i] &= plane[i];
                }
                for (size_t i = 0; i < length; i++) sum[i] ^= product[i];
            }
            for (size_t i = 0; i < length; i++) out[s * bytes + start + i] = sum[i];
        }
    }
}

}  // namespace
}  // namespace mitai
