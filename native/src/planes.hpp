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

}  // namespace
}  // namespace mitai
