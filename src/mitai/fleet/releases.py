"""Releases of the code that is installed here, signed by a publisher of one's own: what a real publisher hands out.

Under `publisher/` of the home folder lie the key and, for each workload, the newest manifest. A manifest names the
measurements and, as its subject, the page for browsers. It is written anew only when one of them has changed, with the
next version number.

Example:
    >>> trusts = publish_installed(Home.default(), page, now=datetime.now(UTC))
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from mitai.attest import ReferenceValues
from mitai.attest.refvalues.release import Measurements, Release, sign_release, verify_release
from mitai.attest.refvalues.statement import Subject
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.attest.sim import installed_workload, reference_values
from mitai.errors import MitaiError
from mitai.fleet.home import Home, write_private
from mitai.web.page import SUBJECT, Page

WORKLOADS = ("serve", "broker", "train")


def publish_installed(home: Home, page: Page | None, *, now: datetime) -> tuple[ReleaseTrust, ...]:
    """Sign what is installed, as `home.release(workload)`; return the trust that a policy puts into this publisher."""
    identity = home.publisher()
    images = (Subject(SUBJECT, {"sha256": page.digest}),) if page else ()
    trusts = tuple(ReleaseTrust(name, key=identity.public.raw.hex()) for name in WORKLOADS)
    for trust in trusts:
        path = home.release(trust.workload)
        values = reference_values(installed_workload(trust.workload))
        version = _next_version(path, trust, (values, images), now)
        if version is not None:
            measured = (Measurements(values.tee, values.registers),)
            release = Release(trust.workload, version, now, measured, builder="mitai up")
            write_private(path, sign_release(release, identity, images))
    return trusts


def _next_version(
    path: Path, trust: ReleaseTrust, wanted: tuple[ReferenceValues, tuple[Subject, ...]], now: datetime
) -> int | None:
    """Return the version of a manifest that says what is wanted; None when the newest one says it already."""
    try:
        former, subjects = verify_release(path.read_bytes(), trust, now=now)
    except (MitaiError, FileNotFoundError):
        return 1  # none, another publisher's, or damaged: it binds nobody
    return None if (former.values(), subjects) == ((wanted[0],), wanted[1]) else former.version + 1
