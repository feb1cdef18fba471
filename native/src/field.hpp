// What a prover computes over F, the integers modulo p = 2^64 - 2^32 + 1, and its extension K = F[X] / (X^2 - 7), of
// which an element is two words (src/mitai/proof/field.py says the same in Python).
//
// A path gives `Lanes`: vectors of elements of F with add, sub and mul. What bounds the speed of all of this is `mul`,
// but for tables that don't fit into a cache, which are read as fast as the memory allows.
//
// All words are below p, on the way in and on the way out. Nothing here is secret.
#pragma once

#include "kernels.hpp"
#include "sha256.hpp"

namespace mitai {
namespace {

constexpr uint64_t prime = 0xffffffff00000001, epsilon = 0xffffffff;  // 2^64 = epsilon modulo p

struct ScalarLanes {
    using V = uint64_t;
    static constexpr size_t lanes = 1;
    static V load(const uint64_t* p) { return *p; }
    static V load_spread(const uint64_t* p) { return *p; }
    static void load_pairs(const uint64_t* p, V& a, V& b) { a = p[0], b = p[1]; }
    static void store(uint64_t* p, V x) { *p = x; }
    static void store_pairs(uint64_t* p, V a, V b) { p[0] = a, p[1] = b; }
    static V splat(uint64_t x) { return x; }
    static V if_below(V x, V y, V value) { return (0 - V(x < y)) & value; }  // without a branch
    static V sub(V x, V y) { return x - y + if_below(x, y, prime); }
    static V add(V x, V y) { return sub(x, prime - y); }
    static V sum(V x, V y) { return add(x, y); }
    static V seven(V x) { return mul(x, 7); }
    static V mul(V x, V y) {
        __extension__ using Wide = unsigned __int128;
        const Wide product = Wide(x) * y;
        const uint64_t low = uint64_t(product), high = uint64_t(product >> 64), top = high >> 32;
        const uint64_t rest = low - top - if_below(low, top, epsilon), middle = (high & epsilon) * epsilon;
        const uint64_t sum = rest + middle;
        const uint64_t reduced = sum + if_below(sum, rest, epsilon);
        return reduced - prime + if_below(reduced, prime, prime);
    }
};

template <typename L>
struct Extended {
    typename L::V a, b;
};

template <typename L>
struct Field {
    using V = typename L::V;
    using E = Extended<L>;

    static E load(const uint64_t* p, size_t i) {
        E x;
        L::load_pairs(p + 2 * i, x.a, x.b);
        return x;
    }
    static E load(FieldTable t, size_t i) {
        return t.wide ? load(t.data, i) : E{L::load_spread(t.data + i), L::splat(0)};
    }
    static void store(uint64_t* p, size_t i, const E& x) { L::store_pairs(p + 2 * i, x.a, x.b); }
    static E splat(const uint64_t* p) { return {L::splat(p[0]), L::splat(p[1])}; }
    static E add(const E& x, const E& y) { return {L::add(x.a, y.a), L::add(x.b, y.b)}; }
    static E sub(const E& x, const E& y) { return {L::sub(x.a, y.a), L::sub(x.b, y.b)}; }
    static E scale(const E& x, V by) { return {L::mul(x.a, by), L::mul(x.b, by)}; }
    static E mul(const E& x, const E& y) {
        const V first = L::mul(x.a, y.a), last = L::mul(x.b, y.b);
        const V both = L::mul(L::sum(x.a, x.b), L::sum(y.a, y.b));
        return {L::add(L::seven(last), first), L::sub(L::sub(both, first), last)};
    }
    static E product(const E& x, bool wide_x, const E& y, bool wide_y) {
        if (wide_x && wide_y) return mul(x, y);
        if (wide_x) return scale(x, y.a);
        if (wide_y) return scale(y, x.a);
        return {L::mul(x.a, y.a), L::splat(0)};
    }

    static void fold(FieldTable t, size_t half, const uint64_t* by, uint64_t* out, size_t from, size_t to) {
        const E factor = splat(by);
        for (size_t i = from; i < to; i += L::lanes) {
            const E lower = load(t, i), difference = sub(load(t, i + half), lower);
            store(out, i, add(lower, product(factor, true, difference, t.wide)));
        }
    }

    static void half_sums(const FieldTable* tables, size_t pairs, const uint64_t* weights, size_t half, bool upper,
                          size_t from, size_t to, uint64_t* sums) {
        E known{L::splat(0), L::splat(0)}, square = known;
        for (size_t i = from; i < to; i += L::lanes) {
            E first{L::splat(0), L::splat(0)}, second = first;
            for (size_t pair = 0; pair < pairs; pair++) {
                const FieldTable a = tables[2 * pair], b = tables[2 * pair + 1];
                const E a0 = load(a, i), a1 = load(a, i + half), b0 = load(b, i), b1 = load(b, i + half);
                first = add(first, product(upper ? a1 : a0, a.wide, upper ? b1 : b0, b.wide));
                second = add(second, product(sub(a1, a0), a.wide, sub(b1, b0), b.wide));
            }
            if (weights != nullptr) {
                const E weight = load(weights, i);
                first = mul(first, weight), second = mul(second, weight);
            }
            known = add(known, first), square = add(square, second);
        }
        gather(known.a, sums), gather(known.b, sums + 1), gather(square.a, sums + 2), gather(square.b, sums + 3);
    }

    static void gather(V x, uint64_t* sum) {
        uint64_t each[L::lanes];
        L::store(each, x);
        for (const uint64_t one : each) *sum = ScalarLanes::add(*sum, one);
    }

    // out[size + i] = out[i] * by, and out[i] -= that.
    static void double_weights(uint64_t* out, size_t size, const uint64_t* by, size_t from, size_t to) {
        const E factor = splat(by);
        for (size_t i = from; i < to; i += L::lanes) {
            const E x = load(out, i), upper = mul(x, factor);
            store(out, size + i, upper), store(out, i, sub(x, upper));
        }
    }

    static void add_words(const uint64_t* a, const uint64_t* b, uint64_t* out, size_t from, size_t to) {
        for (size_t i = from; i < to; i += L::lanes) L::store(out + i, L::add(L::load(a + i), L::load(b + i)));
    }

    static void add_multiple(FieldTable t, const uint64_t* by, FieldTable other, uint64_t* out, size_t from,
                             size_t to) {
        const E factor = splat(by);
        for (size_t i = from; i < to; i += L::lanes)
            store(out, i, add(load(t, i), product(factor, true, load(other, i), other.wide)));
    }

    static void add_fractions(FieldTable p, FieldTable q, size_t half, uint64_t* p_out, uint64_t* q_out, size_t from,
                              size_t to) {
        for (size_t i = from; i < to; i += L::lanes) {
            const E p0 = load(p, i), p1 = load(p, i + half), q0 = load(q, i), q1 = load(q, i + half);
            store(p_out, i, add(product(p0, p.wide, q1, q.wide), product(p1, p.wide, q0, q.wide)));
            store(q_out, i, product(q0, q.wide, q1, q.wide));
        }
    }

    static void combine(const uint64_t* constant, const uint64_t* factors, const uint64_t* const* arrays, size_t count,
                        uint64_t* out, size_t from, size_t to) {
        for (size_t i = from; i < to; i += L::lanes) {
            E sum = splat(constant);
            for (size_t k = 0; k < count; k++)
                sum = add(sum, scale(splat(factors + 2 * k), L::load_spread(arrays[k] + i)));
            store(out, i, sum);
        }
    }

    // One sum over n, which is added to `out`: of columns `from` to `to`, with rows `columns` words apart.
    static void contract(const uint64_t* x, size_t columns, size_t n, const uint64_t* weights, uint64_t* out,
                         size_t from, size_t to) {
        for (size_t i = 0; i < n; i++) {
            const E weight = splat(weights + 2 * i);
            for (size_t j = from; j < to; j += L::lanes)
                store(out, j, add(load(out, j), scale(weight, L::load_spread(x + i * columns + j))));
        }
    }

    // The same of one column, whose words are adjacent.
    static void contract_row(const uint64_t* x, const uint64_t* weights, size_t from, size_t to, uint64_t* sum) {
        E total{L::splat(0), L::splat(0)};
        for (size_t i = from; i < to; i += L::lanes)
            total = add(total, scale(load(weights, i), L::load_spread(x + i)));
        gather(total.a, sum), gather(total.b, sum + 1);
    }

    // One step of radix 4 (two of radix 2) of a transform, decimation in frequency, of `size` positions of `block`
    // words: twiddles are w^2k, w^k and w^3k in turn.
    template <size_t block>
    static void radix4(uint64_t* x, size_t size, const uint64_t* twiddles, V root) {
        const size_t step = size / 4 * block;
        for (size_t k = 0; k < size / 4; k++, twiddles += 3)
            for (size_t lane = 0; lane < block; lane += L::lanes) {
                uint64_t* at = x + k * block + lane;
                const V a0 = L::load(at), a1 = L::load(at + step), a2 = L::load(at + 2 * step),
                        a3 = L::load(at + 3 * step);
                const V even = L::add(a0, a2), odd = L::add(a1, a3);
                const V low = L::sub(a0, a2), turned = L::mul(L::sub(a1, a3), root);
                L::store(at, L::add(even, odd));
                L::store(at + step, L::mul(L::sub(even, odd), L::splat(twiddles[0])));
                L::store(at + 2 * step, L::mul(L::add(low, turned), L::splat(twiddles[1])));
                L::store(at + 3 * step, L::mul(L::sub(low, turned), L::splat(twiddles[2])));
            }
    }

    template <size_t block>
    static void transform(uint64_t* x, size_t size, const uint64_t* twiddles, V root) {
        if (size > 256) {  // depth first, so that parts lie in ever smaller caches
            radix4<block>(x, size, twiddles, root);
            for (size_t part = 0; part < 4; part++)
                transform<block>(x + part * (size / 4) * block, size / 4, twiddles + size / 4 * 3, root);
            return;
        }
        size_t now = size;
        for (; now >= 4; twiddles += now / 4 * 3, now /= 4)
            for (size_t start = 0; start < size; start += now) radix4<block>(x + start * block, now, twiddles, root);
        if (now == 2)
            for (size_t i = 0; i < size * block; i += 2 * block)
                for (size_t lane = 0; lane < block; lane += L::lanes) {
                    const V a = L::load(x + i + lane), b = L::load(x + i + block + lane);
                    L::store(x + i + lane, L::add(a, b)), L::store(x + i + block + lane, L::sub(a, b));
                }
    }

    // One coset of the code of `block` rows: x, more and out have positions `rows` words apart; shifts are its powers.
    // X^size is the same number at all of its places, so that later coefficients are added to earlier ones.
    template <size_t block>
    static void encode(const uint64_t* x, size_t first, const uint64_t* more, size_t count, size_t size, size_t rows,
                       const uint64_t* shifts, const uint64_t* twiddles, uint64_t root, uint64_t* buffer,
                       uint64_t* out) {
        for (size_t c = 0; c < count; c++) {
            const uint64_t* from = c < first ? x + c * rows : more + (c - first) * rows;
            uint64_t* to = buffer + (c & (size - 1)) * block;
            const V shift = L::splat(shifts[c]);
            for (size_t lane = 0; lane < block; lane += L::lanes) {
                const V shifted = L::mul(L::load(from + lane), shift);
                L::store(to + lane, c < size ? shifted : L::add(L::load(to + lane), shifted));
            }
        }
        for (size_t i = count * block; i < size * block; i++) buffer[i] = 0;
        transform<block>(buffer, size, twiddles, L::splat(root));
        for (size_t c = 0; c < size; c++)
            for (size_t lane = 0; lane < block; lane += L::lanes)
                L::store(out + c * rows + lane, L::load(buffer + c * block + lane));
    }
};

// The same for any range: whole vectors first, then one by one.
template <typename L>
struct FieldPath {
    using Vector = Field<L>;
    using Single = Field<ScalarLanes>;

    static size_t whole(size_t from, size_t to) { return from + (to - from) / L::lanes * L::lanes; }

    static void fold(FieldTable t, size_t half, const uint64_t* by, uint64_t* out, size_t from, size_t to) {
        const size_t middle = whole(from, to);
        Vector::fold(t, half, by, out, from, middle), Single::fold(t, half, by, out, middle, to);
    }
    static void half_sums(const FieldTable* tables, size_t pairs, const uint64_t* weights, size_t half, bool upper,
                          size_t from, size_t to, uint64_t* sums) {
        const size_t middle = whole(from, to);
        Vector::half_sums(tables, pairs, weights, half, upper, from, middle, sums);
        Single::half_sums(tables, pairs, weights, half, upper, middle, to, sums);
    }
    static void double_weights(uint64_t* out, size_t size, const uint64_t* by, size_t from, size_t to) {
        const size_t middle = whole(from, to);
        Vector::double_weights(out, size, by, from, middle), Single::double_weights(out, size, by, middle, to);
    }
    static void add_words(const uint64_t* a, const uint64_t* b, uint64_t* out, size_t from, size_t to) {
        const size_t middle = whole(from, to);
        Vector::add_words(a, b, out, from, middle), Single::add_words(a, b, out, middle, to);
    }
    static void add_multiple(FieldTable t, const uint64_t* by, FieldTable other, uint64_t* out, size_t from,
                             size_t to) {
        const size_t middle = whole(from, to);
        Vector::add_multiple(t, by, other, out, from, middle), Single::add_multiple(t, by, other, out, middle, to);
    }
    static void add_fractions(FieldTable p, FieldTable q, size_t half, uint64_t* p_out, uint64_t* q_out, size_t from,
                              size_t to) {
        const size_t middle = whole(from, to);
        Vector::add_fractions(p, q, half, p_out, q_out, from, middle);
        Single::add_fractions(p, q, half, p_out, q_out, middle, to);
    }
    static void combine(const uint64_t* constant, const uint64_t* factors, const uint64_t* const* arrays, size_t count,
                        uint64_t* out, size_t from, size_t to) {
        const size_t middle = whole(from, to);
        Vector::combine(constant, factors, arrays, count, out, from, middle);
        Single::combine(constant, factors, arrays, count, out, middle, to);
    }
    static void contract(const uint64_t* x, size_t columns, size_t n, const uint64_t* weights, uint64_t* out,
                         size_t from, size_t to) {
        if (columns == 1) {
            const size_t middle = whole(0, n);
            Vector::contract_row(x, weights, 0, middle, out), Single::contract_row(x, weights, middle, n, out);
            return;
        }
        const size_t middle = whole(from, to);
        Vector::contract(x, columns, n, weights, out, from, middle);
        Single::contract(x, columns, n, weights, out, middle, to);
    }
    static void encode(const uint64_t* x, size_t first, const uint64_t* more, size_t count, size_t size, size_t rows,
                       const uint64_t* shifts, const uint64_t* twiddles, uint64_t root, uint64_t* buffer,
                       uint64_t* out) {
        const auto block = rows == 1   ? Single::template encode<1>
                           : rows == 2 ? Single::template encode<2>
                           : rows == 4 ? Single::template encode<4>
                                       : Vector::template encode<8>;
        block(x, first, more, count, size, rows, shifts, twiddles, root, buffer, out);
    }

    static constexpr FieldKernels all{fold,          half_sums, double_weights, add_words, add_multiple,
                                      add_fractions, combine,   contract,       encode};
};

}  // namespace
}  // namespace mitai
