// For x86 with AVX-512 F, DQ, BW and VL (Intel since Skylake-SP, AMD since Zen 4).
#include "avx512.hpp"

const mitai::Kernels mitai::avx512 = {
    "avx512",
    Gemm<Avx512Words>::all,
    Gemm<Avx512Halves>::all,
    lookup512<uint8_t>,
    lookup512<uint16_t>,
    lookup512<uint32_t>,
    lookup512<uint64_t>,
    to_planes512,
    from_planes512,
    one_hot,
    bits_to_ring,
    bit_shares,
    sum_products,
    add_waves,
    turn_waves,
};
