// The kernels that there are, and the choice among their implementations.
//
// Each `path_*.cpp` is compiled for one kind of CPU and gives one `Kernels`; the kernels themselves are templates in
// `matmul.hpp`, `bits.hpp` and `waves.hpp`, each of which states what bounds its speed.
// Nothing outside of a path's file may be compiled for more than the plainest CPU: so those headers use no inline
// function of the standard library, which a linker could share between files.
//
// Secrets (factors, one-hot vectors, shares) choose no branch and no address in any of them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mitai {

using std::ptrdiff_t;
using std::size_t;

// A right factor: strides in words, or packed, where panel p of `unit` columns begins at word p * panel.
template <typename W>
struct Right {
    const W* data;
    ptrdiff_t row, column;
    size_t panel;  // words; 0: not packed
};

template <typename W>
struct Matmul {
    size_t unit;                // columns of a panel
    size_t (*panel)(size_t k);  // words of a packed panel
    void (*pack)(const W* b, ptrdiff_t row, ptrdiff_t column, size_t k, size_t n, W* to);
    // k is not 0. c (m, n) with rows `ldc` apart = a (m, k) with rows `lda` apart, words of a row adjacent, times b (k,
    // n).
    void (*multiply)(const W* a, ptrdiff_t lda, size_t m, size_t k, Right<W> b, size_t n, W* c, ptrdiff_t ldc);
};

// 2^n elements of F or, where it is wide, of K: pairs of words (field.hpp).
struct FieldTable {
    const uint64_t* data;
    bool wide;
};

// Each works on elements `from` to `to` of its result; what each computes is said in `mitai.proof.kernels`.
struct FieldKernels {
    void (*fold)(FieldTable t, size_t half, const uint64_t* by, uint64_t* out, size_t from, size_t to);
    // Adds to four sums.
    void (*half_sums)(const FieldTable* tables, size_t pairs, const uint64_t* weights, size_t half, bool upper,
                      size_t from, size_t to, uint64_t* sums);
    void (*double_weights)(uint64_t* out, size_t size, const uint64_t* by, size_t from, size_t to);
    void (*add_words)(const uint64_t* a, const uint64_t* b, uint64_t* out, size_t from, size_t to);
    void (*add_multiple)(FieldTable t, const uint64_t* by, FieldTable other, uint64_t* out, size_t from, size_t to);
    void (*add_fractions)(FieldTable p, FieldTable q, size_t half, uint64_t* p_out, uint64_t* q_out, size_t from,
                          size_t to);
    void (*combine)(const uint64_t* constant, const uint64_t* factors, const uint64_t* const* arrays, size_t count,
                    uint64_t* out, size_t from, size_t to);
    // Adds to `out`.
    void (*contract)(const uint64_t* x, size_t columns, size_t n, const uint64_t* weights, uint64_t* out, size_t from,
                     size_t to);
    // One coset of one block of min(8, rows) rows, with a buffer of as many words times `size`: of `count`
    // coefficients, of which `first` are in x and the others in `more`.
    void (*encode)(const uint64_t* x, size_t first, const uint64_t* more, size_t count, size_t size, size_t rows,
                   const uint64_t* shifts, const uint64_t* twiddles, uint64_t root, uint64_t* buffer, uint64_t* out);
};

struct Kernels {
    const char* name;
    Matmul<uint64_t> matmul64;
    Matmul<uint32_t> matmul32;
    void (*one_hot)(const uint64_t* r, size_t n, size_t words, uint64_t* out);
    // Of `sums` sums, number s has the terms from ends[s - 1] to ends[s]; a term likewise its factors.
    void (*sum_products)(const uint8_t* planes, size_t bytes, const int32_t* sum_ends, size_t sums,
                         const int32_t* term_ends, const int32_t* factors, uint8_t* out);
    void (*add_waves)(const uint32_t* turns, const double* circle, size_t bits, double scale, const uint64_t* factors,
                      size_t count, size_t n, uint64_t* total);
    void (*turn_waves)(const uint32_t* turns, const double* a, const double* b, size_t count, size_t n, uint64_t* out);
    FieldKernels field;
    // SHA-256 of prefix || message, for messages of `length` bytes one after the other.
    void (*sha256)(uint8_t prefix, const uint8_t* data, size_t length, size_t count, uint8_t* out);
    // The same in parts: 9 words for each of `count` hashes, and what they go on with, a multiple of 64 bytes each.
    void (*sha256_more)(uint32_t* hashes, const uint8_t* data, size_t length, size_t count);
};

extern const Kernels generic;
#ifdef MITAI_X86
extern const Kernels avx2, avx512, amx, amx_emulated;
#endif

// All that run on this CPU, the fastest first, up to a null pointer.
const Kernels* const* available();

}  // namespace mitai
