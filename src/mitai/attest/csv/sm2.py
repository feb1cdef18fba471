"""SM2 signatures, verification only, and SM3: what Hygon's firmware signs with.

Follows GB/T 32918.2-2016 (verification, section 7) and GB/T 32918.5-2017 (curve parameters), GB/T 32905 for SM3, which
`cryptography` has; SM2 it does not have. Nothing here handles a secret, so nothing needs constant time.

Invariants:

- A key is a point of the curve other than infinity; the curve's order is prime, so there are no small subgroups.
- r and s are in [1, n-1], and r + s is no multiple of n.

Example:
    >>> key = PublicKey.from_coordinates(x, y)
    >>> key.signed(b"ALICE123@YAHOO.COM", message, r, s)
    True
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from cryptography.hazmat.primitives.hashes import SM3, Hash

P = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
A = P - 3
B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
N = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
G = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)

_Jacobian = tuple[int, int, int]  # x = X / Z², y = Y / Z³; infinity has Z = 0
_INFINITY: _Jacobian = (1, 1, 0)
_WIDTH = 5  # of the signed windows: tables of 8 odd multiples


def sm3(data: bytes) -> bytes:
    """Return the SM3 digest."""
    digest = Hash(SM3())
    digest.update(data)
    return digest.finalize()


@dataclass(frozen=True)
class PublicKey:
    """A point of the curve."""

    x: int
    y: int

    @staticmethod
    def from_coordinates(x: int, y: int) -> PublicKey:
        """Return the key; raise `ValueError` where the point is not on the curve."""
        if not (0 <= x < P and 0 <= y < P) or (y * y - (x * x + A) * x - B) % P:
            raise ValueError("not a point of the SM2 curve")
        return PublicKey(x, y)

    @cached_property
    def _multiples(self) -> tuple[_Jacobian, ...]:
        return _odd_multiples((self.x, self.y, 1))

    def signed(self, user_id: bytes, message: bytes, r: int, s: int) -> bool:
        """Tell whether (r, s) is this key's signature over `message`, under the signer's `user_id` (callers raise)."""
        t = (r + s) % N
        if not (0 < r < N and 0 < s < N) or t == 0:
            return False
        e = int.from_bytes(sm3(self._identity(user_id) + message), "big")
        x, _, z = _multiply_add(s, _generator(), t, self._multiples)
        if z == 0:
            return False
        return (e + x * pow(z, -2, P) % P - r) % N == 0

    def _identity(self, user_id: bytes) -> bytes:
        """Return Z: the digest of the signer's name, the curve and the key (GB/T 32918.2, section 5.5)."""
        numbers = (A, B, *G, self.x, self.y)
        return sm3((8 * len(user_id)).to_bytes(2, "big") + user_id + b"".join(i.to_bytes(32, "big") for i in numbers))


def _double(point: _Jacobian) -> _Jacobian:
    """Return twice the point (a = -3: "dbl-2001-b" of the Explicit-Formulas Database)."""
    x, y, z = point
    delta, gamma = z * z % P, y * y % P
    beta = x * gamma % P
    alpha = 3 * (x - delta) * (x + delta) % P
    x3 = (alpha * alpha - 8 * beta) % P
    return x3, (alpha * (4 * beta - x3) - 8 * gamma * gamma) % P, 2 * y * z % P


def _add(one: _Jacobian, other: _Jacobian) -> _Jacobian:
    """Return the sum, equal, opposite and infinite points included."""
    (x1, y1, z1), (x2, y2, z2) = one, other
    if z1 == 0 or z2 == 0:
        return other if z1 == 0 else one
    zz1, zz2 = z1 * z1 % P, z2 * z2 % P
    u1, s1 = x1 * zz2 % P, y1 * zz2 * z2 % P
    h, r = (x2 * zz1 - u1) % P, (y2 * zz1 * z1 - s1) % P
    if h == 0:
        return _double(one) if r == 0 else _INFINITY
    hh = h * h % P
    hhh, v = h * hh % P, u1 * hh % P
    x3 = (r * r - hhh - 2 * v) % P
    return x3, (r * (v - x3) - s1 * hhh) % P, z1 * z2 * h % P


def _odd_multiples(point: _Jacobian) -> tuple[_Jacobian, ...]:
    """Return 1, 3, 5 … 15 times the point."""
    twice, multiples = _double(point), [point]
    for _ in range(2 ** (_WIDTH - 2) - 1):
        multiples.append(_add(multiples[-1], twice))
    return tuple(multiples)


@cache
def _generator() -> tuple[_Jacobian, ...]:
    return _odd_multiples((*G, 1))


def _signed_windows(number: int) -> list[int]:
    """Return the width-5 non-adjacent form, lowest digit first: each digit zero or odd, between -15 and 15."""
    digits = []
    while number:
        digit = 0
        if number & 1:
            digit = number % (1 << _WIDTH)
            digit -= (1 << _WIDTH) if digit >> (_WIDTH - 1) else 0
            number -= digit
        digits.append(digit)
        number >>= 1
    return digits


def _multiply_add(u: int, of_one: tuple[_Jacobian, ...], v: int, of_other: tuple[_Jacobian, ...]) -> _Jacobian:
    """Return u times one point plus v times another, both by their odd multiples, sharing the doublings."""
    left, right = _signed_windows(u), _signed_windows(v)
    total = _INFINITY
    for place in range(max(len(left), len(right)) - 1, -1, -1):
        total = _double(total)
        for digits, multiples in ((left, of_one), (right, of_other)):
            digit = digits[place] if place < len(digits) else 0
            if digit:
                x, y, z = multiples[abs(digit) >> 1]
                total = _add(total, (x, y if digit > 0 else P - y, z))
    return total
