"""Known answers of the kernels; that all paths agree is a property (tests/property)."""

import numpy as np

from mitai.mpc import kernels


def test_words_are_aes_in_counter_mode():
    # NIST SP 800-38A has no zero plaintext; FIPS 197 appendix: AES-128 of a zero block under a zero key.
    words = kernels.prg(bytes(16), 0, 0, 2)
    assert words.tobytes().hex() == "66e94bd4ef8a2c3b884cfa59ca342b2e"


def test_words_anywhere():
    whole = kernels.prg(b"k" * 16, 7, 0, 70_001)
    for offset, n in ((0, 0), (1, 1), (1, 4), (2, 3), (32_767, 37_000)):
        assert (kernels.prg(b"k" * 16, 7, offset, n) == whole[offset : offset + n]).all()


def test_lookup():
    rng = np.random.default_rng(1)
    for bits in range(9):
        for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
            size = 1 << bits
            table = rng.integers(0, np.iinfo(dtype).max, size, dtype, endpoint=True)
            x, r = rng.integers(0, size, (2, 300), np.uint64)
            hot = kernels.one_hot(r, bits)
            mask = rng.integers(0, 1 << 64, hot.shape, np.uint64)
            c = (x + r) % np.uint64(size)
            got = kernels.lookup(hot ^ mask, c, table) ^ kernels.lookup(mask, c, table)
            assert (got == table[x]).all() and got.dtype == dtype


def test_planes_and_bits():
    rng = np.random.default_rng(1)
    for n in (0, 1, 63, 64, 65, 1000):
        for bits in (1, 7, 8, 9, 32, 63, 64):
            x = rng.integers(0, 1 << 64, n, np.uint64) >> np.uint64(64 - bits)
            planes = kernels.to_planes(x, bits)
            assert planes.shape == (bits, -(-n // 64))
            assert (kernels.from_planes(planes, n) == x).all()
            r, other = (
                rng.integers(0, 1 << 64, n, np.uint64) >> np.uint64(64 - bits),
                rng.integers(0, 1 << 64, (n, bits), np.uint64),
            )
            mine = kernels.bit_shares(r, other)
            total = kernels.bits_to_ring(x ^ r, mine, constant=True) + kernels.bits_to_ring(
                x ^ r, other, constant=False
            )
            assert (total == x).all()


def test_matmul():
    rng = np.random.default_rng(1)
    a, b = (
        rng.integers(0, 1 << 64, (3, 1, 5, 7), np.uint64),
        rng.integers(0, 1 << 64, (2, 9, 7), np.uint64).swapaxes(1, 2),
    )
    assert (kernels.matmul(a, b) == a @ b).all()
