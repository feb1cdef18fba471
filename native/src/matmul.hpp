// Products of matrices modulo 2^64 or 2^32.
//
// As in GotoBLAS: b goes into panels of a few vectors' columns, a block of a panel stays in L1, and a tile of c of
// `rows` by `vectors` stays in registers while its sum over the inner dimension is made. The floor is one
// multiplication instruction for each vector of 64-bit words (three µops of two ports on Intel, one a cycle on Zen 5).
// With few rows there is nothing to reuse: b is streamed from memory, unpacked, some whole rows at a time, and fetched
// ahead of its use.
//
// `L` (lanes) gives: W, V, A (an accumulator), lanes, rows, vectors, load(p), zero(), mac(acc, w, v), store(p, acc),
// add(p, acc), splat(w), a word in all lanes, and maybe transpose(V[lanes]).
#pragma once

#include "kernels.hpp"

namespace mitai {
namespace {

template <typename L>
struct Gemm {
    using W = typename L::W;
    static constexpr size_t width = L::lanes * L::vectors;  // columns of a panel
    static constexpr size_t depth = 256;                    // inner dimension of a block
    static constexpr size_t skinny = 16;                    // at most so many rows are not worth packing for
    static constexpr size_t sweep = 16;                     // rows of b that are streamed at a time
    static constexpr size_t stretch = 2048;                 // columns after which a sweep goes back for the next rows

    // A tile of c: R rows of a by a panel's columns. `ahead` words after b lies what is needed next.
    template <size_t R>
    static void tile(const W* a, ptrdiff_t lda, const W* b, ptrdiff_t ldb, size_t k, W* c, ptrdiff_t ldc, bool first,
                     ptrdiff_t ahead) {
        typename L::A acc[R][L::vectors];
        for (size_t r = 0; r < R; r++)
            for (size_t v = 0; v < L::vectors; v++) acc[r][v] = L::zero();
        for (size_t i = 0; i < k; i++) {
            typename L::V x[L::vectors];
            for (size_t v = 0; v < L::vectors; v++) {
                x[v] = L::load(b + v * L::lanes);
                if constexpr (R > 1) __builtin_prefetch(b + ptrdiff_t(v * L::lanes) + ahead, 0, 2);
            }
            for (size_t r = 0; r < R; r++) {
                const auto w = L::splat(a[ptrdiff_t(r) * lda + ptrdiff_t(i)]);
                for (size_t v = 0; v < L::vectors; v++) L::mac(acc[r][v], w, x[v]);
            }
            b += ldb;
        }
        for (size_t r = 0; r < R; r++)
            for (size_t v = 0; v < L::vectors; v++) {
                W* to = c + ptrdiff_t(r) * ldc + ptrdiff_t(v * L::lanes);
                first ? L::store(to, acc[r][v]) : L::add(to, acc[r][v]);
            }
    }

    using Tile = void (*)(const W*, ptrdiff_t, const W*, ptrdiff_t, size_t, W*, ptrdiff_t, bool, ptrdiff_t);
    struct Tiles {
        Tile of[L::rows + 1];
        template <size_t R = 1>
        constexpr void fill() {
            of[R] = tile<R>;
            if constexpr (R < L::rows) fill<R + 1>();
        }
        constexpr Tiles() : of{} { fill(); }
    };
    static constexpr Tiles tiles{};

    // All rows of a by `columns` (at most a panel's) columns.
    static void rows_by_panel(const W* a, ptrdiff_t lda, size_t m, const W* b, ptrdiff_t ldb, size_t k, W* c,
                              ptrdiff_t ldc, size_t columns, bool first, ptrdiff_t ahead) {
        for (size_t i = 0; i < m; i += L::rows) {
            const size_t rows = m - i < L::rows ? m - i : L::rows;
            const W* from = a + ptrdiff_t(i) * lda;
            W* to = c + ptrdiff_t(i) * ldc;
            if (columns == width) {
                tiles.of[rows](from, lda, b, ldb, k, to, ldc, first, ahead);
                continue;
            }
            W edge[L::rows * width];
            tiles.of[rows](from, lda, b, ldb, k, edge, width, true, ahead);
            for (size_t r = 0; r < rows; r++)
                for (size_t j = 0; j < columns; j++) {
                    W& word = to[ptrdiff_t(r) * ldc + ptrdiff_t(j)];
                    word = first ? edge[r * width + j] : W(word + edge[r * width + j]);
                }
        }
    }

    static void pack_panel(const W* b, ptrdiff_t row, ptrdiff_t column, size_t k, size_t columns, W* to) {
        if constexpr (requires(typename L::V* x) { L::transpose(x); })
            for (; columns == width && row == 1 && k >= L::lanes; k -= L::lanes, b += L::lanes, to += L::lanes * width)
                for (size_t v = 0; v < width; v += L::lanes) {
                    typename L::V square[L::lanes];
                    for (size_t j = 0; j < L::lanes; j++) square[j] = L::load(b + ptrdiff_t(v + j) * column);
                    L::transpose(square);
                    for (size_t i = 0; i < L::lanes; i++) L::store(to + i * width + v, square[i]);
                }
        if (columns == width && column == 1)
            for (size_t i = 0; i < k; i++, b += row, to += width)
                for (size_t j = 0; j < width; j++) to[j] = b[j];
        else
            for (size_t i = 0; i < k; i++, b += row, to += width)
                for (size_t j = 0; j < width; j++) to[j] = j < columns ? b[ptrdiff_t(j) * column] : 0;
    }

    static size_t panel(size_t k) { return k * width; }

    static void pack(const W* b, ptrdiff_t row, ptrdiff_t column, size_t k, size_t n, W* to) {
        for (size_t j = 0; j < n; j += width, to += k * width)
            pack_panel(b + ptrdiff_t(j) * column, row, column, k, n - j < width ? n - j : width, to);
    }

    // The whole panels' columns, read where they are. Returns how many columns that were.
    static size_t stream(const W* a, ptrdiff_t lda, size_t m, size_t k, Right<W> b, size_t n, W* c, ptrdiff_t ldc) {
        const size_t whole = n / width * width;
        for (size_t start = 0; start < whole; start += stretch / width * width) {
            const size_t end = whole - start < stretch / width * width ? whole : start + stretch / width * width;
            for (size_t i = 0; i < k; i += sweep) {
                const size_t steps = k - i < sweep ? k - i : sweep;
                for (size_t j = start; j < end; j += width)
                    rows_by_panel(a + i, lda, m, b.data + ptrdiff_t(i) * b.row + ptrdiff_t(j), b.row, steps, c + j, ldc,
                                  width, i == 0, ptrdiff_t(sweep) * b.row);
            }
        }
        return whole;
    }

    static void multiply(const W* a, ptrdiff_t lda, size_t m, size_t k, Right<W> b, size_t n, W* c, ptrdiff_t ldc) {
        alignas(64) W buffer[depth * width];
        const size_t done = b.panel == 0 && b.column == 1 && m <= skinny ? stream(a, lda, m, k, b, n, c, ldc) : 0;
        for (size_t i = 0; i < k; i += depth) {
            const size_t steps = k - i < depth ? k - i : depth;
            for (size_t j = done; j < n; j += width) {
                const size_t columns = n - j < width ? n - j : width;
                const W* block = buffer;
                if (b.panel != 0)
                    block = b.data + j / width * b.panel + i * width;
                else
                    pack_panel(b.data + ptrdiff_t(i) * b.row + ptrdiff_t(j) * b.column, b.row, b.column, steps, columns,
                               buffer);
                rows_by_panel(a + i, lda, m, block, width, steps, c + j, ldc, columns, i == 0, ptrdiff_t(b.panel));
            }
        }
    }

    static constexpr Matmul<W> all{width, panel, pack, multiply};
};

}  // namespace
}  // namespace mitai
