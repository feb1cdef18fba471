// For every CPU.
#include "bits.hpp"
#include "field.hpp"
#include "matmul.hpp"
#include "waves.hpp"

namespace mitai {
namespace {

template <typename Word>
struct Plain {
    using W = Word;
    using V = W;
    using A = W;
    static constexpr size_t lanes = 1, rows = 4, vectors = 4;
    static V load(const W* p) { return *p; }
    static A zero() { return 0; }
    static W splat(W w) { return w; }
    static void mac(A& acc, W w, V v) { acc += w * v; }
    static void store(W* p, A acc) { *p = acc; }
    static void add(W* p, A acc) { *p += acc; }
};

}  // namespace
}  // namespace mitai

const mitai::Kernels mitai::generic = {
    "generic",
    Gemm<Plain<uint64_t>>::all,
    Gemm<Plain<uint32_t>>::all,
    one_hot,
    sum_products,
    add_waves,
    turn_waves,
    FieldPath<ScalarLanes>::all,
    Sha256<Words4>::many,
    Sha256<Words4>::more,
};
