"""Known answers of the kernels, and what they refuse; that all paths agree is a property (tests/property)."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mitai.mpc import kernels

A = np.arange(6, dtype=np.uint64).reshape(2, 3)


def test_random_words_are_aes_in_counter_mode():
    # AES-128 of a block of zeros under a key of zeros, and the same of the next counter (FIPS 197; GCM's test case 2).
    words = kernels.prg(bytes(16), 0, 0, 4)
    assert words.tobytes().hex() == "66e94bd4ef8a2c3b884cfa59ca342b2e" + "58e2fccefa7e3061367f1d57a4e7455a"


def test_streams_differ():
    assert len({kernels.prg(b"k" * 16, stream, 0, 1)[0] for stream in range(100)}) == 100


def test_random_words_across_chunks():
    whole = kernels.prg(b"k" * 16, 7, 0, 70_001)
    for offset, n in ((0, 0), (1, 1), (1, 4), (32_767, 37_000)):
        np.testing.assert_array_equal(kernels.prg(b"k" * 16, 7, offset, n), whole[offset : offset + n])


def test_a_vector_of_four():
    assert kernels.one_hot(np.array([1], np.uint64), 2).tolist() == [[0b10]]


def test_products_wrap():
    top = np.full((1, 1), (1 << 64) - 1, np.uint64)
    assert kernels.matmul(top, top).tolist() == [[1]]


def test_what_does_not_fit_is_refused():
    refused = [
        lambda: kernels.matmul(A, A),
        lambda: kernels.matmul(A, A.T.astype(np.uint32)),
        lambda: kernels.matmul(A.astype(np.int64), A.T.astype(np.int64)),
        lambda: kernels.matmul(A[0], A.T),
        lambda: kernels.matmul(A, A.T, np.zeros((2, 3), np.uint64)),
        lambda: kernels.matmul(A, A.T, np.zeros((2, 4), np.uint64)[:, ::2]),
        lambda: kernels.matmul(A[:, :2], A[:, :2], A[:, 1:]),
        lambda: kernels.matmul(square := np.zeros((2, 2), np.uint64), A[:, :2], square),
        lambda: kernels.pack(A[0]),
        lambda: kernels.prg(bytes(15), 0, 0, 1),
        lambda: kernels.prg(bytes(16), 0, (1 << 64) - 1, 2),
        lambda: kernels.one_hot(np.zeros(1, np.uint64), 9),
        lambda: kernels.Sums.of([[(0, -1)]]),
        lambda: kernels.sum_products(np.zeros((2, 3), np.uint8), kernels.Sums.of([[(0, 2)]])),
    ]
    for call in refused:
        with pytest.raises(ValueError):  # noqa: PT011 - what is wrong differs
            call()


def test_a_packed_matrix_keeps_its_path(monkeypatch):
    packed = kernels.pack(A.T)
    assert repr(packed) == f"Packed(shape=(3, 2), path='{kernels.PATH}')"  # and tells no share
    for path in kernels.PATHS:
        monkeypatch.setattr(kernels, "PATH", path)
        np.testing.assert_array_equal(kernels.matmul(A, packed), A @ A.T)


def test_the_environment_sets_the_path():
    code = "from mitai.mpc import kernels; print(kernels.PATH)"
    run = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"MITAI_MPC_KERNELS": path},
            capture_output=True,
            text=True,
            check=False,
        )
        for path in ("python", "abacus")
    ]
    assert run[0].stdout == "python\n"
    assert "MITAI_MPC_KERNELS: abacus is not one of" in run[1].stderr
