// The kernels with vectors of 512 bits.
#pragma once

#include <immintrin.h>

#include "bits.hpp"
#include "lookup.hpp"
#include "matmul.hpp"
#include "planes.hpp"
#include "waves.hpp"

namespace mitai {
namespace {

inline void transpose_words(__m512i* x) {  // 8 x 8 words
    __m512i y[8];
    for (int i = 0; i < 8; i += 2) {
        y[i] = _mm512_unpacklo_epi64(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi64(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            x[i + j] = _mm512_shuffle_i64x2(y[i + j], y[i + j + 2], 0x88);
            x[i + j + 2] = _mm512_shuffle_i64x2(y[i + j], y[i + j + 2], 0xdd);
        }
    for (int j = 0; j < 4; j++) {
        y[j] = _mm512_shuffle_i64x2(x[j], x[j + 4], 0x88);
        y[j + 4] = _mm512_shuffle_i64x2(x[j], x[j + 4], 0xdd);
    }
    for (int i = 0; i < 8; i++) x[i] = y[i];
}

struct Avx512Words {
    using W = uint64_t;
    using V = __m512i;
    using A = V;
    static constexpr size_t lanes = 8, rows = 8, vectors = 3;
    static void transpose(V* x) { transpose_words(x); }
    static V load(const W* p) { return _mm512_loadu_si512(p); }
    static A zero() { return _mm512_setzero_si512(); }
    static V splat(W w) { return _mm512_set1_epi64(int64_t(w)); }
    static void mac(A& acc, V w, V v) { acc = _mm512_add_epi64(acc, _mm512_mullo_epi64(w, v)); }
    static void store(W* p, A acc) { _mm512_storeu_si512(p, acc); }
    static void add(W* p, A acc) { store(p, _mm512_add_epi64(load(p), acc)); }
};

struct Avx512Halves {
    using W = uint32_t;
    using V = __m512i;
    using A = V;
    static constexpr size_t lanes = 16, rows = 8, vectors = 3;
    static V load(const W* p) { return _mm512_loadu_si512(p); }
    static A zero() { return _mm512_setzero_si512(); }
    static V splat(W w) { return _mm512_set1_epi32(int32_t(w)); }
    static void mac(A& acc, V w, V v) { acc = _mm512_add_epi32(acc, _mm512_mullo_epi32(w, v)); }
    static void store(W* p, A acc) { _mm512_storeu_si512(p, acc); }
    static void add(W* p, A acc) { store(p, _mm512_add_epi32(load(p), acc)); }
};

// The low bits of a word as masks: bit j fills entry j of a vector.
inline __m512i spread(uint64_t bits, const uint8_t*) { return _mm512_movm_epi8(bits); }
inline __m512i spread(uint64_t bits, const uint16_t*) { return _mm512_movm_epi16(__mmask32(bits)); }
inline __m512i spread(uint64_t bits, const uint32_t*) { return _mm512_movm_epi32(__mmask16(bits)); }
inline __m512i spread(uint64_t bits, const uint64_t*) { return _mm512_movm_epi64(__mmask8(bits)); }

// The XOR of a vector's entries.
template <typename W>
W fold(__m512i x) {
    __m256i y = _mm256_xor_si256(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
    __m128i z = _mm_xor_si128(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
    uint64_t word = uint64_t(_mm_cvtsi128_si64(z)) ^ uint64_t(_mm_extract_epi64(z, 1));
    for (std::size_t half = 32; half >= 8 * sizeof(W); half >>= 1) word ^= word >> half;
    return W(word);
}

// Entries are read whole and chosen by AND: masked loads would leave it to the CPU whether a mask shows in time.
template <typename W>
void lookup512(const uint64_t* hot, const uint64_t* offsets, size_t n, const W* table, size_t size, W* out) {
    constexpr size_t lanes = 64 / sizeof(W);
    if (size < 64) return lookup(hot, offsets, n, table, size, out);
    alignas(64) W turned[2 * largest_table];
    turn(table, size, turned);
    for (size_t i = 0; i < n; i++, hot += size / 64) {
        const W* from = turned + size - offsets[i];
        __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        for (size_t q = 0; q < size / 64; q++)
            for (size_t j = 0; j < 64; j += lanes, from += lanes) {
                __m512i& sum = sums[j / lanes % 2];
                const __m512i entries = _mm512_loadu_si512(from);
                sum = _mm512_ternarylogic_epi64(sum, spread(hot[q] >> j, from), entries, 0x78);  // sum ^ mask & entries
            }
        out[i] = fold<W>(_mm512_xor_si512(sums[0], sums[1]));
    }
}

// The mask of the first words, all if there are 8 or more.
inline __mmask8 first(size_t count) { return __mmask8(count < 8 ? (1u << count) - 1 : 0xff); }

// This for 8 vectors, then `transpose_words`: vector b holds byte b of the 64 words, in order. The reverse is the
// reverse.
inline void transpose_bytes(__m512i& x) {  // 8 x 8 bytes within a vector
    const __m512i pairs = _mm512_broadcast_i32x4(_mm_set_epi8(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0));
    const __m512i places = _mm512_set_epi16(31, 23, 15, 7, 30, 22, 14, 6, 29, 21, 13, 5, 28, 20, 12, 4, 27, 19, 11, 3,
                                            26, 18, 10, 2, 25, 17, 9, 1, 24, 16, 8, 0);
    x = _mm512_permutexvar_epi16(places, _mm512_shuffle_epi8(x, pairs));
}

// Planes are written a cache line at a time: a word of each, thousands of bytes apart, would throw each other out.
inline void to_planes512(const uint64_t* x, size_t n, size_t bits, uint64_t* planes) {
    const size_t words = (n + 63) / 64;
    for (size_t start = 0; start < words; start += 8) {
        const size_t count = words - start < 8 ? words - start : 8;
        uint64_t line[64][8];
        for (size_t w = 0; w < count; w++, x += 64) {
            __m512i square[8];
            for (size_t i = 0; i < 8; i++) {
                const size_t from = (start + w) * 64 + i * 8;
                square[i] = _mm512_maskz_loadu_epi64(first(n < from ? 0 : n - from), x + i * 8);
                transpose_bytes(square[i]);
            }
            transpose_words(square);
            for (size_t k = 0; k < bits; k++)
                line[k][w] = _mm512_test_epi8_mask(square[k / 8], _mm512_set1_epi8(char(1 << k % 8)));
        }
        for (size_t k = 0; k < bits; k++)
            for (size_t w = 0; w < count; w++) planes[k * words + start + w] = line[k][w];
    }
}

inline void from_planes512(const uint64_t* planes, size_t n, size_t bits, uint64_t* x) {
    const size_t words = (n + 63) / 64;
    for (size_t w = 0; w < words; w++, x += 64, planes++) {
        __m512i square[8];
        for (size_t b = 0; b < 8; b++) {
            square[b] = _mm512_setzero_si512();
            for (size_t k = 8 * b; k < 8 * b + 8 && k < bits; k++)
                square[b] =
                    _mm512_mask_add_epi8(square[b], planes[k * words], square[b], _mm512_set1_epi8(char(1 << k % 8)));
        }
        transpose_words(square);
        for (size_t i = 0; i < 8; i++) {
            const size_t at = w * 64 + i * 8;
            transpose_bytes(square[i]);
            _mm512_mask_storeu_epi64(x + i * 8, first(n < at ? 0 : n - at), square[i]);
        }
    }
}

}  // namespace
}  // namespace mitai
