"""Evidence collectors: what a guest asks its own hardware for, one module an interface.

Unlike the rest of `mitai.attest` these modules do I/O; nothing else imports them. See `docs/spec/collectors.md`.

Example:
    >>> detect()
    ('configfs-tsm', 'tdx-guest')
    >>> attester = GuestAttester.open()
"""

from mitai.attest.collect.attester import GuestAttester, Kind, Options, collector, detect
from mitai.attest.collect.guest import HERE, Guest, Ioctl

__all__ = ["HERE", "Guest", "GuestAttester", "Ioctl", "Kind", "Options", "collector", "detect"]
