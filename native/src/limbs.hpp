// Products of matrices through products of bytes, for AMX.
//
// With bytes ("limbs") a = sum of 2^8i a_i, the product modulo 2^64 is the sum of 2^8s a_i b_(s-i) over i <= s < 8: 36
// products of byte matrices, 10 modulo 2^32. Those of one s are added up in 32 bits, which holds 8 * 255^2 * 8192: the
// inner dimension is cut there. Two by two tiles of 16 rows of 64 bytes are used, so that four products need four
// loads. The floor is 16 cycles for 16 x 16 x 64 products of bytes, which is 28 of 64 bits a cycle.
//
// `Tiles` is the unit or its emulation: zero(), step(a, b) and store(to) for a square of 32 x 32 sums.
#pragma once

#include <new>

#include "avx512.hpp"

namespace mitai {
namespace {

constexpr size_t tile_bytes = 16 * 64;

struct Buffer {
    uint8_t* data;
    explicit Buffer(size_t size) : data(static_cast<uint8_t*>(::operator new(size, std::align_val_t(64)))) {}
    ~Buffer() { ::operator delete(data, std::align_val_t(64)); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
};

template <typename L, typename Tiles>
struct LimbGemm {
    using W = typename L::W;
    static constexpr size_t limbs = sizeof(W), side = 32, depth = 64, longest = 8192;
    static constexpr size_t chunk = limbs * 2 * tile_bytes;  // bytes of a square's side by `depth`: [limb][2 tiles]
    static constexpr size_t few = 4;                         // rows below which the vector units are as fast

    static size_t chunks(size_t k) { return (k + depth - 1) / depth; }
    static size_t panel(size_t k) { return chunks(k) * chunk / sizeof(W); }

    // Limb i of 64 words, in order, to row i * 2 * tile_bytes.
    static void split(const uint64_t* words, uint8_t* to) {
        __m512i square[8];
        for (size_t i = 0; i < 8; i++) {
            square[i] = _mm512_loadu_si512(words + 8 * i);
            transpose_bytes(square[i]);
        }
        transpose_words(square);
        for (size_t i = 0; i < limbs; i++) _mm512_storeu_si512(to + i * 2 * tile_bytes, square[i]);
    }

    // Row r of a tile of a: 64 adjacent words.
    static void pack_left(const W* a, ptrdiff_t lda, size_t m, size_t k, uint8_t* to) {
        for (size_t c = 0; c < chunks(k); c++, to += chunk)
            for (size_t r = 0; r < side; r++) {
                uint64_t words[depth];
                for (size_t i = 0; i < depth; i++)
                    words[i] = r < m && c * depth + i < k ? a[ptrdiff_t(r) * lda + ptrdiff_t(c * depth + i)] : 0;
                split(words, to + r * 64);
            }
    }

    // Row r of a tile of b: of 16 columns, the words 4 r … 4 r + 3.
    static void pack_panel(const W* b, ptrdiff_t row, ptrdiff_t column, size_t k, size_t n, uint8_t* to) {
        for (size_t c = 0; c < chunks(k); c++, to += chunk)
            for (size_t r = 0; r < side; r++) {
                uint64_t words[depth];
                for (size_t i = 0; i < depth; i++) {
                    const size_t inner = c * depth + r % 16 * 4 + i % 4, j = r / 16 * 16 + i / 4;
                    words[i] = inner < k && j < n ? b[ptrdiff_t(inner) * row + ptrdiff_t(j) * column] : 0;
                }
                split(words, to + r * 64);
            }
    }

    static void pack(const W* b, ptrdiff_t row, ptrdiff_t column, size_t k, size_t n, W* to) {
        for (size_t j = 0; j < n; j += side, to += panel(k))
            pack_panel(b + ptrdiff_t(j) * column, row, column, k, n - j < side ? n - j : side,
                       reinterpret_cast<uint8_t*>(to));
    }

    // The sums of 32 x 32 words of the product.
    static void square(Tiles& tiles, const uint8_t* a, const uint8_t* b, size_t count, W* sums) {
        for (size_t i = 0; i < side * side; i++) sums[i] = 0;
        for (size_t start = 0; start < count; start += longest / depth)
            for (size_t s = 0; s < limbs; s++) {
                tiles.zero();
                for (size_t c = start; c < count && c < start + longest / depth; c++)
                    for (size_t i = 0; i <= s; i++)
                        tiles.step(a + c * chunk + i * 2 * tile_bytes, b + c * chunk + (s - i) * 2 * tile_bytes);
                alignas(64) uint32_t part[side * side];
                tiles.store(part);
                for (size_t i = 0; i < side * side; i++) sums[i] += W(part[i]) << 8 * s;
            }
    }

    static void multiply(const W* a, ptrdiff_t lda, size_t m, size_t k, Right<W> b, size_t n, W* c, ptrdiff_t ldc) {
        if (b.panel == 0 && m < few) return Gemm<L>::multiply(a, lda, m, k, b, n, c, ldc);
        const size_t size = chunks(k) * chunk, blocks = (m + side - 1) / side;
        const Buffer left(blocks * size), right(b.panel == 0 ? size : 0);
        for (size_t i = 0; i < m; i += side)
            pack_left(a + ptrdiff_t(i) * lda, lda, m - i < side ? m - i : side, k, left.data + i / side * size);
        Tiles tiles;
        for (size_t j = 0; j < n; j += side) {
            const size_t columns = n - j < side ? n - j : side;
            const uint8_t* block = right.data;
            if (b.panel == 0)
                pack_panel(b.data + ptrdiff_t(j) * b.column, b.row, b.column, k, columns, right.data);
            else
                block = reinterpret_cast<const uint8_t*>(b.data + j / side * b.panel);
            for (size_t i = 0; i < m; i += side) {
                alignas(64) W sums[side * side];
                square(tiles, left.data + i / side * size, block, chunks(k), sums);
                for (size_t r = 0; r < side && i + r < m; r++)
                    for (size_t q = 0; q < columns; q++)
                        c[ptrdiff_t(i + r) * ldc + ptrdiff_t(j + q)] = sums[r * side + q];
            }
        }
    }

    static constexpr Matmul<W> all{side, panel, pack, multiply};
};

}  // namespace
}  // namespace mitai
