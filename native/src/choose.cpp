#include "kernels.hpp"

#if defined(MITAI_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mitai {

#ifdef MITAI_X86
// Whether the CPU has AMX (CPUID leaf 7: AMX-TILE, AMX-INT8) and the kernel lets this process use its registers. GCC's
// own check knows AMX from version 13 on only.
static bool has_amx() {
#if defined(__linux__)
    unsigned a = 7, b = 0, c = 0, d = 0;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    constexpr int request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return (d >> 24 & 3) == 3 && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}
#endif

struct List {
    const Kernels* paths[6] = {};
    List() {
        size_t count = 0;
#ifdef MITAI_X86
        __builtin_cpu_init();
        const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
        const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
        if (has_avx512 && has_amx()) paths[count++] = &amx;
        if (has_avx512) paths[count++] = &avx512;
        if (has_avx2) paths[count++] = &avx2;
        paths[count++] = &generic;
        if (has_avx512) paths[count++] = &amx_emulated;
#else
        paths[count++] = &generic;
#endif
    }
};

const Kernels* const* available() {
    static const List list;
    return list.paths;
}

}  // namespace mitai
