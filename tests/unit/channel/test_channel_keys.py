"""The key ring: rotation, grace, and ids."""

from __future__ import annotations

from mitai.channel.hpke import Kem
from mitai.channel.keys import KeyRing
from mitai.channel.ohttp import KeyConfig


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def key_id(ring):
    return KeyConfig.decode(ring.current_config()).key_id


def test_old_keys_are_honoured_for_their_grace_period():
    clock = Clock()
    ring = KeyRing.generate(grace_s=60, clock=clock)
    first = key_id(ring)
    ring.rotate()
    clock.now += 30
    second = key_id(ring)
    ring.rotate()
    third = key_id(ring)
    assert len({first, second, third}) == 3
    assert [key.config.key_id for key in ring.live()] == [third, second, first]
    clock.now += 30
    assert ring.find(first) is None
    assert ring.find(second) is not None
    clock.now += 30
    assert ring.find(second) is None
    assert ring.find(third).encoded == ring.current_config()


def test_without_grace_the_old_key_is_gone_at_once():
    ring = KeyRing.generate(grace_s=0)
    first = key_id(ring)
    ring.rotate()
    assert ring.find(first) is None


def test_ids_wrap_and_never_name_two_keys():
    ring = KeyRing.generate(grace_s=1e9)
    for _ in range(300):
        ring.rotate()
    ids = [key.config.key_id for key in ring.live()]
    assert len(ids) == len(set(ids)) == 256


def test_kems_and_repr():
    ring = KeyRing.generate("x-wing")
    assert KeyConfig.decode(ring.current_config()).kem is Kem.X_WING
    assert repr(ring) == f"KeyRing(RingKey({key_id(ring)}, X_WING), 0 old)"
    assert ring.live()[0].private.public.hex() not in repr(ring)
