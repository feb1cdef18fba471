"""TCB levels: how current a platform, its TDX module and its quoting enclave are.

Follows the "Intel PCS API" version 4 for the JSON and Intel's QuoteVerificationLibrary for matching:

1. The first TCB level is taken whose sixteen SGX component SVNs and PCE SVN are not above those of the PCK certificate
   and, for TDX, whose TDX component SVNs are not above the quote's TEE_TCB_SVN. Components 0 and 1 name the TDX module
   and are skipped when the module has a version of its own (TEE_TCB_SVN[1] > 0).
2. In that case the module is looked up by its version, and its own level (by TEE_TCB_SVN[0]) pulls the status down.
3. The quoting enclave's level (by ISVSVN) pulls it down in the same way.

Invariants:

- A status or version that is not known here is refused, never passed on.
- Advisories of every level that was matched are reported together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar

import msgspec

from mitai.attest.dcap.pck import PckTcb
from mitai.attest.dcap.quote import EnclaveReport, TdReport
from mitai.errors import AttestError, ParseError


class TcbStatus(StrEnum):
    """What Intel says about a level."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"


class Component(msgspec.Struct, frozen=True):
    """One SVN of sixteen."""

    svn: int


class PlatformTcb(msgspec.Struct, frozen=True):
    """What a level demands of a platform."""

    sgxtcbcomponents: tuple[Component, ...]
    pcesvn: int
    tdxtcbcomponents: tuple[Component, ...] | None = None


class IsvTcb(msgspec.Struct, frozen=True):
    """What a level demands of an enclave or module."""

    isvsvn: int


class PlatformLevel(msgspec.Struct, frozen=True):
    """A TCB level of a platform."""

    tcb: PlatformTcb
    tcbStatus: TcbStatus  # noqa: N815 - Intel's names
    tcbDate: datetime  # noqa: N815
    advisoryIDs: tuple[str, ...] = ()  # noqa: N815


class IsvLevel(msgspec.Struct, frozen=True):
    """A TCB level of a TDX module or of the quoting enclave."""

    tcb: IsvTcb
    tcbStatus: TcbStatus  # noqa: N815
    tcbDate: datetime  # noqa: N815
    advisoryIDs: tuple[str, ...] = ()  # noqa: N815


class TdxModule(msgspec.Struct, frozen=True):
    """Who may have signed the TDX module, and with which attributes."""

    mrsigner: str
    attributes: str
    attributesMask: str  # noqa: N815


class TdxModuleIdentity(msgspec.Struct, frozen=True):
    """A version of the TDX module that has levels of its own."""

    id: str
    mrsigner: str
    attributes: str
    attributesMask: str  # noqa: N815
    tcbLevels: tuple[IsvLevel, ...]  # noqa: N815


class TcbInfo(msgspec.Struct, frozen=True):
    """TCB info version 3."""

    id: str
    version: int
    issueDate: datetime  # noqa: N815
    nextUpdate: datetime  # noqa: N815
    fmspc: str
    pceId: str  # noqa: N815
    tcbType: int  # noqa: N815
    tcbEvaluationDataNumber: int  # noqa: N815
    tcbLevels: tuple[PlatformLevel, ...]  # noqa: N815
    tdxModule: TdxModule | None = None  # noqa: N815
    tdxModuleIdentities: tuple[TdxModuleIdentity, ...] = ()  # noqa: N815


class QeIdentity(msgspec.Struct, frozen=True):
    """Enclave identity version 2."""

    id: str
    version: int
    issueDate: datetime  # noqa: N815
    nextUpdate: datetime  # noqa: N815
    tcbEvaluationDataNumber: int  # noqa: N815
    miscselect: str
    miscselectMask: str  # noqa: N815
    attributes: str
    attributesMask: str  # noqa: N815
    mrsigner: str
    isvprodid: int
    tcbLevels: tuple[IsvLevel, ...]  # noqa: N815


_Signed = TypeVar("_Signed", TcbInfo, QeIdentity)


class _Version(msgspec.Struct, frozen=True):
    version: int


@dataclass(frozen=True, slots=True)
class TcbResult:
    """The converged status of platform, TDX module and quoting enclave."""

    status: TcbStatus
    advisory_ids: tuple[str, ...]
    evaluation_number: int  # the lower of TCB info's and QE identity's


def parse_tcb_info(data: bytes) -> TcbInfo:
    """Parse TCB info (after its signature was checked)."""
    info = _parse(data, TcbInfo, 3, "tcb-info", "TCB info")
    counts = {len(level.tcb.sgxtcbcomponents) for level in info.tcbLevels}
    if info.id == "TDX":
        counts |= {len(level.tcb.tdxtcbcomponents or ()) for level in info.tcbLevels}
    if counts != {16} or info.tcbType != 0:
        raise ParseError("attest.tcb-info-malformed", "a TCB level has no sixteen components, or the TCB type is not 0")
    return info


def parse_qe_identity(data: bytes) -> QeIdentity:
    """Parse the QE identity (after its signature was checked)."""
    return _parse(data, QeIdentity, 2, "qe-identity", "the QE identity")


def _parse(data: bytes, kind: type[_Signed], version: int, what: str, name: str) -> _Signed:
    try:
        found = msgspec.json.decode(data, type=_Version).version
        if found != version:
            raise ParseError(f"attest.{what}-version-unsupported", f"version {found} of {name}, expected {version}")
        parsed = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ParseError(f"attest.{what}-malformed", f"{name} is malformed") from error
    if any(date.utcoffset() != timedelta(0) for date in (parsed.issueDate, parsed.nextUpdate)):
        raise ParseError(f"attest.{what}-malformed", f"{name} has a date that is not in UTC")
    return parsed


def check_qe_identity(report: EnclaveReport, identity: QeIdentity, expected_id: str) -> None:
    """Check that the quoting enclave is the one that Intel's QE identity describes."""
    code = "attest.qe-identity-malformed"
    if identity.id != expected_id:
        raise AttestError(
            "attest.qe-identity-id-mismatch", f"the QE identity is of {identity.id!r}, expected {expected_id!r}"
        )
    if report.mrsigner != _unhex(identity.mrsigner, 32, code):
        raise AttestError(
            "attest.qe-signer-mismatch", "the quoting enclave has another signer than Intel's QE identity names"
        )
    misc_mask = _unhex(identity.miscselectMask, 4, code)
    misc = _unhex(identity.miscselect, 4, code)
    attributes_mask = _unhex(identity.attributesMask, 16, code)
    attributes = _unhex(identity.attributes, 16, code)
    if (
        report.isv_prod_id != identity.isvprodid
        or _masked(report.misc_select, misc_mask) != misc
        or _masked(report.attributes, attributes_mask) != attributes
    ):
        raise AttestError(
            "attest.qe-identity-mismatch",
            "the quoting enclave's product, attributes or MISCSELECT are not those of the QE identity",
        )


def evaluate_tcb(
    body: TdReport | EnclaveReport, pck: PckTcb, qe: EnclaveReport, info: TcbInfo, identity: QeIdentity
) -> TcbResult:
    """Match the levels and converge their statuses; raise `AttestError` when no level fits."""
    code = "attest.tcb-info-malformed"
    expected_id = "TDX" if isinstance(body, TdReport) else "SGX"
    if info.id != expected_id:
        raise AttestError("attest.tcb-info-id-mismatch", f"the TCB info is of {info.id!r}, expected {expected_id!r}")
    if _unhex(info.fmspc, 6, code) != pck.fmspc:
        raise AttestError(
            "attest.tcb-info-fmspc-mismatch",
            f"the TCB info is of FMSPC {info.fmspc!r}, the platform is {pck.fmspc.hex()}",
        )
    if _unhex(info.pceId, 2, code) != pck.pce_id:
        raise AttestError(
            "attest.tcb-info-pceid-mismatch",
            f"the TCB info is of PCE {info.pceId!r}, the platform has {pck.pce_id.hex()}",
        )
    levels: list[PlatformLevel | IsvLevel] = [_platform_level(body, pck, info)]
    if isinstance(body, TdReport):
        levels += _module_level(body, info)
    levels.append(_isv_level(identity.tcbLevels, qe.isv_svn, "QE"))
    status = levels[0].tcbStatus
    for level in levels[1:]:
        status = _converge(status, level.tcbStatus)
    return TcbResult(
        status=status,
        advisory_ids=tuple(sorted({advisory for level in levels for advisory in level.advisoryIDs})),
        evaluation_number=min(info.tcbEvaluationDataNumber, identity.tcbEvaluationDataNumber),
    )


def _platform_level(body: TdReport | EnclaveReport, pck: PckTcb, info: TcbInfo) -> PlatformLevel:
    missing = "SGX"
    for level in info.tcbLevels:
        if pck.pce_svn < level.tcb.pcesvn or not _covers(pck.component_svns, level.tcb.sgxtcbcomponents):
            continue
        if not isinstance(body, TdReport):
            return level
        missing = "TDX"
        first = 2 if body.tee_tcb_svn[1] > 0 else 0
        if _covers(body.tee_tcb_svn[first:], (level.tcb.tdxtcbcomponents or ())[first:]):
            return level
    raise not_supported(missing)


def _module_level(body: TdReport, info: TcbInfo) -> list[IsvLevel]:
    """Check the TDX module's signer and attributes; return its level when its version has any."""
    code = "attest.tcb-info-malformed"
    version = body.tee_tcb_svn[1]
    identity: TdxModule | TdxModuleIdentity | None = info.tdxModule
    if version > 0:
        identity = next((known for known in info.tdxModuleIdentities if known.id.upper() == f"TDX_{version:02X}"), None)
    if identity is None:
        raise AttestError(
            "attest.tdx-module-unknown", f"the TCB info does not know version {version} of the TDX module"
        )
    mask = _unhex(identity.attributesMask, 8, code)
    if body.mrsignerseam != _unhex(identity.mrsigner, 48, code) or _masked(body.seam_attributes, mask) != _unhex(
        identity.attributes, 8, code
    ):
        raise AttestError(
            "attest.tdx-module-mismatch", "the TDX module's signer or attributes are not those that Intel lists"
        )
    if isinstance(identity, TdxModuleIdentity):
        return [_isv_level(identity.tcbLevels, body.tee_tcb_svn[0], "TDX module")]
    return []


def _isv_level(levels: Sequence[IsvLevel], isv_svn: int, what: str) -> IsvLevel:
    for level in levels:
        if level.tcb.isvsvn <= isv_svn:
            return level
    raise not_supported(what)


def not_supported(what: str) -> AttestError:
    """Return the refusal of a platform, module or enclave that is below every level."""
    return AttestError(
        "attest.tcb-not-supported", f"the {what} part is below every TCB level that Intel lists: NotSupported({what})"
    )


def _covers(svns: Sequence[int], components: Sequence[Component]) -> bool:
    return all(svn >= component.svn for svn, component in zip(svns, components, strict=True))


def _converge(platform: TcbStatus, part: TcbStatus) -> TcbStatus:
    """Lower the platform's status by that of its TDX module or quoting enclave (Intel QVL, `convergeTcbStatus`)."""
    if part is TcbStatus.REVOKED or platform is TcbStatus.REVOKED:
        return TcbStatus.REVOKED
    if part is TcbStatus.UP_TO_DATE:
        return platform
    if part is TcbStatus.OUT_OF_DATE:
        if platform in {TcbStatus.CONFIGURATION_NEEDED, TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED}:
            return TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED
        if platform in {TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED}:
            return TcbStatus.OUT_OF_DATE
        return platform
    raise ParseError("attest.tcb-info-malformed", f"{part} is no status of a TDX module or quoting enclave")


def _masked(value: bytes, mask: bytes) -> bytes:
    return bytes(left & right for left, right in zip(value, mask, strict=True))


def _unhex(text: str, size: int, code: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise ParseError(code, f"a field has not {size} bytes in hex")
    return value
