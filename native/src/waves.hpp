// Sums of waves of masked numbers (`mitai.mpc.two.waves`): of all multiples of an angle, by Chebyshev's recurrence.
//
// Parties compute the same public waves on different machines. So these are made of single operations on doubles that
// IEEE 754 defines, in one order, and no file that includes this may contract them into others (-ffp-contract=off).
// A block's state lies in L1; the floor is memory: 16 bytes for each frequency and number.
#pragma once

#include "kernels.hpp"

namespace mitai {
namespace {

constexpr size_t wave_block = 512;
// (-1)^i / (2 i + 1)! from i = 7 down to 0, and (-1)^i / (2 i)! from 8 to 1.
constexpr double sine_terms[] = {-1.0 / 1307674368000, 1.0 / 6227020800, -1.0 / 39916800, 1.0 / 362880,
                                 -1.0 / 5040,          1.0 / 120,        -1.0 / 6,        1.0};
constexpr double cosine_terms[] = {1.0 / 20922789888000, -1.0 / 87178291200, 1.0 / 479001600, -1.0 / 3628800,
                                   1.0 / 40320,          -1.0 / 720,         1.0 / 24,        -1.0 / 2};

struct Waves {
    double cosine[wave_block], sine[wave_block], cosine_before[wave_block], sine_before[wave_block], twice[wave_block];

    void begin(size_t n) {
        for (size_t i = 0; i < n; i++) {
            twice[i] = cosine[i] + cosine[i];
            cosine_before[i] = 1;
            sine_before[i] = 0;
        }
    }
    void next(size_t n) {
        for (size_t i = 0; i < n; i++) {
            const double c = cosine[i], s = sine[i];
            cosine[i] = twice[i] * c - cosine_before[i];
            sine[i] = twice[i] * s - sine_before[i];
            cosine_before[i] = c;
            sine_before[i] = s;
        }
    }
};

// Rounded to the nearest integer, to even ones in between, for |x| < 2^51: adding 1.5 * 2^52 leaves no bits of
// fraction, and the sum's last bits are the integer's.
inline uint64_t whole(double x) {
    constexpr double shift = 0x1.8p52;
    return __builtin_bit_cast(uint64_t, x + shift) - __builtin_bit_cast(uint64_t, shift);
}

// total += sum over k of cos(k t) factors[2 k - 2] + sin(k t) factors[2 k - 1], waves in units of 1 / scale. Turns t
// have 2 `bits` bits; `circle` holds cosines and sines of their upper halves, then of the lower ones.
inline void add_waves(const uint32_t* turns, const double* circle, size_t bits, double scale, const uint64_t* factors,
                      size_t count, size_t n, uint64_t* total) {
    const size_t size = size_t(1) << bits, low = size - 1;
    alignas(64) Waves now;
    for (size_t start = 0; start < n; start += wave_block) {
        const size_t length = n - start < wave_block ? n - start : wave_block;
        for (size_t i = 0; i < length; i++) {
            const size_t coarse = turns[start + i] >> bits & low, fine = turns[start + i] & low;
            const double c = circle[coarse], s = circle[size + coarse];
            const double d = circle[2 * size + fine], t = circle[3 * size + fine];
            now.cosine[i] = c * d - s * t;
            now.sine[i] = s * d + c * t;
        }
        now.begin(length);
        for (size_t k = 0; k < count; k++) {
            const uint64_t *first = factors + 2 * k * n + start, *second = first + n;
            for (size_t i = 0; i < length; i++)
                total[start + i] += whole(now.cosine[i] * scale) * first[i] + whole(now.sine[i] * scale) * second[i];
            now.next(length);
        }
    }
}

// Cosine and sine of t / 2^32 of a turn, to about 2^-52: Taylor's series within an eighth of a turn from the nearest
// quarter, and that quarter's exchange and signs. No branch and no address depends on t.
inline void wave_of(uint32_t t, double& cosine, double& sine) {
    const uint32_t quarter = (t + 0x20000000) >> 30;
    const double x = double(int32_t(t - (quarter << 30))) * 0x1.921fb54442d18p-30;  // 2 pi / 2^32
    const double y = x * x;
    double s = sine_terms[0], c = cosine_terms[0];
    for (size_t i = 1; i < 8; i++) {
        s = s * y + sine_terms[i];
        c = c * y + cosine_terms[i];
    }
    const uint64_t sine_bits = __builtin_bit_cast(uint64_t, s* x), cosine_bits = __builtin_bit_cast(uint64_t, c* y + 1);
    const uint64_t exchange = (sine_bits ^ cosine_bits) & (0 - uint64_t(quarter & 1));
    const uint64_t top = uint64_t(1) << 63, minus_sine = uint64_t(quarter) << 62 & top;
    const uint64_t minus_cosine = uint64_t(quarter + 1) << 62 & top;
    cosine = __builtin_bit_cast(double, cosine_bits ^ exchange ^ minus_cosine);
    sine = __builtin_bit_cast(double, sine_bits ^ exchange ^ minus_sine);
}

// out[2 k - 2] = a_k cos(k t) - b_k sin(k t) and out[2 k - 1] = a_k sin(k t) + b_k cos(k t), t in 2^-32 of a turn.
inline void turn_waves(const uint32_t* turns, const double* a, const double* b, size_t count, size_t n, uint64_t* out) {
    alignas(64) Waves now;
    for (size_t start = 0; start < n; start += wave_block) {
        const size_t length = n - start < wave_block ? n - start : wave_block;
        for (size_t i = 0; i < length; i++) wave_of(turns[start + i], now.cosine[i], now.sine[i]);
        now.begin(length);
        for (size_t k = 0; k < count; k++) {
            uint64_t *first = out + 2 * k * n + start, *second = first + n;
            for (size_t i = 0; i < length; i++) {
                first[i] = whole(a[k] * now.cosine[i] - b[k] * now.sine[i]);
                second[i] = whole(a[k] * now.sine[i] + b[k] * now.cosine[i]);
            }
            now.next(length);
        }
    }
}

}  // namespace
}  // namespace mitai
