// The kernels with vectors of 512 bits.
#pragma once

#include <immintrin.h>

#include "bits.hpp"
#include "field_x86.hpp"
#include "matmul.hpp"
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

// This for 8 vectors, then `transpose_words`: vector b holds byte b of the 64 words, in order. The reverse is the
// reverse.
inline void transpose_bytes(__m512i& x) {  // 8 x 8 bytes within a vector
    const __m512i pairs = _mm512_broadcast_i32x4(_mm_set_epi8(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0));
    const __m512i places = _mm512_set_epi16(31, 23, 15, 7, 30, 22, 14, 6, 29, 21, 13, 5, 28, 20, 12, 4, 27, 19, 11, 3,
                                            26, 18, 10, 2, 25, 17, 9, 1, 24, 16, 8, 0);
    x = _mm512_permutexvar_epi16(places, _mm512_shuffle_epi8(x, pairs));
}

}  // namespace
}  // namespace mitai
