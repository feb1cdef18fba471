// One-hot vectors, and bits into numbers of the ring. All are bound by memory: what they read or write is n words for
// each bit. The loops are plain, and the compiler makes vectors of them.
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

inline void bits_to_ring(const uint64_t* open, const uint64_t* shares, std::size_t n, std::size_t w, bool constant,
                         uint64_t* out) {
    for (std::size_t i = 0; i < n; i++, shares += w) {
        uint64_t sum = constant ? open[i] & (w < 64 ? (uint64_t(1) << w) - 1 : ~uint64_t(0)) : 0;
        for (std::size_t k = 0; k < w; k++) {
            const uint64_t bit = open[i] >> k & 1;
            sum += ((shares[k] ^ (0 - bit)) + bit) << k;
        }
        out[i] = sum;
    }
}

inline void bit_shares(const uint64_t* r, const uint64_t* other, std::size_t n, std::size_t w, uint64_t* out) {
    for (std::size_t i = 0; i < n; i++, other += w, out += w)
        for (std::size_t k = 0; k < w; k++) out[k] = (r[i] >> k & 1) - other[k];
}

}  // namespace
}  // namespace mitai
