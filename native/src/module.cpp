// The functions as Python sees them. Arguments were checked by `mitai.mpc.kernels` and `mitai.proof.kernels`, but for
// their types.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kernels.hpp"

namespace nb = nanobind;
using namespace mitai;
using namespace nb::literals;

namespace {

template <typename W>
using In = nb::ndarray<nb::numpy, const W, nb::device::cpu>;
template <typename W>
using Out = nb::ndarray<nb::numpy, W, nb::device::cpu, nb::c_contig>;
template <typename W>
using Dense = nb::ndarray<nb::numpy, const W, nb::device::cpu, nb::c_contig>;

std::vector<std::string> paths() {
    std::vector<std::string> names;
    for (auto path = available(); *path != nullptr; path++) names.emplace_back((*path)->name);
    return names;
}

const Kernels& path_named(const std::string& name) {
    for (auto path = available(); *path != nullptr; path++)
        if (name == (*path)->name) return **path;
    throw std::invalid_argument("this CPU has no path " + name);
}

template <typename W>
const Matmul<W>& product_of(const std::string& path) {
    if constexpr (sizeof(W) == 8)
        return path_named(path).matmul64;
    else
        return path_named(path).matmul32;
}

// Runs work(0) … work(count - 1) on up to `threads` threads, this one among them.
template <typename Work>
void in_parallel(size_t count, size_t threads, const Work& work) {
    std::atomic<size_t> next{0};
    const auto run = [&] {
        for (size_t i; (i = next++) < count;) work(i);
    };
    std::vector<std::jthread> others;
    for (size_t t = 1; t < std::min(threads, count); t++) others.emplace_back(run);
    run();
}

// A stack of products, cut into pieces of columns, or of rows where there are too few columns for all threads.
template <typename W>
void multiply(const Matmul<W>& product, const In<W>& a, const In<W>* b, const W* packed, size_t n, const Out<W>& out,
              size_t threads) {
    const size_t last = a.ndim() - 1, m = a.shape(last - 1), k = a.shape(last);
    size_t stack = 1;
    for (size_t d = 0; d + 1 < last; d++) stack *= a.shape(d);
    if (out.size() != stack * m * n || (b != nullptr && b->ndim() != a.ndim()))
        throw std::invalid_argument("factors and product don't fit together");
    const size_t units = (n + product.unit - 1) / product.unit;
    const size_t wanted = threads == 1 ? 1 : (2 * threads + stack - 1) / std::max<size_t>(stack, 1);
    const size_t by_columns = std::max<size_t>(1, std::min(units, wanted));
    const size_t by_rows = std::max<size_t>(1, std::min((m + 31) / 32, (wanted + by_columns - 1) / by_columns));
    const size_t columns = (units + by_columns - 1) / by_columns * product.unit, rows = (m + by_rows - 1) / by_rows;
    in_parallel(stack * by_columns * by_rows, threads, [&](size_t piece) {
        const size_t j = piece % by_columns * columns, i = piece / by_columns % by_rows * rows;
        if (j >= n || i >= m) return;
        size_t index = piece / by_columns / by_rows;
        const W* left = a.data() + ptrdiff_t(i) * a.stride(last - 1);
        W* to = out.data() + (index * m + i) * n + j;
        const size_t panel = product.panel(k);
        Right<W> right = b == nullptr ? Right<W>{packed + j / product.unit * panel, 0, 0, panel}
                                      : Right<W>{b->data() + ptrdiff_t(j) * b->stride(last), b->stride(last - 1),
                                                 b->stride(last), 0};
        for (size_t d = last - 1; d-- > 0; index /= a.shape(d)) {
            left += ptrdiff_t(index % a.shape(d)) * a.stride(d);
            if (b != nullptr) right.data += ptrdiff_t(index % a.shape(d)) * b->stride(d);
        }
        product.multiply(left, a.stride(last - 1), std::min(rows, m - i), k, right, std::min(columns, n - j), to,
                         ptrdiff_t(n));
    });
}

template <typename W>
void bind_words(nb::module_& m) {
    m.def("matmul", [](const std::string& path, In<W> a, In<W> b, Out<W> out, size_t threads) {
        const nb::gil_scoped_release unlocked;
        multiply<W>(product_of<W>(path), a, &b, nullptr, b.shape(b.ndim() - 1), out, threads);
    });
    m.def("matmul_packed",
          [](const std::string& path, In<W> a, Dense<W> packed, size_t columns, Out<W> out, size_t threads) {
              const nb::gil_scoped_release unlocked;
              multiply<W>(product_of<W>(path), a, nullptr, packed.data(), columns, out, threads);
          });
    m.def("pack", [](const std::string& path, In<W> b, Out<W> to) {
        const nb::gil_scoped_release unlocked;
        product_of<W>(path).pack(b.data(), b.stride(0), b.stride(1), b.shape(0), b.shape(1), to.data());
    });
}

// -- the field of proofs: tables are (n,) of F or (n, 2) of K ----------------------------------------------------

constexpr size_t worth_a_thread = 1 << 14;  // elements

FieldTable table(const Dense<uint64_t>& x) { return {x.data(), x.ndim() == 2}; }

template <typename Work>
void in_ranges(size_t n, size_t threads, const Work& work) {
    const size_t pieces = std::max<size_t>(1, std::min(threads, n / worth_a_thread));
    const size_t each = (n / pieces + 7) / 8 * 8;
    in_parallel(pieces, threads, [&](size_t i) {
        work(i, std::min(n, i * each), i + 1 == pieces ? n : std::min(n, (i + 1) * each));
    });
}

void bind_field(nb::module_& m) {
    m.def("field_fold", [](const std::string& path, Dense<uint64_t> t, Dense<uint64_t> by, Out<uint64_t> out,
                           size_t threads) {
        const nb::gil_scoped_release unlocked;
        const auto& field = path_named(path).field;
        const size_t half = t.shape(0) / 2;
        in_ranges(half, threads, [&](size_t, size_t from, size_t to) {
            field.fold(table(t), half, by.data(), out.data(), from, to);
        });
    });
    m.def("field_half_sums", [](const std::string& path, const std::vector<Dense<uint64_t>>& factors,
                                std::optional<Dense<uint64_t>> weights, bool upper, Out<uint64_t> sums,
                                size_t threads) {
        const nb::gil_scoped_release unlocked;
        const auto& field = path_named(path).field;
        const size_t half = factors[0].shape(0) / 2;
        std::vector<FieldTable> tables;
        for (const auto& one : factors) tables.push_back(table(one));
        in_ranges(half, std::min(threads, sums.shape(0)), [&](size_t piece, size_t from, size_t to) {
            field.half_sums(tables.data(), tables.size() / 2, weights ? weights->data() : nullptr, half, upper, from,
                            to, sums.data() + 4 * piece);
        });
    });
    m.def("field_equality", [](const std::string& path, Dense<uint64_t> point, Out<uint64_t> out, size_t threads) {
        const nb::gil_scoped_release unlocked;
        const auto& field = path_named(path).field;
        size_t size = 1;
        for (size_t i = point.shape(0); i-- > 0; size *= 2)
            in_ranges(size, threads, [&](size_t, size_t from, size_t to) {
                field.double_weights(out.data(), size, point.data() + 2 * i, from, to);
            });
    });
    m.def("field_add", [](const std::string& path, Dense<uint64_t> a, Dense<uint64_t> b, Out<uint64_t> out,
                          size_t threads) {
        const nb::gil_scoped_release unlocked;
        const auto& field = path_named(path).field;
        in_ranges(out.size(), threads, [&](size_t, size_t from, size_t to) {
            field.add_words(a.data(), b.data(), out.data(), from, to);
        });
    });
    m.def("field_add_multiple", [](const std::string& path, Dense<uint64_t> t, Dense<uint64_t> by,
                                   Dense<uint64_t> other, Out<uint64_t> out, size_t threads) {
        const nb::gil_scoped_release unlocked;
        const auto& field = path_named(path).field;
        in_ranges(out.shape(0), threads, [&](size_t, size_t from, size_t to) {
            field.add_multiple(table(t), by.data(), table(other), out.data(), from, to);
        });
    });
    m.def("field_add_fractions", [](const std::string& path, Dense<uint64_t> p, Dense<uint64_t> q,
                                    Out<uint64_t> p_out, Out<uint64_t> q_out, size_t threads) {
        const nb::gil_scoped_release unlocked;
        const auto& field = path_named(path).field;
        const size_t half = p_out.shape(0);
        in_ranges(half, threads, [&](size_t, size_t from, size_t to) {
            field.add_fractions(table(p), table(q), half, p_out.data(), q_out.data(), from, to);
        });
    });
    m.def("field_combine", [](const std::string& path, Dense<uint64_t> constant, Dense<uint64_t> factors,
                              const std::vector<Dense<uint64_t>>& arrays, Out<uint64_t> out, size_t threads) {
        const nb::gil_scoped_release unlocked;
        const auto& field = path_named(path).field;
        std::vector<const uint64_t*> data;
        for (const auto& one : arrays) data.push_back(one.data());
        in_ranges(out.shape(0), threads, [&](size_t, size_t from, size_t to) {
            field.combine(constant.data(), factors.data(), data.data(), data.size(), out.data(), from, to);
        });
    });
    m.def("field_contract", [](const std::string& path, Dense<uint64_t> x, Dense<uint64_t> weights, Out<uint64_t> out,
                               size_t threads) {
        const nb::gil_scoped_release unlocked;
        const auto& field = path_named(path).field;
        const size_t stacks = x.shape(0), n = x.shape(1), columns = x.shape(2);
        const size_t wanted = stacks >= 2 * threads ? 1 : threads;
        const size_t pieces = std::max<size_t>(1, std::min(wanted, columns / 64));
        const size_t each = (columns / pieces + 7) / 8 * 8;
        const size_t together = std::max<size_t>(1, std::min(stacks / threads, worth_a_thread / (n * columns + 1)));
        const size_t groups = (stacks + together - 1) / together;
        in_parallel(groups * pieces, stacks * n * columns < worth_a_thread ? 1 : threads, [&](size_t job) {
            const size_t piece = job % pieces, first = job / pieces * together;
            const size_t from = std::min(columns, piece * each);
            const size_t to = piece + 1 == pieces ? columns : std::min(columns, from + each);
            for (size_t stack = first; stack < std::min(stacks, first + together); stack++)
                field.contract(x.data() + stack * n * columns, columns, n, weights.data(),
                               out.data() + 2 * stack * columns, from, to);
        });
    });
    m.def("field_encode", [](const std::string& path, Dense<uint64_t> x, Dense<uint64_t> shifts,
                             Dense<uint64_t> twiddles, uint64_t root, Out<uint64_t> out, size_t threads,
                             std::optional<Dense<uint64_t>> more) {
        const nb::gil_scoped_release unlocked;
        const auto& field = path_named(path).field;
        const size_t coefficients = x.shape(0), rows = x.shape(1), block = std::min<size_t>(8, rows);
        const size_t cosets = shifts.shape(0), count = shifts.shape(1), size = out.shape(0) / cosets;
        const size_t used = out.size() < 4 * worth_a_thread ? 1 : threads;
        in_parallel(rows / block * cosets, used, [&](size_t job) {
            static thread_local std::vector<uint64_t> kept;
            kept.resize(size * block + 8);
            uint64_t* buffer = kept.data() + (64 - reinterpret_cast<uintptr_t>(kept.data()) % 64) % 64 / 8;
            const size_t first = job / cosets * block, coset = job % cosets;
            field.encode(x.data() + first, coefficients, more ? more->data() + first : nullptr, count, size, rows,
                         shifts.data() + coset * count, twiddles.data(), root, buffer,
                         out.data() + coset * size * rows + first);
        });
    }, "path"_a, "x"_a, "shifts"_a, "twiddles"_a, "root"_a, "out"_a, "threads"_a, "more"_a.none() = nb::none());
    m.def("field_residues", [](Dense<int32_t> x, Out<uint64_t> out, size_t threads) {
        const nb::gil_scoped_release unlocked;
        constexpr uint64_t prime = 0xffffffff00000001;
        const int32_t* of = x.data();
        uint64_t* to_words = out.data();
        in_ranges(out.size(), threads, [=](size_t, size_t from, size_t to) {
            for (size_t i = from; i < to; i++) to_words[i] = uint64_t(int64_t(of[i])) + (of[i] < 0 ? prime : 0);
        });
    });
    m.def("sha256_more", [](const std::string& path, Out<uint32_t> hashes, Dense<uint8_t> messages, size_t threads) {
        const nb::gil_scoped_release unlocked;
        const auto& kernels = path_named(path);
        const size_t count = messages.shape(0), length = messages.shape(1), together = 64;
        const size_t used = count * length < worth_a_thread ? 1 : threads;
        in_parallel((count + together - 1) / together, used, [&](size_t job) {
            const size_t first = job * together;
            kernels.sha256_more(hashes.data() + 9 * first, messages.data() + first * length, length,
                                std::min(together, count - first));
        });
    });
    m.def("sha256", [](const std::string& path, uint8_t prefix, Dense<uint8_t> messages, Out<uint8_t> out,
                       size_t threads) {
        const nb::gil_scoped_release unlocked;
        const auto& kernels = path_named(path);
        const size_t count = messages.shape(0), length = messages.shape(1), together = 64;
        const size_t used = count * length < worth_a_thread ? 1 : threads;
        in_parallel((count + together - 1) / together, used, [&](size_t job) {
            const size_t first = job * together;
            kernels.sha256(prefix, messages.data() + first * length, length, std::min(together, count - first),
                           out.data() + 32 * first);
        });
    });
}

}  // namespace

NB_MODULE(kernels, m) {
    m.doc() = "Compiled kernels of mitai.mpc.kernels and mitai.proof.kernels, which describe them.";
    m.def("paths", paths, "The paths that run on this CPU, the fastest first.");
    m.def("packed_words", [](const std::string& path, size_t word_bytes, size_t rows, size_t columns) {
        const auto words = [=](const auto& product) {
            return (columns + product.unit - 1) / product.unit * product.panel(rows);
        };
        return word_bytes == 8 ? words(product_of<uint64_t>(path)) : words(product_of<uint32_t>(path));
    });
    bind_words<uint64_t>(m);
    bind_words<uint32_t>(m);
    m.def("one_hot", [](const std::string& path, Dense<uint64_t> r, Out<uint64_t> out) {
        const nb::gil_scoped_release unlocked;
        path_named(path).one_hot(r.data(), out.shape(0), out.shape(1), out.data());
    });
    m.def("sum_products", [](const std::string& path, Dense<uint8_t> planes, Dense<int32_t> sum_ends,
                             Dense<int32_t> term_ends, Dense<int32_t> factors, Out<uint8_t> out) {
        const nb::gil_scoped_release unlocked;
        path_named(path).sum_products(planes.data(), planes.shape(1), sum_ends.data(), sum_ends.size(),
                                      term_ends.data(), factors.data(), out.data());
    });
    m.def("add_waves", [](const std::string& path, Dense<uint32_t> turns, Dense<double> circle, double scale,
                          Dense<uint64_t> factors, Out<uint64_t> total) {
        const nb::gil_scoped_release unlocked;
        size_t bits = 0;
        while (size_t(4) << bits < circle.size()) bits++;
        path_named(path).add_waves(turns.data(), circle.data(), bits, scale, factors.data(), factors.shape(0) / 2,
                                   total.size(), total.data());
    });
    m.def("turn_waves",
          [](const std::string& path, Dense<uint32_t> turns, Dense<double> a, Dense<double> b, Out<uint64_t> out) {
              const nb::gil_scoped_release unlocked;
              path_named(path).turn_waves(turns.data(), a.data(), b.data(), a.size(), turns.size(), out.data());
          });
    bind_field(m);
}
