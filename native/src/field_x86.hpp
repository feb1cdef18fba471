// Vectors of elements of F for AVX2 and, where it is compiled for that, AVX-512. Products are made of four of 32 bits.
#pragma once

#include <immintrin.h>

#include "field.hpp"

namespace mitai {
namespace {

#ifdef __AVX512F__
struct Avx512Lanes {
    using V = __m512i;
    static constexpr size_t lanes = 8;
    static V load(const uint64_t* p) { return _mm512_loadu_si512(p); }
    static void store(uint64_t* p, V x) { _mm512_storeu_si512(p, x); }
    static V splat(uint64_t x) { return _mm512_set1_epi64(int64_t(x)); }
    // Pairs come apart in the order 0 4 1 5 2 6 3 7, in which words are spread, too.
    static V load_spread(const uint64_t* p) {
        return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), load(p));
    }
    static void load_pairs(const uint64_t* p, V& a, V& b) {
        const V x = load(p), y = load(p + 8);
        a = _mm512_unpacklo_epi64(x, y), b = _mm512_unpackhi_epi64(x, y);
    }
    static void store_pairs(uint64_t* p, V a, V b) {
        store(p, _mm512_unpacklo_epi64(a, b)), store(p + 8, _mm512_unpackhi_epi64(a, b));
    }
    static V sub(V x, V y) {
        return _mm512_mask_add_epi64(_mm512_sub_epi64(x, y), _mm512_cmplt_epu64_mask(x, y), _mm512_sub_epi64(x, y),
                                     splat(prime));
    }
    static V add(V x, V y) { return sub(x, _mm512_sub_epi64(splat(prime), y)); }
    // x + y modulo p, as any word: a factor of `mul` need be no less.
    static V sum(V x, V y) {
        const V s = _mm512_add_epi64(x, y);
        return _mm512_mask_add_epi64(s, _mm512_cmplt_epu64_mask(s, x), s, splat(epsilon));
    }
    static V seven(V x) {
        const V low = _mm512_mul_epu32(x, splat(7)), high = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), splat(7));
        const V shifted = _mm512_slli_epi64(high, 32);
        const V rest = _mm512_add_epi64(low, _mm512_mul_epu32(_mm512_srli_epi64(high, 32), splat(epsilon)));
        const V s = _mm512_add_epi64(shifted, rest);
        const V reduced = _mm512_mask_add_epi64(s, _mm512_cmplt_epu64_mask(s, rest), s, splat(epsilon));
        return _mm512_min_epu64(reduced, _mm512_sub_epi64(reduced, splat(prime)));
    }
    static V mul(V x, V y) {
        const V low_half = splat(epsilon), x1 = _mm512_srli_epi64(x, 32), y1 = _mm512_srli_epi64(y, 32);
        const V low = _mm512_mul_epu32(x, y), one = _mm512_mul_epu32(x, y1), other = _mm512_mul_epu32(x1, y);
        const V s = _mm512_add_epi64(other, _mm512_srli_epi64(low, 32));
        const V t = _mm512_add_epi64(one, _mm512_and_si512(s, low_half));
        const V high = _mm512_add_epi64(_mm512_add_epi64(_mm512_mul_epu32(x1, y1), _mm512_srli_epi64(s, 32)),
                                        _mm512_srli_epi64(t, 32));
        const V bottom = _mm512_mask_blend_epi32(0xaaaa, low, _mm512_slli_epi64(t, 32));
        const V top = _mm512_srli_epi64(high, 32), middle = _mm512_mul_epu32(high, low_half);
        const V less = _mm512_sub_epi64(bottom, top);
        const V rest = _mm512_mask_sub_epi64(less, _mm512_cmplt_epu64_mask(bottom, top), less, low_half);
        const V sum = _mm512_add_epi64(rest, middle);
        const V reduced = _mm512_mask_add_epi64(sum, _mm512_cmplt_epu64_mask(sum, rest), sum, low_half);
        return _mm512_min_epu64(reduced, _mm512_sub_epi64(reduced, splat(prime)));
    }
};
#endif

struct Avx2Lanes {
    using V = __m256i;
    static constexpr size_t lanes = 4;
    static V load(const uint64_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static void store(uint64_t* p, V x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
    static V splat(uint64_t x) { return _mm256_set1_epi64x(int64_t(x)); }
    static V load_spread(const uint64_t* p) { return _mm256_permute4x64_epi64(load(p), 0xd8); }  // 0 2 1 3
    static void load_pairs(const uint64_t* p, V& a, V& b) {
        const V x = load(p), y = load(p + 4);
        a = _mm256_unpacklo_epi64(x, y), b = _mm256_unpackhi_epi64(x, y);
    }
    static void store_pairs(uint64_t* p, V a, V b) {
        store(p, _mm256_unpacklo_epi64(a, b)), store(p + 4, _mm256_unpackhi_epi64(a, b));
    }
    static V below(V x, V y) {  // all bits where x < y; there is a signed comparison only
        const V sign = splat(uint64_t(1) << 63);
        return _mm256_cmpgt_epi64(_mm256_xor_si256(y, sign), _mm256_xor_si256(x, sign));
    }
    static V sub(V x, V y) {
        return _mm256_add_epi64(_mm256_sub_epi64(x, y), _mm256_and_si256(below(x, y), splat(prime)));
    }
    static V add(V x, V y) { return sub(x, _mm256_sub_epi64(splat(prime), y)); }
    static V sum(V x, V y) { return add(x, y); }
    static V seven(V x) {
        const V two = add(x, x), four = add(two, two);
        return add(four, add(two, x));
    }
    static V mul(V x, V y) {
        const V low_half = splat(epsilon), x1 = _mm256_srli_epi64(x, 32), y1 = _mm256_srli_epi64(y, 32);
        const V low = _mm256_mul_epu32(x, y), one = _mm256_mul_epu32(x, y1), other = _mm256_mul_epu32(x1, y);
        const V s = _mm256_add_epi64(other, _mm256_srli_epi64(low, 32));
        const V t = _mm256_add_epi64(one, _mm256_and_si256(s, low_half));
        const V high = _mm256_add_epi64(_mm256_add_epi64(_mm256_mul_epu32(x1, y1), _mm256_srli_epi64(s, 32)),
                                        _mm256_srli_epi64(t, 32));
        const V bottom = _mm256_blend_epi32(low, _mm256_slli_epi64(t, 32), 0xaa);
        const V top = _mm256_srli_epi64(high, 32), middle = _mm256_mul_epu32(high, low_half);
        // A mask is -1 or 0 as a number, and its lower half is epsilon or 0.
        const V rest =
            _mm256_sub_epi64(_mm256_sub_epi64(bottom, top), _mm256_srli_epi64(below(bottom, top), 32));
        const V sum = _mm256_add_epi64(rest, middle);
        const V reduced = _mm256_add_epi64(sum, _mm256_srli_epi64(below(sum, rest), 32));
        return _mm256_sub_epi64(reduced, _mm256_andnot_si256(below(reduced, splat(prime)), splat(prime)));
    }
};

}  // namespace
}  // namespace mitai
