// For x86 with AVX-512 F, DQ, BW and VL (Intel since Skylake-SP, AMD since Zen 4).
#include "avx512.hpp"

const mitai::Kernels mitai::avx512 = {
    "avx512",
    Gemm<Avx512Words>::all,
    Gemm<Avx512Halves>::all,
    one_hot,
    sum_products,
    add_waves,
    turn_waves,
    FieldPath<Avx512Lanes>::all,
    Sha256<Words16>::many,
    Sha256<Words16>::more,
};
