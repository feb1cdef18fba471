"""A guest's kernel in software: each interface with its structures, sizes and error numbers, real file descriptors.

The layouts are those of Linux's `include/uapi/linux/{sev-guest,tdx-guest,nsm}.h`, of
`Documentation/ABI/testing/configfs-tsm-report` with `drivers/virt/coco/tsm.c`, of the TPM 2.0 library's parts 2 and 3,
and of Intel's quote generation service. What they answer is made by the labs of the verifiers, so that evidence that
was collected here can be verified as any other.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import hashlib
import hmac
import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from attest_cose_lab import cbor
from attest_lab import WORKLOAD, Lab
from attest_nitro_lab import Lab as NitroLab
from attest_snp_lab import Amd, amd
from attest_tpm_lab import HASHES, SoftTpm, tpm2b
from mitai.attest.cbor import decode
from mitai.attest.collect import Guest
from mitai.attest.dcap.quote import TdReport
from mitai.attest.sim import intel
from mitai.attest.sim.measure import registers

REPORTS = "sys/kernel/config/tsm/report"
MAC_KEY = bytes(range(32))  # stands for the processor's
LONG_S = 20.0


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def content(data: bytes) -> int:
    """Return a descriptor that reads these bytes."""
    descriptor = os.memfd_create("content", os.MFD_CLOEXEC)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def unchanged(data: bytes) -> bytes:
    return data


def nothing(*_: object) -> None:
    """Do nothing at a moment where a test may do something."""


class Device:
    """A device node that takes ioctls."""

    def open(self) -> int:
        return content(b"")

    def ioctl(self, request: int, argument: bytearray) -> int:
        raise failure(errno.ENOTTY)


@dataclass
class FakeKernel:
    """A machine below a folder: device nodes, configfs, services; `guest` is what collectors get."""

    root: Path
    devices: dict[str, Device] = field(default_factory=dict)
    services: dict[object, Callable[[socket.socket], None]] = field(default_factory=dict)
    tsm: FakeTsm | None = None
    denied: set[str] = field(default_factory=set)
    slept: list[float] = field(default_factory=list)
    _open: dict[int, Device] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def guest(self) -> Guest:
        return Guest(
            root=self.root,
            open=self.open,
            ioctl=self.ioctl,
            mkdir=self.mkdir,
            rmdir=self.rmdir,
            connect=self.connect,
            sleep=self.slept.append,
        )

    def plug(self, path: str, device: Device) -> None:
        """Make a device node."""
        self.write(path, b"")
        self.devices[path] = device

    def write(self, path: str, data: bytes) -> None:
        """Make a file."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data)

    def mount_tsm(self, tsm: FakeTsm) -> FakeTsm:
        (self.root / REPORTS).mkdir(parents=True, exist_ok=True)
        self.tsm = tsm
        return tsm

    def open(self, path: Path, flags: int) -> int:
        name = path.relative_to(self.root).as_posix()
        if name in self.denied:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if self.tsm is not None and name.startswith(REPORTS + "/"):
            return self.tsm.open(name, flags)
        if name in self.devices:
            descriptor = self.devices[name].open()
            self._open[descriptor] = self.devices[name]
            return descriptor
        return os.open(path, flags)

    def ioctl(self, descriptor: int, request: int, argument: bytearray) -> int:
        assert len(argument) == request >> 16 & 0x3FFF  # _IOC_SIZE
        assert request >> 30 == 3  # read and write
        return self._open[descriptor].ioctl(request, argument)

    def mkdir(self, path: Path) -> None:
        if self.tsm is None:
            path.mkdir()
            return
        self.tsm.mkdir(path.relative_to(self.root).as_posix())

    def rmdir(self, path: Path) -> None:
        if self.tsm is None:
            path.rmdir()
            return
        self.tsm.rmdir(path.relative_to(self.root).as_posix())

    def connect(self, family: int, address: object) -> socket.socket:
        """Return a connection to a service, which a thread of its own serves."""
        serve = self.services.get((family, address))
        if serve is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        ours, theirs = socket.socketpair()
        ours.settimeout(LONG_S)
        theirs.settimeout(LONG_S)

        def run() -> None:
            with theirs, suppress(ConnectionError):  # a client that had enough hangs up
                serve(theirs)

        thread = threading.Thread(target=run)
        thread.start()
        self._threads.append(thread)
        return ours

    def end(self) -> None:
        for thread in self._threads:
            thread.join()


@dataclass
class Entry:
    """A request's state in the kernel."""

    inblob: bytes = b""
    privlevel: int = 0
    generation: int = 0


@dataclass
class FakeTsm:
    """configfs-tsm with one provider. What is written to a file is taken when it is closed, as configfs does."""

    provider: str
    report: Callable[[bytes, int], bytes]
    table: bytes | None = None  # the auxblob; None: the provider has none
    floor: int | None = None  # None: the provider has no levels
    errors: dict[str, list[int]] = field(default_factory=dict)  # by file: error numbers of the next uses
    other_writers: list[bytes] = field(default_factory=list)  # each writes once, behind our back
    answers: dict[str, bytes] = field(default_factory=dict)  # by file: what to answer instead
    entries: dict[str, Entry] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    _writers: list[threading.Thread] = field(default_factory=list)

    def _fail(self, name: str) -> None:
        if self.errors.get(name):
            raise failure(self.errors[name].pop(0))

    def mkdir(self, name: str) -> None:
        self._fail("mkdir")
        if name in self.entries:
            raise failure(errno.EEXIST)
        self.entries[name] = Entry()
        self.made.append(name)

    def rmdir(self, name: str) -> None:
        self._settle()
        self._fail("rmdir")
        del self.entries[name]

    def _settle(self) -> None:
        while self._writers:
            self._writers.pop().join()

    def open(self, name: str, flags: int) -> int:
        self._settle()
        folder, file = name.rsplit("/", 1)
        entry = self.entries[folder]
        self._fail(file)
        hidden = {"auxblob"} if self.table is None else set()
        hidden |= {"privlevel", "privlevel_floor"} if self.floor is None else set()
        if file in hidden:
            raise failure(errno.ENOENT)
        if file in {"inblob", "privlevel"}:
            assert flags & os.O_ACCMODE == os.O_WRONLY
            return self._taking(entry, file)
        assert flags & os.O_ACCMODE == os.O_RDONLY
        if file in self.answers:
            return content(self.answers[file])
        return content(self._content(entry, file))

    def _content(self, entry: Entry, file: str) -> bytes:
        match file:
            case "provider":
                return f"{self.provider}\n".encode()
            case "generation":
                return b"%d\n" % entry.generation
            case "privlevel_floor":
                return b"%d\n" % (self.floor or 0)
        if not entry.inblob:
            raise failure(errno.EINVAL)
        if self.other_writers and file == "outblob":
            entry.inblob = self.other_writers.pop(0)
            entry.generation += 1
        return self.table or b"" if file == "auxblob" else self.report(entry.inblob, entry.privlevel)

    def _taking(self, entry: Entry, file: str) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC)

        def take() -> None:
            data = b""
            while chunk := os.read(reader, 4096):
                data += chunk
            os.close(reader)
            if file == "inblob" and len(data) <= 64:
                entry.inblob = data
                entry.generation += 1
            elif file == "privlevel" and (self.floor or 0) <= int(data, 0) <= 3:
                entry.privlevel = int(data, 0)
                entry.generation += 1

        thread = threading.Thread(target=take)
        thread.start()
        self._writers.append(thread)
        return writer


def td_body(report_data: bytes) -> TdReport:
    return intel.td_report(registers(WORKLOAD), report_data)


def tdreport(report_data: bytes) -> bytes:
    """Return a TDREPORT: REPORTMACSTRUCT, TEE_TCB_INFO, TDINFO; its MAC is of our own processor."""
    body = td_body(report_data)
    tcb_info = struct.pack("<Q", 0x301FF) + body.tee_tcb_svn + body.mrseam + body.mrsignerseam + body.seam_attributes
    td_info = body.td_attributes + body.xfam + body.mrtd + body.mrconfigid + body.mrowner + body.mrownerconfig
    td_info = (td_info + b"".join(body.rtmrs)).ljust(512, b"\0")
    tcb_info = tcb_info.ljust(239, b"\0")
    head = b"\x81\x00\x01\x00" + bytes(12) + bytes(16)
    head += hashlib.sha384(tcb_info).digest() + hashlib.sha384(td_info).digest() + report_data + bytes(32)
    assert len(head) == 224
    return head + hmac.digest(MAC_KEY, head, "sha256") + tcb_info + bytes(17) + td_info


def quote_of(lab: Lab, report: bytes) -> bytes:
    """Do what a quoting enclave does: check the MAC, then sign a quote over the same report data."""
    assert len(report) == 1024
    assert hmac.compare_digest(hmac.digest(MAC_KEY, report[:224], "sha256"), report[224:256])
    return lab.platform.quote(td_body(report[128:192]))


class FakeTdx(Device):
    """`/dev/tdx_guest` (tdx-guest.h)."""

    error = 0
    damage = staticmethod(unchanged)

    def ioctl(self, request: int, argument: bytearray) -> int:
        if request != 0xC4405401:  # TDX_CMD_GET_REPORT0
            raise failure(errno.ENOTTY)
        if self.error:
            raise failure(self.error)
        argument[64:] = self.damage(tdreport(bytes(argument[:64])))
        return 0


def exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            break
        data += chunk
    return data


def quote_service(lab: Lab, change: Callable[[bytes], bytes] = unchanged):
    """Return Intel's quote generation service; `change` its answer."""

    def serve(connection: socket.socket) -> None:
        request = exactly(connection, int.from_bytes(exactly(connection, 4), "big"))
        major, minor, kind, size, error, report_size, ids = struct.unpack_from("<HHIIIII", request)
        assert (major, minor, kind, size, error, report_size, ids) == (1, 0, 0, len(request), 0, 1024, 0)
        quote = quote_of(lab, request[24:])
        answer = struct.pack("<HHIIIII", 1, 0, 1, 24 + len(quote), 0, 0, len(quote)) + quote
        answer = change(answer)
        connection.sendall(len(answer).to_bytes(4, "big") + answer)

    return serve


def http_service(answer: Callable[[str, dict], bytes]):
    """Return a service of HTTP: `answer` gets path and body, and returns all that is sent back."""

    def serve(connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            chunk = connection.recv(4096)
            if not chunk:
                return
            request += chunk
        head, _, body = request.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        fields = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
        body += exactly(connection, int(fields["content-length"]) - len(body))
        connection.sendall(answer(lines[0], json.loads(body)))

    return serve


def ok(body: dict | bytes, status: str = "200 OK") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data


def azure_quotes(lab: Lab):
    """Return Azure's service for quotes of a TD."""

    def answer(line: str, body: dict) -> bytes:
        assert line == "POST /acc/tdquote HTTP/1.1"
        text = body["report"]
        quote = quote_of(lab, base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return ok({"quote": base64.urlsafe_b64encode(quote).rstrip(b"=").decode()})

    return http_service(answer)


def dstack_agent(lab: Lab, event_log: str):
    """Return dstack's guest agent."""

    def answer(line: str, body: dict) -> bytes:
        assert line == "POST /GetQuote HTTP/1.1"
        quote = lab.platform.quote(td_body(bytes.fromhex(body["report_data"])))
        fields = {"quote": quote.hex(), "event_log": event_log, "report_data": body["report_data"], "vm_config": ""}
        return ok(fields)

    return http_service(answer)


@dataclass
class FakeSev(Device):
    """`/dev/sev-guest` (sev-guest.h, and the driver's checks)."""

    authority: Amd = field(default_factory=amd)
    vmpl: int = 0
    table: bytes = b""  # the host's
    needed_bytes: int = 0  # the host wants a larger buffer
    errors: list[tuple[int, int, int]] = field(default_factory=list)  # error number, firmware, VMM: of the next calls
    answer: Callable[[bytes], bytes] = unchanged
    calls: list[int] = field(default_factory=list)

    def ioctl(self, request: int, argument: bytearray) -> int:
        version, source, target, _ = struct.unpack("<B7xQQQ", argument)
        if not version or not source or not target:
            raise failure(errno.EINVAL)
        kinds = {0xC0205300: (self._report, 4000), 0xC0205301: (self._key, 64), 0xC0205302: (self._extended, 4000)}
        if request not in kinds:
            raise failure(errno.ENOTTY)
        self.calls.append(request & 0xFF)
        if self.errors:
            number, firmware, host = self.errors.pop(0)
            struct.pack_into("<II", argument, 24, firmware, host)
            raise failure(number)
        make, size = kinds[request]
        response = self.answer(make(source, argument).ljust(size, b"\0"))
        struct.pack_into("<Q", argument, 24, 0)
        ctypes.memmove(target, response, size)
        return 0

    def _report(self, source: int, _: bytearray) -> bytes:
        data, vmpl, reserved = struct.unpack("<64sI28s", ctypes.string_at(source, 96))
        assert not any(reserved)
        if not self.vmpl <= vmpl <= 3:
            return struct.pack("<II24x", 0x16, 0)
        report = self.authority.report({0x50: data, 0x30: struct.pack("<I", vmpl)})
        return struct.pack("<II24x", 0, len(report)) + report

    def _extended(self, source: int, argument: bytearray) -> bytes:
        address, size = struct.unpack("<QI", ctypes.string_at(source + 96, 12))
        if size > 0x4000 or size % 4096:
            raise failure(errno.EINVAL)
        if max(self.needed_bytes, len(self.table)) > size:
            needed = -max(self.needed_bytes, len(self.table)) // 4096 * -4096
            ctypes.memmove(source + 104, struct.pack("<I", needed), 4)
            struct.pack_into("<II", argument, 24, 0, 1)
            raise failure(errno.EIO)
        ctypes.memmove(address, self.table.ljust(size, b"\0"), size)
        return self._report(source, argument)

    def _key(self, source: int, _: bytearray) -> bytes:
        root, reserved, fields, vmpl, svn, tcb = struct.unpack("<IIQIIQ", ctypes.string_at(source, 32))
        assert root == reserved == 0
        if not self.vmpl <= vmpl <= 3:
            return struct.pack("<I28x", 0x16)
        key = hashlib.sha256(b"chip" + struct.pack("<QIIQ", fields, vmpl, svn, tcb)).digest()
        return struct.pack("<I28x", 0) + key


@dataclass
class FakeNsm(Device):
    """`/dev/nsm` (nsm.h, and the driver's truncation)."""

    lab: NitroLab = field(default_factory=NitroLab.build)
    error: int = 0
    answer: Callable[[bytes], bytes] = unchanged
    requests: list[bytes] = field(default_factory=list)

    def ioctl(self, request: int, argument: bytearray) -> int:
        if request != 0xC0200A00:
            raise failure(errno.EINVAL)
        source, size, target, room = struct.unpack("<QQQQ", argument)
        if size > 0x1000:
            raise failure(errno.EMSGSIZE)
        if self.error:
            raise failure(self.error)
        self.requests.append(ctypes.string_at(source, size))
        response = self.answer(cbor(self._respond(decode(self.requests[-1], "a request", "test.request"))))
        response = response[:room]
        ctypes.memmove(target, response, len(response))
        struct.pack_into("<Q", argument, 24, len(response))
        return 0

    def _respond(self, request: object) -> dict:
        match request:
            case {"Attestation": {"user_data": user_data, "nonce": nonce, "public_key": public_key}}:
                document = self.lab.document(user_data=user_data, nonce=nonce, public_key=public_key)
                return {"Attestation": {"document": document}}
            case {"DescribePCR": {"index": int(index)}} if index < 16:
                return {"DescribePCR": {"lock": True, "data": bytes([index]) * 48}}
            case {"DescribePCR": _}:
                return {"Error": "InvalidIndex"}
        return {"Error": "InvalidOperation"}


@dataclass
class Nv:
    """An index of a TPM's memory."""

    data: bytes
    attributes: int = 1 << 17 | 1 << 1  # the owner reads and writes


class Refused(Exception):
    """A response code."""


@dataclass
class FakeTpm(Device):
    """`/dev/tpmrm0`: one command a message, one response a message."""

    tpm: SoftTpm = field(default_factory=SoftTpm)
    nv: dict[int, Nv] = field(default_factory=dict)
    handles: dict[int, bytes] = field(default_factory=dict)  # to the public areas there
    templates: dict[bytes, int] = field(default_factory=dict)  # to the handle that CreatePrimary gives
    codes: list[int] = field(default_factory=list)  # response codes of the next commands
    commands: list[int] = field(default_factory=list)
    silent: bool = False
    early: bool = False  # says that there is an answer before there is one, as kernels before 5.1 did
    at_once: int = 8  # registers that PCR_Read gives at most
    before_quote: Callable[[], None] = nothing
    before_read: Callable[[int], None] = nothing
    change: Callable[[int, bytes], bytes] = lambda command, answer: answer

    def open(self) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # as the device is, when it is opened with O_NONBLOCK
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        return ours.detach()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            while message := connection.recv(4096):
                if self.early:
                    connection.send(b"")  # read as nothing
                if not self.silent:
                    connection.send(self.respond(message))

    def respond(self, message: bytes) -> bytes:
        tag, size, command = struct.unpack_from(">HII", message)
        assert size == len(message)
        self.commands.append(command)
        try:
            if self.codes and (code := self.codes.pop(0)):
                raise Refused(code)
            answer = self._answer(tag, command, message[10:])
        except Refused as refused:
            return self.change(command, struct.pack(">HII", 0x8001, 10, refused.args[0]))
        return self.change(command, struct.pack(">HII", tag, 10 + len(answer), 0) + answer)

    def _answer(self, tag: int, command: int, body: bytes) -> bytes:
        known = {
            0x169: (1, False, self._nv_read_public),
            0x14E: (2, True, self._nv_read),
            0x137: (2, True, self._nv_write),
            0x12A: (1, True, self._nv_define),
            0x173: (1, False, self._read_public),
            0x17E: (0, False, self._pcr_read),
            0x158: (1, True, self._quote),
            0x131: (1, True, self._create_primary),
        }
        if command not in known:
            raise Refused(0x143)  # TPM_RC_COMMAND_CODE
        count, authorized, run = known[command]
        handles = struct.unpack_from(f">{count}I", body)
        body = body[4 * count :]
        if not authorized:
            assert tag == 0x8001
            return run(handles, body)
        assert tag == 0x8002
        size, session, nonce, _, password = struct.unpack_from(">IIHBH", body)
        assert (size, session, nonce) == (9, 0x40000009, 0)
        if password:
            raise Refused(0x98E)
        answer = run(handles, body[13:])
        handle, answer = (answer[:4], answer[4:]) if command == 0x131 else (b"", answer)
        return handle + struct.pack(">I", len(answer)) + answer + struct.pack(">HBH", 0, 1, 0)

    def _index(self, index: int) -> Nv:
        if index not in self.nv:
            raise Refused(0x18B)  # TPM_RC_HANDLE, handle 1
        return self.nv[index]

    def _nv_read_public(self, handles: tuple[int, ...], body: bytes) -> bytes:
        assert body == b""
        (index,) = handles
        found = self._index(index)
        self.before_read(index)
        public = struct.pack(">IHIHH", index, 0x0B, found.attributes, 0, len(found.data))
        return tpm2b(public) + tpm2b(b"\x00\x0b" + hashlib.sha256(public).digest())

    def _allowed(self, authority: int, index: int, owner: int, by_itself: int) -> Nv:
        found = self._index(index)
        if not found.attributes & (1 << (owner if authority == 0x40000001 else by_itself)):
            raise Refused(0x149)  # TPM_RC_NV_AUTHORIZATION
        assert authority in {0x40000001, index}
        return found

    def _nv_read(self, handles: tuple[int, ...], body: bytes) -> bytes:
        found = self._allowed(*handles, 17, 18)
        size, offset = struct.unpack(">HH", body)
        if size > 1024 or offset + size > len(found.data):
            raise Refused(0x146)  # TPM_RC_NV_RANGE
        return tpm2b(found.data[offset : offset + size])

    def _nv_write(self, handles: tuple[int, ...], body: bytes) -> bytes:
        found = self._allowed(*handles, 1, 2)
        size = struct.unpack_from(">H", body)[0]
        data, offset = body[2 : 2 + size], struct.unpack(">H", body[2 + size :])[0]
        if offset + size > len(found.data):
            raise Refused(0x146)
        found.data = found.data[:offset] + data + found.data[offset + size :]
        return b""

    def _nv_define(self, handles: tuple[int, ...], body: bytes) -> bytes:
        assert handles == (0x40000001,)
        assert body[:2] == b"\0\0"  # no password of its own
        assert struct.unpack_from(">H", body, 2)[0] == len(body) - 4
        index, algorithm, attributes, policy, size = struct.unpack(">IHIHH", body[4:])
        assert (algorithm, policy) == (0x0B, 0)
        self.nv[index] = Nv(bytes(size), attributes)
        return b""

    def _read_public(self, handles: tuple[int, ...], body: bytes) -> bytes:
        assert body == b""
        if handles[0] not in self.handles:
            raise Refused(0x18B)
        name = b"\x00\x0b" + hashlib.sha256(self.handles[handles[0]]).digest()
        return tpm2b(self.handles[handles[0]]) + tpm2b(name) + tpm2b(name)

    def _selected(self, body: bytes) -> tuple[int, list[int]]:
        count, bank, size = struct.unpack_from(">IHB", body)
        assert (count, size, len(body)) == (1, 3, 10)
        bits = int.from_bytes(body[7:10], "little")
        return bank, [number for number in range(24) if bits >> number & 1]

    def _pcr_read(self, _: tuple[int, ...], body: bytes) -> bytes:
        bank, wanted = self._selected(body)
        numbers = [number for number in wanted if number in self.tpm.banks.get(bank, {})][: self.at_once]
        bits = sum(1 << number for number in numbers).to_bytes(3, "little")
        values = [tpm2b(self.tpm.banks[bank][number]) for number in numbers]
        return struct.pack(">IIHB", 7, 1, bank, 3) + bits + struct.pack(">I", len(values)) + b"".join(values)

    def _quote(self, handles: tuple[int, ...], body: bytes) -> bytes:
        if handles[0] not in self.handles:
            raise Refused(0x18B)
        size = struct.unpack_from(">H", body)[0]
        if size > 50:  # a TPM without SHA-512
            raise Refused(0x1D5)  # TPM_RC_SIZE, parameter 1
        extra, scheme = body[2 : 2 + size], body[2 + size : 4 + size]
        assert scheme == b"\x00\x10"
        self.before_quote()
        bank, numbers = self._selected(body[4 + size :])
        values = b"".join(self.tpm.banks[bank][number] for number in numbers)
        digest = tpm2b(hashlib.new(HASHES[11], values).digest())
        attest = self.tpm.attest(extra, selection=body[4 + size :], digest=digest)
        return tpm2b(attest) + self.tpm.sign(attest)

    def _create_primary(self, handles: tuple[int, ...], body: bytes) -> bytes:
        assert handles == (0x4000000B,)
        assert body[:6] == b"\0\4\0\0\0\0"  # no password, no data
        size = struct.unpack_from(">H", body, 6)[0]
        template = body[8 : 8 + size]
        assert body[8 + size :] == b"\0\0" + bytes(4)
        if template not in self.templates:
            raise Refused(0x2C4)  # TPM_RC_VALUE, parameter 2
        handle = self.templates[template]
        self.handles[handle] = self.tpm.public()
        ticket = struct.pack(">HIH", 0x8021, 0x40000007, 0)
        return (
            struct.pack(">I", handle) + tpm2b(self.tpm.public()) + tpm2b(b"") + tpm2b(bytes(32)) + ticket + tpm2b(b"")
        )
