// Look-ups by shared one-hot vectors: out = XOR over j of bit j of a vector times table[(offset - j) mod size].
//
// The table is turned round and doubled, so that the entries of one element are adjacent words that begin at a public
// place. The floor is a load and a masked XOR for each vector of entries: 256 entries of 64 bits are 32 of them.
#pragma once

#include "kernels.hpp"

namespace mitai {
namespace {

constexpr std::size_t largest_table = 256;

// turned[p] = table[-p mod size], twice: table[c - j] = turned[size - c + j].
template <typename W>
void turn(const W* table, std::size_t size, W* turned) {
    for (std::size_t p = 0; p < 2 * size; p++) turned[p] = table[(2 * size - p) % size];
}

template <typename W>
void lookup(const uint64_t* hot, const uint64_t* offsets, std::size_t n, const W* table, std::size_t size, W* out) {
    alignas(64) W turned[2 * largest_table];
    turn(table, size, turned);
    const std::size_t words = size < 64 ? 1 : size / 64, bits = size < 64 ? size : 64;
    for (std::size_t i = 0; i < n; i++, hot += words) {
        const W* from = turned + size - offsets[i];
        W sum = 0;
        for (std::size_t q = 0; q < words; q++, from += bits)
            for (std::size_t j = 0; j < bits; j++) sum ^= W(0 - (hot[q] >> j & 1)) & from[j];
        out[i] = sum;
    }
}

}  // namespace
}  // namespace mitai
