// For x86 with AMX (Intel since Sapphire Rapids), and the same on a CPU without, its unit emulated: for tests.
// NOTE: the emulation is tested; no test has run on a CPU with AMX yet.
#include "limbs.hpp"

namespace mitai {
namespace {

// Compilers' intrinsics don't tell them that tiles are loaded from memory: what was stored so far must be there by now.
inline void written(const void* data) { __asm__ volatile("" : : "r"(data) : "memory"); }

// Tiles 0 to 3 are the sums, 4 and 5 of a, 6 and 7 of b.
struct AmxTiles {
    AmxTiles() {
        struct {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shape;
        written(&shape);
        _tile_loadconfig(&shape);
    }
    ~AmxTiles() { _tile_release(); }
    AmxTiles(const AmxTiles&) = delete;
    AmxTiles& operator=(const AmxTiles&) = delete;
    void zero() {
        written(this);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    void step(const uint8_t* a, const uint8_t* b) {
        _tile_loadd(4, a, 64);
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + tile_bytes, 64);
        _tile_loadd(5, a + tile_bytes, 64);
        _tile_dpbuud(0, 4, 6);
        _tile_dpbuud(1, 4, 7);
        _tile_dpbuud(2, 5, 6);
        _tile_dpbuud(3, 5, 7);
    }
    void store(uint32_t* to) {
        _tile_stored(0, to, 128);
        _tile_stored(1, to + 16, 128);
        _tile_stored(2, to + 16 * 32, 128);
        _tile_stored(3, to + 16 * 32 + 16, 128);
    }
};

struct EmulatedTiles {
    uint32_t sums[32][32];
    void zero() {
        for (auto& row : sums)
            for (uint32_t& sum : row) sum = 0;
    }
    void step(const uint8_t* a, const uint8_t* b) {
        for (size_t m = 0; m < 32; m++)
            for (size_t k = 0; k < 64; k++) {
                const uint32_t left = a[m * 64 + k];
                for (size_t n = 0; n < 32; n++)
                    sums[m][n] += left * b[n / 16 * tile_bytes + k / 4 * 64 + n % 16 * 4 + k % 4];
            }
    }
    void store(uint32_t* to) {
        for (size_t m = 0; m < 32; m++)
            for (size_t n = 0; n < 32; n++) to[m * 32 + n] = sums[m][n];
    }
};

template <typename Tiles>
constexpr Kernels with(const char* name) {
    return {
        name,
        LimbGemm<Avx512Words, Tiles>::all,
        LimbGemm<Avx512Halves, Tiles>::all,
        one_hot,
        sum_products,
        add_waves,
        turn_waves,
        FieldPath<Avx512Lanes>::all,
        Sha256<Words16>::many,
        Sha256<Words16>::more,
    };
}

}  // namespace

const Kernels amx = with<AmxTiles>("amx");
const Kernels amx_emulated = with<EmulatedTiles>("amx-emulated");

}  // namespace mitai
