// For x86 with AVX2 (2013 and later). Only the products are written for it; the rest the compiler makes vectors of.
#include <immintrin.h>

#include "bits.hpp"
#include "field_x86.hpp"
#include "matmul.hpp"
#include "waves.hpp"

namespace mitai {
namespace {

// AVX2 has no product of 64-bit words. With halves of 32 bits, a b = a0 b0 + 2^32 (a1 b0 + a0 b1) mod 2^64: one
// widening product, and one of eight halves in which those of b are exchanged; the sums of the latter are put in place
// at the end.
struct Avx2Words {
    using W = uint64_t;
    struct V {
        __m256i word, exchanged;
    };
    struct A {
        __m256i low, cross;
    };
    static constexpr size_t lanes = 4, rows = 2, vectors = 2;
    static __m256i plain(const W* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static V load(const W* p) {
        const __m256i word = plain(p);
        return {word, _mm256_shuffle_epi32(word, 0xb1)};
    }
    static A zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static __m256i splat(W w) { return _mm256_set1_epi64x(int64_t(w)); }
    static void mac(A& acc, __m256i w, const V& v) {
        acc.low = _mm256_add_epi64(acc.low, _mm256_mul_epu32(w, v.word));
        acc.cross = _mm256_add_epi32(acc.cross, _mm256_mullo_epi32(w, v.exchanged));
    }
    static __m256i sum(const A& acc) {
        const __m256i cross = _mm256_add_epi32(acc.cross, _mm256_srli_epi64(acc.cross, 32));
        return _mm256_add_epi64(acc.low, _mm256_slli_epi64(cross, 32));
    }
    static void store(W* p, const A& acc) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), sum(acc)); }
    static void add(W* p, const A& acc) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_add_epi64(plain(p), sum(acc)));
    }
};

struct Avx2Halves {
    using W = uint32_t;
    using V = __m256i;
    using A = V;
    static constexpr size_t lanes = 8, rows = 4, vectors = 3;
    static V load(const W* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static A zero() { return _mm256_setzero_si256(); }
    static V splat(W w) { return _mm256_set1_epi32(int32_t(w)); }
    static void mac(A& acc, V w, V v) { acc = _mm256_add_epi32(acc, _mm256_mullo_epi32(w, v)); }
    static void store(W* p, A acc) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), acc); }
    static void add(W* p, A acc) { store(p, _mm256_add_epi32(load(p), acc)); }
};

}  // namespace
}  // namespace mitai

const mitai::Kernels mitai::avx2 = {
    "avx2",
    Gemm<Avx2Words>::all,
    Gemm<Avx2Halves>::all,
    one_hot,
    sum_products,
    add_waves,
    turn_waves,
    FieldPath<Avx2Lanes>::all,
    Sha256<Words8>::many,
    Sha256<Words8>::more,
};
