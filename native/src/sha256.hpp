// SHA-256 (FIPS 180-4) of many messages of one length, as many at a time as a vector has words. What bounds its speed is
// the rounds; the words of messages come one by one.
#pragma once

#include "kernels.hpp"

namespace mitai {
namespace {

typedef uint32_t Words4 __attribute__((vector_size(16)));
typedef uint32_t Words8 __attribute__((vector_size(32)));
typedef uint32_t Words16 __attribute__((vector_size(64)));

template <typename V>
struct Sha256 {
    static constexpr size_t lanes = sizeof(V) / 4;

    static constexpr uint32_t constants[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    static constexpr uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                            0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

    template <int by>
    static V turn(const V& x) {
        return x >> by | x << (32 - by);
    }

    static void block(V* state, V* w) {
        V s[8];
        for (int i = 0; i < 8; i++) s[i] = state[i];
        for (int start = 0; start < 64; start += 16) {
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) {
                const V& e = s[(20 - i) & 7];
                const V& a = s[(16 - i) & 7];
                const V& f = s[(21 - i) & 7];
                const V& g = s[(22 - i) & 7];
                const V& b = s[(17 - i) & 7];
                const V& c = s[(18 - i) & 7];
                V& h = s[(23 - i) & 7];
                const V first = h + (turn<6>(e) ^ turn<11>(e) ^ turn<25>(e)) + ((e & f) ^ (~e & g)) + w[i] +
                                constants[start + i];
                s[(19 - i) & 7] += first;
                h = first + (turn<2>(a) ^ turn<13>(a) ^ turn<22>(a)) + ((a & b) ^ (a & c) ^ (b & c));
                const V& x = w[(i + 1) & 15];
                const V& y = w[(i + 14) & 15];
                w[i] += (turn<7>(x) ^ turn<18>(x) ^ x >> 3) + w[(i + 9) & 15] + (turn<17>(y) ^ turn<19>(y) ^ y >> 10);
            }
        }
        for (int i = 0; i < 8; i++) state[i] += s[i];
    }

    // Goes on with `count` hashes by a message each of `length` bytes, a multiple of 64. A hash is 9 words: its state, and
    // the one byte before the message that is in no block yet.
    static void more(uint32_t* hashes, const uint8_t* data, size_t length, size_t count) {
        for (size_t start = 0; start < count; start += lanes) {
            const size_t used = count - start < lanes ? count - start : lanes;
            V state[8] = {};
            for (size_t lane = 0; lane < used; lane++)
                for (int i = 0; i < 8; i++) state[i][lane] = hashes[9 * (start + lane) + i];
            for (size_t b = 0; b < length / 64; b++) {
                alignas(64) uint32_t words[16][lanes] = {};
                for (size_t lane = 0; lane < used; lane++) {
                    const uint8_t* message = data + (start + lane) * length;
                    const uint32_t before = b ? message[64 * b - 1] : hashes[9 * (start + lane) + 8];
                    words[0][lane] = before << 24 | big_endian(message + 64 * b) >> 8;
                    for (int i = 1; i < 16; i++) words[i][lane] = big_endian(message + 64 * b + 4 * i - 1);
                }
                V w[16];
                for (int i = 0; i < 16; i++) __builtin_memcpy(&w[i], words[i], sizeof w[i]);
                block(state, w);
            }
            for (size_t lane = 0; lane < used; lane++) {
                for (int i = 0; i < 8; i++) hashes[9 * (start + lane) + i] = state[i][lane];
                hashes[9 * (start + lane) + 8] = data[(start + lane + 1) * length - 1];
            }
        }
    }

    static uint32_t big_endian(const uint8_t* from) {
        return uint32_t(from[0]) << 24 | uint32_t(from[1]) << 16 | uint32_t(from[2]) << 8 | from[3];
    }

    // Hashes prefix || message for `count` messages, one after the other, of `length` bytes each.
    static void many(uint8_t prefix, const uint8_t* data, size_t length, size_t count, uint8_t* out) {
        const size_t blocks = (1 + length + 8) / 64 + 1;
        for (size_t start = 0; start < count; start += lanes) {
            const size_t used = count - start < lanes ? count - start : lanes;
            V state[8];
            for (int i = 0; i < 8; i++) state[i] = V{} + initial[i];
            for (size_t b = 0; b < blocks; b++) {
                alignas(64) uint32_t words[16][lanes] = {};
                for (size_t lane = 0; lane < used; lane++) {
                    const uint8_t* message = data + (start + lane) * length;
                    uint8_t edge[64];
                    const uint8_t* from = message + 64 * b - 1;
                    if (b == 0 || 64 * b + 63 > length) {  // the prefix is in it, or the padding
                        for (size_t i = 0; i < 64; i++) {
                            const size_t at = 64 * b + i;
                            edge[i] = at == 0 ? prefix : at <= length ? message[at - 1] : at == length + 1 ? 0x80 : 0;
                        }
                        if (b + 1 == blocks)
                            for (size_t i = 0; i < 8; i++) edge[63 - i] = uint8_t(8 * (length + 1) >> 8 * i);
                        from = edge;
                    }
                    for (int i = 0; i < 16; i++) words[i][lane] = big_endian(from + 4 * i);
                }
                V w[16];
                for (int i = 0; i < 16; i++) __builtin_memcpy(&w[i], words[i], sizeof w[i]);
                block(state, w);
            }
            for (size_t lane = 0; lane < used; lane++)
                for (int i = 0; i < 32; i++)
                    out[(start + lane) * 32 + i] =
                    uint8_t(state[i / 4][lane] >> (24 - i % 4 * 8));
        }
    }
};

}  // namespace
}  // namespace mitai
