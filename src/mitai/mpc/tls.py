"""TLS 1.3 between two parties who know each other by their keys.

Follows `docs/spec/mpc-links.md`, "Handshake". Each end shows a certificate over its Ed25519 identity in the clear, and
trusts exactly the other's, if that key is one that it awaits; then both prove their keys to each other in TLS.

Invariants:

- No name, certificate authority or date counts: a party is its key (`identity.py`), and TLS 1.3 with both sides'
  certificates is the only way in.
- The key that TLS has proven is the key of the certificate that was judged.
- A private key is never on a disk in the clear.

Example:
    >>> with socket.create_connection(("127.0.0.1", 7800)) as end:
    ...     channel = secured(end, identity, lambda key: key.key_id == pinned, serving=False)
"""

from __future__ import annotations

import secrets
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from mitai.errors import MpcError, ParseError
from mitai.identity import Identity, PublicKey
from mitai.mpc.sockets import PIECE_BYTES, Pieces

MAGIC = b"mitai mpc link v1\0"
MAX_CERTIFICATE_BYTES = 1024
HANDSHAKE_S = 20.0
_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mitai mpc party")])


class TlsChannel:
    """A `mitai.mpc.sockets.Channel` through TLS; `peer` is who is at the other end."""

    def __init__(self, end: socket.socket, context: ssl.SSLContext, peer: PublicKey, serving: bool) -> None:
        self.socket, self.peer = end, peer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=serving)
        self._lock = threading.Lock()  # TLS is not to be used by two threads at once
        self._arrived = memoryview(bytearray(2 * PIECE_BYTES))

    def shake_hands(self, certificate: bytes, until: float) -> None:
        """Do the handshake; raise `ssl.SSLError` or `OSError` when the other end is not who has this certificate."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
            _patient(self.socket, until)
            if not self._feed():
                raise ConnectionResetError
        self._flush()
        if self._tls.getpeercert(binary_form=True) != certificate:
            raise ssl.SSLError

    def seal(self, data: bytes | memoryview) -> Pieces:
        """See `Channel.seal`."""
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            with self._lock:
                self._tls.write(view[start : start + PIECE_BYTES])
                sealed = self._outgoing.read()
            yield sealed

    def read(self, buffer: memoryview) -> int:
        """See `Channel.read`."""
        while True:
            with self._lock:
                try:
                    return int(self._tls.read(len(buffer), buffer))  # with a buffer it returns how many bytes
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    return 0
            if not self._feed():
                return 0

    def _feed(self) -> int:
        got = self.socket.recv_into(self._arrived)
        with self._lock:
            self._incoming.write(self._arrived[:got])
        return got

    def _flush(self) -> None:
        self.socket.sendall(self._outgoing.read())


def secured(
    end: socket.socket,
    identity: Identity,
    awaited: Callable[[PublicKey], bool],
    *,
    serving: bool,
    within_s: float = HANDSHAKE_S,
) -> TlsChannel:
    """Return the channel over a connected socket, once both ends have proven their keys.

    1. Both say who they are: a certificate, in the clear.
    2. The other's key is one that is awaited.
    3. TLS proves that the other has it, and to the other that this end has its own.

    Args:
        end: Connected. It is the caller's to close when this raises.
        identity: This end's.
        awaited: Whether a key is the other's.
        serving: Whether this end is the one that listened.
        within_s: How long all of it may take.

    Raises:
        MpcError: `mpc.peer-unknown`, with the key's id; `mpc.peer-refused`: it does not speak this protocol, does not
            have its key, or does not await this end's.
    """
    until = time.monotonic() + within_s
    own = certificate(identity)
    try:
        _patient(end, until)
        end.sendall(MAGIC + len(own).to_bytes(2, "big") + own)  # 1. who is there
        if _exactly(end, len(MAGIC), until) != MAGIC:
            raise _refused("it does not speak this protocol")
        theirs = _exactly(end, int.from_bytes(_exactly(end, 2, until), "big"), until)
        peer = subject(theirs)
        if not awaited(peer):  # 2. the key
            raise MpcError(
                "mpc.peer-unknown",
                f"somebody with the key {peer.key_id} is not one of the parties",
                hint="if this is the right key, put it into the configuration",
            )
        channel = TlsChannel(end, _context(identity, own, theirs, serving), peer, serving)
        channel.shake_hands(theirs, until)  # 3. the proof
    except (OSError, ssl.SSLError):
        raise _refused("it ended, is not ready, was too slow, does not have its key, or does not await ours") from None
    return channel


def certificate(identity: Identity) -> bytes:
    """Return an identity's certificate (DER), signed by itself: always the same bytes."""
    key = Ed25519PrivateKey.from_private_bytes(identity.seed())
    builder = x509.CertificateBuilder(_NAME, _NAME, key.public_key(), 1)
    builder = builder.not_valid_before(datetime(2000, 1, 1)).not_valid_after(datetime(9999, 12, 31))  # noqa: DTZ001
    return builder.sign(key, None).public_bytes(Encoding.DER)


def subject(data: bytes) -> PublicKey:
    """Return whose certificate this is; raise `MpcError` unless it is one over an Ed25519 key."""
    try:
        key = x509.load_der_x509_certificate(data).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise _refused("what it shows is no certificate") from None
    if not isinstance(key, Ed25519PublicKey):
        raise _refused("its key is not Ed25519")
    try:
        return PublicKey(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    except ParseError:
        raise _refused("its key is a weak one") from None


def _context(identity: Identity, own: bytes, theirs: bytes, serving: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if serving else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a party is its key: the one certificate that is trusted here
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=theirs)
    if serving:
        context.num_tickets = 0
    password = secrets.token_hex(32)
    key = Ed25519PrivateKey.from_private_bytes(identity.seed())
    sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
    with tempfile.TemporaryDirectory(prefix="mitai-mpc-") as folder:  # the library reads keys from files only
        path = Path(folder, "key.pem")
        path.write_bytes(ssl.DER_cert_to_PEM_cert(own).encode() + sealed)
        context.load_cert_chain(path, password=password)
    return context


def _exactly(end: socket.socket, size: int, until: float) -> bytes:
    if size > MAX_CERTIFICATE_BYTES:
        raise _refused("it says far too much")
    data = b""
    while len(data) < size:
        _patient(end, until)
        if not (part := end.recv(size - len(data))):
            raise ConnectionResetError
        data += part
    return data


def _patient(end: socket.socket, until: float) -> None:
    if (left := until - time.monotonic()) <= 0:
        raise TimeoutError
    end.settimeout(left)


def _refused(why: str) -> MpcError:
    return MpcError(
        "mpc.peer-refused",
        f"there is no secure link to the other party: {why}",
        hint="both need the other's key, and the same version of mitai",
    )
