"""SM2 and SM3 against their standards' examples, and the group law where it has exceptions."""

from __future__ import annotations

import pytest

from attest_csv_lab import public, secret, sign, times_generator
from mitai.attest.csv import sm2

# GB/T 32918.5-2017, annex A.2
KEY = sm2.PublicKey.from_coordinates(
    0x09F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020,
    0xCCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13,
)
SECRET = 0x3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8
USER_ID, MESSAGE = b"1234567812345678", b"message digest"
R = 0xF5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3
S = 0xB1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA


def test_sm3_of_the_standard():
    """GB/T 32905-2016, annex A."""
    assert sm2.sm3(b"abc").hex() == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
    assert sm2.sm3(b"abcd" * 16).hex() == "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732"


def test_signature_of_the_standard():
    assert KEY.signed(USER_ID, MESSAGE, R, S)
    assert times_generator(SECRET) == (KEY.x, KEY.y)
    # annex A.2: Z, and the point kG
    assert KEY._identity(USER_ID).hex() == "b2e14c5c79c6df5b85f4fe7ed8db7a262b9da7e07ccb0ea9f4747b8ccda8a4f3"
    assert times_generator(0x59276E27D506861A16680F3AD9C02DCCEF3CC1FA3CDBE4CE6D54B80DEAC1BC21)[0] == (
        0x04EBFC718E8D1798620432268E77FEB6415E2EDE0E073C0F4F640ECD2E149A73
    )


@pytest.mark.parametrize(
    ("user_id", "message", "r", "s"),
    [
        (b"1234567812345679", MESSAGE, R, S),
        (b"", MESSAGE, R, S),
        (USER_ID, b"message digesT", R, S),
        (USER_ID, b"", R, S),
        (USER_ID, MESSAGE, R ^ 1, S),
        (USER_ID, MESSAGE, R, S ^ 1),
        (USER_ID, MESSAGE, S, R),
        (USER_ID, MESSAGE, R, sm2.N - S),
        (USER_ID, MESSAGE, 0, S),
        (USER_ID, MESSAGE, R, 0),
        (USER_ID, MESSAGE, 0, 0),
        (USER_ID, MESSAGE, R + sm2.N, S),
        (USER_ID, MESSAGE, R, S + sm2.N),
        (USER_ID, MESSAGE, sm2.N, S),
        (USER_ID, MESSAGE, R, sm2.N - R),  # r + s = n
    ],
)
def test_other_signatures(user_id, message, r, s):
    assert not KEY.signed(user_id, message, r, s)


def test_sum_at_infinity():
    """s·G + (r + s)·P is infinity where s + (r + s)·secret = 0: no signature, whatever r."""
    r = 12345
    s = -r * SECRET * pow(1 + SECRET, -1, sm2.N) % sm2.N
    assert (s + (r + s) * SECRET) % sm2.N == 0
    assert not KEY.signed(USER_ID, MESSAGE, r, s)


@pytest.mark.parametrize(
    "point",
    [
        (0, 0),
        (KEY.x, KEY.y ^ 1),
        (KEY.x + sm2.P, KEY.y),
        (KEY.x, KEY.y + sm2.P),
        (-1, KEY.y),
        (KEY.y, KEY.x),
        (1 << 575, 1),
    ],
)
def test_points_that_are_not_on_the_curve(point):
    with pytest.raises(ValueError, match="not a point"):
        sm2.PublicKey.from_coordinates(*point)


def affine(point):
    x, y, z = point
    if z == 0:
        return None
    inverse = pow(z, -1, sm2.P)
    return x * inverse**2 % sm2.P, y * inverse**3 % sm2.P


def test_the_group_law_has_no_exceptions():
    g = (*sm2.G, 1)
    scaled = (sm2.G[0] * 9 % sm2.P, sm2.G[1] * 27 % sm2.P, 3)  # the same point
    opposite = (sm2.G[0], sm2.P - sm2.G[1], 1)
    assert affine(sm2._add(g, scaled)) == affine(sm2._double(g)) == times_generator(2)
    assert affine(sm2._add(g, opposite)) is None
    assert affine(sm2._add(sm2._INFINITY, g)) == affine(sm2._add(g, sm2._INFINITY)) == sm2.G
    assert affine(sm2._add(sm2._INFINITY, sm2._INFINITY)) is None
    assert affine(sm2._double(sm2._INFINITY)) is None
    assert affine(sm2._add(sm2._double(g), g)) == times_generator(3)


def test_order_of_the_generator():
    assert affine(sm2._multiply_add(sm2.N, sm2._generator(), 0, sm2._generator())) is None
    assert times_generator(sm2.N + 1) == sm2.G
    assert times_generator(sm2.N - 1) == (sm2.G[0], sm2.P - sm2.G[1])


@pytest.mark.parametrize("number", [1, 2, 15, 16, 17, 31, 32, 0xFFFF, sm2.N - 1, secret("any")])
def test_signed_windows(number):
    digits = sm2._signed_windows(number)
    assert sum(digit << place for place, digit in enumerate(digits)) == number
    assert all(digit == 0 or (digit % 2 and abs(digit) < 16) for digit in digits)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 4096])
def test_own_signatures(size):
    message = bytes(size)
    r, s = sign("somebody", b"id", message)
    assert public("somebody").signed(b"id", message, r, s)
    assert not public("another").signed(b"id", message, r, s)
