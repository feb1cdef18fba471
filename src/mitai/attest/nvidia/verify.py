"""From reports to devices: certificate chains, signatures, reference manifests, measurements, and the fabric.

Follows NVIDIA's "Attestation" documentation and the checks of its own verifiers (nvtrust, attestation-sdk); what is
stricter here is listed in `docs/spec/evidence-nvidia.md`.

Invariants:

- A report counts because its device's key signed it, whose chain of five certificates ends in NVIDIA's device root, and
  because it answers our nonce.
- Driver and firmware count because every active value of NVIDIA's signed manifests for exactly these versions is there.
- Nothing is looked up by a name that was not signed: manifests are chosen by edition, product and version, and each
  of the three is under NVIDIA's signature on one side and the device's on the other.

Example:
    >>> devices = appraise_devices(checks, evidence.devices, nonce, policy.nvidia, now=now, cache=cache)
    >>> devices[0].chip, devices[0].driver
    ('GH100', '550.90.07')
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import pairwise

from cryptography.x509 import UnrecognizedExtension

from mitai.attest.cache import BEGINNING, NO_END, Verified, VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.nvidia.certificates import verify_signing_chain, window
from mitai.attest.nvidia.device import Device, DeviceEvidence, Endorsements, Kind, decode_devices, device_nonce
from mitai.attest.nvidia.ocsp import StatusBook, check_status
from mitai.attest.nvidia.report import Opaque, Report, parse_report, pdis, vbios_version
from mitai.attest.nvidia.rim import Reference, Rim, parse_rim, verify_rim
from mitai.attest.nvidia.roots import NVIDIA, Roots
from mitai.attest.nvidia.rules import NvidiaRules
from mitai.attest.x509 import Certificate, parse_chain, verify_signature
from mitai.errors import AttestError, ParseError

_CHAIN_MALFORMED = "attest.nvidia-device-chain-malformed"
_CHAIN_LENGTH = 5  # report key, device, provisioner, product line, root
# TCG DICE: CompositeDeviceID (Hopper, LS10), TcbInfo (Blackwell)
_FWID_EXTENSIONS = ("2.23.133.5.4.1", "2.23.133.5.4.1.1")
_FWID = bytes.fromhex("303d06096086480165030402020430")  # SEQUENCE { sha384, OCTET STRING of 48 bytes
MODES = {0: "spt", 1: "mpt", 2: "ppcie"}
_PROTECTED_PCIE = 0xAA
_NVDEC0_OFF = 0x55
_NVDEC0_INDEX = 35  # measured only where the video decoder is on
_NO_ENDORSEMENTS = Endorsements()


_Window = tuple[datetime, datetime]
_References = dict[str, dict[int, Reference]]  # by what they are about: driver, vbios, bios; by index


@dataclass(frozen=True)
class _Pool:
    """All endorsements at hand; parsed where something new is verified."""

    endorsements: Endorsements

    @cached_property
    def rims(self) -> tuple[Rim, ...]:
        return tuple(parse_rim(data) for data in self.endorsements.rims)

    @cached_property
    def book(self) -> StatusBook:
        return StatusBook.parse(self.endorsements.ocsp)


@dataclass(frozen=True, slots=True)
class _Context:
    rules: NvidiaRules
    roots: Roots
    now: datetime
    cache: VerifiedCache
    pool: _Pool


def appraise_devices(
    checks: Checklist,
    devices: bytes,
    nonce: bytes,
    rules: NvidiaRules,
    *,
    now: datetime,
    cache: VerifiedCache | None = None,
    endorsements: Endorsements = _NO_ENDORSEMENTS,
    roots: Roots = NVIDIA,
) -> tuple[Device, ...]:
    """Verify all devices of an evidence bundle, each by itself and then together.

    Args:
        checks: Gets a step for each check.
        devices: The exact bytes of the bundle's `devices`; the caller checks that the CPU's quote covers them.
        nonce: The 32 bytes that the verifier chose for this exchange.
        rules: What is accepted.
        now: Time of the check.
        cache: Remembers chains, manifests and OCSP responses that were verified.
        endorsements: Manifests and OCSP responses from elsewhere, used together with those that came along.
        roots: The trust anchors.

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    with checks.step("devices") as say:
        entries = decode_devices(devices)
        say(f"{len(entries)} in the evidence")
    return appraise_entries(
        checks, entries, device_nonce(nonce), rules, now=now, cache=cache, endorsements=endorsements, roots=roots
    )


def appraise_entries(
    checks: Checklist,
    entries: tuple[DeviceEvidence, ...],
    expected_nonce: bytes | None,
    rules: NvidiaRules,
    *,
    now: datetime,
    cache: VerifiedCache | None = None,
    endorsements: Endorsements = _NO_ENDORSEMENTS,
    roots: Roots = NVIDIA,
) -> tuple[Device, ...]:
    """Verify devices against the very nonce that their reports should hold; without one, freshness is not checked."""
    cache = cache or VerifiedCache()
    context = _Context(rules, roots, now, cache, _pool(entries, endorsements))
    counts: Counter[str] = Counter()
    appraised = []
    for entry in entries:
        appraised.append(_appraise(checks, f"{entry.kind} {counts[entry.kind]}", entry, expected_nonce, context))
        counts[entry.kind] += 1
    with checks.step("device set") as say:
        check_set(appraised, rules)
        say(f"{counts['gpu']} GPUs, {counts['switch']} switches, no device twice")
    with checks.step("fabric") as say:
        say(_check_fabric(appraised) if rules.fabric else "not checked")
    return tuple(appraised)


def _pool(entries: tuple[DeviceEvidence, ...], more: Endorsements) -> _Pool:
    """Put together what came along and what was there already, each once."""
    parts: list[Endorsements] = [more, *entries]
    rims = dict.fromkeys(data for part in parts for data in part.rims)
    return _Pool(Endorsements(tuple(rims), tuple(dict.fromkeys(data for part in parts for data in part.ocsp))))


def _appraise(
    checks: Checklist, name: str, entry: DeviceEvidence, expected_nonce: bytes | None, context: _Context
) -> Device:
    """Verify one device: certificates, report, versions and mode, measurements."""
    with checks.step(f"{name} certificates") as say:
        chain = _verified_chain(entry.certificates, context)
        say(chain.value[1].common_name)
    with checks.step(f"{name} report") as say:
        report = parse_report(entry.report)
        _check_report(report, chain.value[0], expected_nonce)
        say("signed by the device, " + ("freshness not checked" if expected_nonce is None else "answers our nonce"))
    with checks.step(f"{name} configuration") as say:
        device = _describe(entry.kind, report, chain)
        check_configuration(device, context.rules)
        software = f"driver {device.driver}, mode {device.mode}, " if entry.kind == "gpu" else ""
        say(f"{device.chip}, {software}firmware {device.vbios}")
    with checks.step(f"{name} measurements") as say:
        references = _verified_references(device, _product(report, device.chip), context)
        compared = _compare(report, references.value)
        total = len(report.measurements)
        measured = f"{compared} of {total} as NVIDIA published" if compared else "not compared: no manifests"
        say(measured)
    return replace(device, measured=measured, not_after=min(chain.not_after, references.not_after))


def _verified_chain(pem: bytes, context: _Context) -> Verified[tuple[Certificate, ...]]:
    """Return the device's chain: complete, in order, up to the root, with no certificate revoked."""

    def verify() -> Verified[tuple[Certificate, ...]]:
        chain = parse_chain(pem.rstrip(b"\n"), _CHAIN_MALFORMED)
        if len(chain) != _CHAIN_LENGTH:
            raise AttestError(
                "attest.nvidia-device-chain-incomplete",
                f"the device's chain has {len(chain)} certificates, not {_CHAIN_LENGTH}",
            )
        if chain[-1].fingerprint != context.roots.device:
            raise AttestError(
                "attest.nvidia-root-untrusted",
                f"the device's chain ends in {chain[-1].common_name!r}, which is not trusted",
            )
        verify_signing_chain(chain, "nvidia-device", context.now)
        # The first certificate's issuer is the device itself, which answers no questions about revocation.
        return Verified(chain, *_window(chain, chain[1:], context))

    inputs = (pem, context.roots.device.encode(), *_status_inputs(context))
    return context.cache.get("nvidia device chain", inputs, context.now, verify)


def _verified_references(device: Device, product: str, context: _Context) -> Verified[_References]:
    """Return what the manifests of a device's driver and firmware say, whose signatures, chains and status hold."""

    def verify() -> Verified[_References]:
        references: _References = {}
        windows = [(BEGINNING, NO_END)]
        for what, rim in _find_rims(device, product, context).items():
            verify_rim(rim, context.roots.rim, context.now)
            windows.append(_window(rim.chain, rim.chain, context))
            references[what] = rim.active
            if not rim.active:
                raise AttestError("attest.nvidia-rim-empty", f"the manifest for the {what} has no value that counts")
        return Verified(references, *_overlap(windows))

    wanted = (device.kind, product, device.driver, device.vbios, context.rules.rims, context.roots.rim)
    inputs = (*(text.encode() for text in wanted), *context.pool.endorsements.rims, b"", *_status_inputs(context))
    return context.cache.get("nvidia references", inputs, context.now, verify)


def _status_inputs(context: _Context) -> tuple[bytes, ...]:
    """Return all that `check_status` depends on, as part of a cache key."""
    rules = context.rules
    return (f"{rules.ocsp} {rules.ocsp_grace_s} {rules.accept_hold}".encode(), *context.pool.endorsements.ocsp)


def _window(chain: tuple[Certificate, ...], asked: tuple[Certificate, ...], context: _Context) -> _Window:
    """Check the revocation status of `asked` less its last, the root; return when chain and status hold."""
    windows = [window(chain)]
    for certificate, issuer in pairwise(asked):
        found = check_status(
            certificate, issuer, context.pool.book, context.rules, now=context.now, cache=context.cache
        )
        windows += [found] if found else []
    return _overlap(windows)


def _overlap(windows: list[_Window]) -> _Window:
    return max(start for start, _ in windows), min(end for _, end in windows)


def _check_report(report: Report, leaf: Certificate, expected_nonce: bytes | None) -> None:
    verify_signature(
        leaf.ec_key,
        report.signature,
        report.signed,
        "attest.nvidia-report-signature-invalid",
        "the report is not signed by the device's key: a byte of it was changed",
    )
    if expected_nonce is not None and not hmac.compare_digest(report.nonce, expected_nonce):
        raise AttestError(
            "attest.nvidia-nonce-mismatch", "the report answers another nonce: it is a replay, or of another exchange"
        )
    fwid = report.opaque.get(Opaque.FWID)  # early drivers and switches do not repeat it
    if fwid is not None and fwid != _certified_fwid(leaf):
        raise AttestError(
            "attest.nvidia-fwid-mismatch", "the report's firmware is not the one that its key was certified for"
        )


def _certified_fwid(leaf: Certificate) -> bytes | None:
    """Return the first firmware id in the certificate's DICE extension."""
    for extension in leaf.parsed.extensions:
        value = extension.value
        if extension.oid.dotted_string in _FWID_EXTENSIONS and isinstance(value, UnrecognizedExtension):
            _, found, rest = value.value.partition(_FWID)
            return rest[:48] if found else None
    return None


def _chip(leaf: Certificate) -> str:
    """Return the chip that NVIDIA certified, such as GH100 of "GH100 A01 GSP FMC LF" (LS10 is written LS_10)."""
    return leaf.common_name.partition(" ")[0].replace("_", "")


def _product(report: Report, chip: str) -> str:
    """Return what manifests call the chip: as the report says or, with early drivers, as it is certified."""
    return report.text(Opaque.CHIP_INFO) if Opaque.CHIP_INFO in report.opaque else chip


def _mode(report: Report) -> str:
    """Return how the GPU shares: alone, or with others over encrypted (mpt) or plain (ppcie) links."""
    flag = report.number(Opaque.FEATURE_FLAG)
    if flag is None:  # early drivers say no more than this
        flag = 2 if report.number(Opaque.PROTECTED_PCIE_STATUS) == _PROTECTED_PCIE else 0
    if flag not in MODES:
        raise ParseError("attest.nvidia-mode-unsupported", f"the GPU is in mode {flag}, which is not known")
    return MODES[flag]


def _describe(kind: Kind, report: Report, chain: Verified[tuple[Certificate, ...]]) -> Device:
    """Read what a verified report says; its measurements are not yet compared."""
    leaf, certificate = chain.value[:2]
    gpu = kind == "gpu"
    # The chip's own id is the low half of its certificate's serial number; a switch's report repeats it.
    pdi = f"{certificate.parsed.serial_number & 0xFFFF_FFFF_FFFF_FFFF:016x}"
    if not gpu and report.opaque.get(Opaque.PDI, b"").hex() != pdi:
        raise AttestError("attest.nvidia-pdi-mismatch", "the switch's report names another chip than its certificate")
    return Device(
        kind=kind,
        chip=_chip(leaf),
        ueid=str(leaf.parsed.serial_number),
        pdi=pdi,
        driver=report.text(Opaque.DRIVER_VERSION) if gpu else "",
        vbios=vbios_version(report) if gpu else report.text(Opaque.VBIOS_VERSION),
        mode=_mode(report) if gpu else "",
        measurements={index: value.hex() for index, value in sorted(report.measurements.items())},
        measured="",
        peers=_gpu_peers(report) if gpu else _switch_peers(report),
        signed=report.signed,
        not_after=chain.not_after,
    )


def check_configuration(device: Device, rules: NvidiaRules) -> None:
    """Check chip, mode and versions of a device whose report, or whose token of NRAS, was verified."""
    chip, driver, vbios, mode, ueid = device.chip, device.driver, device.vbios, device.mode, device.ueid
    if rules.chips and chip not in rules.chips:
        raise AttestError("attest.nvidia-chip-not-allowed", f"the policy does not accept a {chip}")
    if device.kind == "gpu" and not mode and set(rules.modes) != set(MODES.values()):
        raise AttestError(
            "attest.nvidia-mode-unknown",
            "nothing says in which mode the GPU is, and the policy does not accept all",
            hint="verify the report itself, or accept spt, mpt and ppcie",
        )
    if mode and mode not in rules.modes:
        raise AttestError(
            "attest.nvidia-mode-not-allowed",
            f"the GPU is in mode {mode}, and the policy accepts {', '.join(rules.modes) or 'none'}",
        )
    if driver and _version(driver) < _version(rules.min_driver):
        raise AttestError("attest.nvidia-driver-too-old", f"driver {driver} is below the policy's {rules.min_driver}")
    if driver and rules.drivers and driver not in rules.drivers:
        raise AttestError("attest.nvidia-driver-not-allowed", f"driver {driver} is not on the policy's list")
    if rules.vbios and vbios not in rules.vbios:
        raise AttestError("attest.nvidia-vbios-not-allowed", f"firmware {vbios} is not on the policy's list")
    if ueid in rules.denied_ueids:
        raise AttestError("attest.nvidia-device-denied", f"the policy denies device {ueid}")


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise ParseError("attest.nvidia-report-malformed", "the report's driver version is not numbers and dots")
    return tuple(int(part) for part in parts)


def _gpu_peers(report: Report) -> frozenset[str]:
    """Return the ids of the switches at a GPU's links, which it writes backwards."""
    raw = report.opaque.get(Opaque.PDI, b"")
    return pdis(b"".join(raw[start : start + 8][::-1] for start in range(0, len(raw), 8)))


def _switch_peers(report: Report) -> frozenset[str]:
    """Return the ids of the GPUs at a switch's links: eight, before a table of ports."""
    return pdis(report.opaque.get(Opaque.SWITCH_GPU_PDIS, b"")[:64])


def _find_rims(device: Device, product: str, context: _Context) -> dict[str, Rim]:
    """Return the one manifest for each version."""
    versions = {"driver": device.driver, "vbios": device.vbios} if device.kind == "gpu" else {"bios": device.vbios}
    found: dict[str, Rim] = {}
    for what, version in versions.items():
        wanted = (device.kind.upper(), product, version)
        matches = [rim for rim in context.pool.rims if (rim.edition, rim.product, rim.version) == wanted]
        if len(matches) > 1:
            raise AttestError(
                "attest.nvidia-rim-ambiguous", f"{len(matches)} manifests for {what} {version} came along"
            )
        if matches:
            found[what] = matches[0]
        elif context.rules.rims == "required":
            present = ", ".join(sorted(f"{rim.product} {rim.version}" for rim in context.pool.rims)) or "none"
            raise AttestError(
                f"attest.nvidia-{what}-rim-missing",
                f"no reference manifest for {product} {what} {version} came along (there: {present})",
            )
    return found


def _compare(report: Report, references: _References) -> int:
    """Compare measurements with every active reference; return how many were."""
    indexes = Counter(index for active in references.values() for index in active)
    repeated = [index for index, count in indexes.items() if count > 1]
    if repeated:
        raise AttestError(
            "attest.nvidia-rim-index-conflict", f"driver and VBIOS manifest both have values for {_list(repeated)}"
        )
    skipped = {_NVDEC0_INDEX} if report.number(Opaque.NVDEC0_STATUS) == _NVDEC0_OFF else set()
    compared = 0
    for what, active in references.items():
        expected = active.keys() - skipped
        missing = expected - report.measurements.keys()
        if missing:
            raise AttestError(
                f"attest.nvidia-{what}-measurement-missing", f"the report lacks the measurements {_list(missing)}"
            )
        wrong = [index for index in expected if not active[index].allows(report.measurements[index])]
        if wrong:
            raise AttestError(
                f"attest.nvidia-{what}-measurement-mismatch",
                f"the measurements {_list(wrong)} are none that NVIDIA published for this {what}",
                hint="firmware or driver was changed, or the device is in a debug mode",
            )
        compared += len(expected)
    return compared


def _list(indexes: Iterable[int]) -> str:
    return ", ".join(str(index) for index in sorted(indexes))


def check_set(devices: list[Device], rules: NvidiaRules) -> None:
    """Check that the devices are enough, each another, and run one driver."""
    gpus = [device for device in devices if device.kind == "gpu"]
    for name, number, least in (
        ("gpus", len(gpus), rules.min_gpus),
        ("switches", len(devices) - len(gpus), rules.min_switches),
    ):
        if number < least:
            raise AttestError(f"attest.nvidia-too-few-{name}", f"{number} {name} where the policy demands {least}")
    if len({device.pdi or device.ueid for device in devices}) != len(devices):
        raise AttestError("attest.nvidia-device-repeated", "the evidence shows one device twice")
    drivers = sorted({gpu.driver for gpu in gpus})
    if rules.same_driver and len(drivers) > 1:
        raise AttestError("attest.nvidia-drivers-differ", f"the GPUs run different drivers: {', '.join(drivers)}")


def _check_fabric(devices: list[Device]) -> str:
    """Check that each GPU is linked to exactly the switches that are here, and each switch to exactly the GPUs."""
    gpus = {device.pdi: device.peers for device in devices if device.kind == "gpu"}
    switches = {device.pdi: device.peers for device in devices if device.kind == "switch"}
    if not switches and not any(gpus.values()):
        return "none"
    if any(peers != switches.keys() for peers in gpus.values()):
        raise AttestError("attest.nvidia-fabric-mismatch", "a GPU is linked to other switches than the evidence shows")
    if any(peers != gpus.keys() for peers in switches.values()):
        raise AttestError("attest.nvidia-fabric-mismatch", "a switch is linked to other GPUs than the evidence shows")
    return f"{len(gpus)} GPUs and {len(switches)} switches name each other"


def rim_names(entry: DeviceEvidence) -> tuple[str, ...]:
    """Return the names under which NVIDIA's service has the manifests for a device; for whoever fetches them.

    They come from a report that was not verified, and nothing is believed of them.
    """
    report, chain = parse_report(entry.report), parse_chain(entry.certificates.rstrip(b"\n"), _CHAIN_MALFORMED)
    if entry.kind == "switch":
        return (f"NV_SWITCH_BIOS_5612_0002_890_{report.text(Opaque.VBIOS_VERSION).replace('.', '')}",)
    product = _product(report, _chip(chain[0]))
    prefix = "NV_GPU_DRIVER" if product == "GH100" else "NV_GPU_CC_DRIVER"
    board = "_".join(report.text(kind) for kind in (Opaque.PROJECT, Opaque.PROJECT_SKU, Opaque.CHIP_SKU))
    return (
        f"{prefix}_{product}_{report.text(Opaque.DRIVER_VERSION)}",
        f"NV_GPU_VBIOS_{board}_{vbios_version(report).replace('.', '')}",
    )
