// One-hot vectors, and sums of products of planes of bits. The loops are plain, and the compiler makes vectors of them.
#pragma once

#include "kernels.hpp"

namespace mitai {
namespace {

inline void one_hot(const uint64_t* r, std::size_t n, std::size_t words, uint64_t* out) {
    for (std::size_t i = 0; i < n; i++, out += words) {
        const uint64_t bit = uint64_t(1) << (r[i] & 63);
        for (std::size_t q = 0; q < words; q++) {
            const uint64_t other = (r[i] >> 6) ^ q;  // 0 for the word that has the bit
            out[q] = bit & ~(0 - ((other | (0 - other)) >> 63));
        }
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
