"""A process gives up the network for good.

- After `drop_network` no thread of this process, and nothing that it starts, gets a new socket but those of AF_UNIX.
- Sockets that are open already would still reach out, so that there must be none but those named.
- It is tried before it is believed: a process that still gets a socket does not go on.

Example:
    >>> drop_network()  # doctest: +SKIP
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Collection

from mitai.errors import TrainError
from mitai.train.sandbox import confine


def drop_network(keep: Collection[int] = ()) -> None:
    """Give up all sockets but those of AF_UNIX, for every thread of this process and for good.

    Args:
        keep: Descriptors of other sockets that stay open, such as sealed links to peers.

    Raises:
        TrainError: A socket is still open, or this machine can't enforce it.
    """
    if open_ := set(_network_sockets()) - set(keep):
        raise TrainError("train.network-open", f"{len(open_)} network sockets are still open in this process")
    try:
        confine.forbid_network()
    except OSError as error:
        raise _unavailable() from error
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_VSOCK):
        try:
            socket.socket(family, socket.SOCK_DGRAM).close()
        except PermissionError:
            continue
        except OSError as error:
            raise _unavailable() from error
        raise _unavailable()


def _network_sockets() -> list[int]:
    """Return the open sockets that are not AF_UNIX."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        descriptor = int(name)
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as opened:
                if opened.family != socket.AF_UNIX:
                    found.append(descriptor)
        except OSError:
            continue  # the folder's own descriptor, closed by now
    return found


def _unavailable() -> TrainError:
    return TrainError(
        "train.network-kept",
        "this machine does not let the process give up the network",
        hint="it needs Linux with seccomp filters on x86-64 or aarch64 (docs/spec/sandbox.md)",
    )
