"""What evidence needs from which vendor's service, and how the answers are put beside it.

Follows Intel's "PCS for Intel SGX/TDX" version 4 (a PCCS has the same paths), AMD's "VCEK Certificate and KDS Interface
Specification" (57230), NVIDIA's RIM service version 1 and RFC 6960 (OCSP), and Hygon's certificate server.

Names and numbers in the questions come from evidence that was not verified yet. Nothing is believed of them: who lies
there gets collateral that does not fit.

Example:
    >>> hardware = complete(hardware, Cache(HttpTransport(), folder))
    >>> verify_hardware(hardware, policy, now=now)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import quote as percent

import msgspec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPRequestBuilder

from mitai.attest import azure, csv, nvidia, snp
from mitai.attest.collateral.resource import Resource, Signed, crl_der, rim_document
from mitai.attest.collateral.store import Store
from mitai.attest.dcap.collateral import Collateral
from mitai.attest.dcap.pck import pck_tcb
from mitai.attest.dcap.quote import TdReport, parse_quote
from mitai.attest.dcap.verify import find_pck_chain
from mitai.attest.machine import Hardware
from mitai.attest.nvidia.rim import parse_rim
from mitai.attest.snp.report import TCB_LAYOUTS, tcb_components
from mitai.attest.snp.report import Report as SnpReport
from mitai.attest.tpm import TpmEvidence
from mitai.attest.x509 import Certificate, parse_chain
from mitai.errors import AttestError

_SPL = {"fmc": "fmcSPL", "bootloader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL"}


@dataclass(frozen=True)
class Services:
    """Where the services are. A PCCS stands for Intel's with `intel` and `intel_root_crl` set to it."""

    intel: str = "https://api.trustedservices.intel.com"
    intel_root_crl: str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    amd: str = "https://kdsintf.amd.com"
    nvidia_rim: str = "https://rim.attestation.nvidia.com"
    nvidia_ocsp: str = "https://ocsp.ndis.nvidia.com"
    hygon: str = "https://cert.hygon.cn"

    @staticmethod
    def behind_pccs(url: str) -> Services:
        """Return services with a PCCS in Intel's place."""
        base = url.rstrip("/")
        return Services(intel=base, intel_root_crl=f"{base}/sgx/certification/v4/rootcacrl")


PUBLIC = Services()


def complete(hardware: Hardware, store: Store, services: Services = PUBLIC) -> Hardware:
    """Return the evidence with what it lacks: collateral, endorsements, revocation lists. What it has stays.

    Raises:
        AttestError: A service or bundle does not have it.
        ParseError: The evidence is malformed.
    """
    match hardware.tee:
        case "tdx" | "sgx":
            return _with_collateral(hardware, hardware.quote, store, services)
        case "snp":
            return _with_vcek(hardware, hardware.quote, store, services)
        case "az-snp-vtpm":
            report = azure.parse_hcl_report(TpmEvidence.decode(hardware.quote).hcl_report)
            return _with_vcek(hardware, report.hardware_report, store, services)
        case "az-tdx-vtpm":
            return _with_collateral(hardware, TpmEvidence.decode(hardware.quote).hardware_quote, store, services)
        case "csv":
            return _with_hygon_chain(hardware, store, services)
    return hardware


def device_endorsements(devices: bytes, store: Store, services: Services = PUBLIC) -> nvidia.Endorsements:
    """Return manifests and revocation statuses for the devices of an evidence bundle, given as its exact bytes."""
    rims: dict[str, bytes] = {}
    statuses: dict[str, bytes] = {}
    for entry in nvidia.decode_devices(devices):
        for name in nvidia.rim_names(entry):
            resource = Resource("rim", f"{services.nvidia_rim}/v1/rim/{percent(name, safe='')}")
            rims[resource.name] = rim_document(store.get(resource).body)
        for resource in _ocsp(entry, rims.values(), services):
            statuses[resource.name] = store.get(resource).body
    return nvidia.Endorsements(tuple(rims.values()), tuple(statuses.values()))


def _with_collateral(hardware: Hardware, quote: bytes, store: Store, services: Services) -> Hardware:
    if hardware.collateral is not None:
        return hardware
    parsed = parse_quote(quote)
    leaf, intermediate, _root = find_pck_chain(parsed, None).certificates
    tee = "tdx" if isinstance(parsed.body, TdReport) else "sgx"
    base = f"{services.intel}/{tee}/certification/v4"
    fmspc = pck_tcb(leaf).fmspc.hex()
    ca = "platform" if "Platform" in intermediate.common_name else "processor"
    tcb = store.get(Resource("tcb-info", f"{base}/tcb?fmspc={fmspc}", chain_header="TCB-Info-Issuer-Chain"))
    qe = store.get(Resource("qe-identity", f"{base}/qe/identity", chain_header="SGX-Enclave-Identity-Issuer-Chain"))
    crl_url = f"{services.intel}/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"
    crl = store.get(Resource("crl", crl_url, chain_header="SGX-PCK-CRL-Issuer-Chain"))
    root_crl = store.get(Resource("crl", services.intel_root_crl))
    tcb_info, tcb_signature = Signed.parse(tcb.body, "tcb-info")
    qe_identity, qe_signature = Signed.parse(qe.body, "qe-identity")
    collateral = Collateral(
        tcb_info=tcb_info,
        tcb_info_signature=tcb_signature,
        tcb_info_issuer_chain=tcb.chain,
        qe_identity=qe_identity,
        qe_identity_signature=qe_signature,
        qe_identity_issuer_chain=qe.chain,
        root_ca_crl=crl_der(root_crl.body),
        pck_crl=crl_der(crl.body),
        pck_crl_issuer_chain=crl.chain,
    )
    return msgspec.structs.replace(hardware, collateral=collateral)


def _with_vcek(hardware: Hardware, data: bytes, store: Store, services: Services) -> Hardware:
    report = snp.parse_report(data)
    given = dict(hardware.endorsements)
    products = [report.product] if report.product else ["Milan", "Genoa"]  # version 2 does not name it
    if report.signing_key == "vcek" and not {"vek", "certs"} & given.keys():
        given["vek"], products = _vcek(report, products, store, services)
    if "crl" not in given and len(products) == 1:
        kind = report.signing_key
        given["crl"] = crl_der(store.get(Resource("crl", f"{services.amd}/{kind}/v1/{products[0]}/crl")).body)
    return msgspec.structs.replace(hardware, endorsements=given)


def _vcek(report: SnpReport, products: list[str], store: Store, services: Services) -> tuple[bytes, list[str]]:
    """Return the certificate of the chip's key for the reported TCB, and the product under which AMD has it."""
    failure: AttestError | None = None
    for product in products:
        try:
            return store.get(Resource("certificate", _vcek_url(report, product, services))).body, [product]
        except AttestError as error:
            failure = error
    raise failure or AttestError("attest.snp-vek-missing", "there is no product to ask for")


def _vcek_url(report: SnpReport, product: str, services: Services) -> str:
    chip = report.chip_id[:8] if product == "Turin" else report.chip_id
    levels = tcb_components(product, report.reported_tcb)
    order = [name for name in ("fmc", "bootloader", "tee", "snp", "microcode") if name in TCB_LAYOUTS[product]]
    query = "&".join(f"{_SPL[name]}={levels[name]:02}" for name in order)
    return f"{services.amd}/vcek/v1/{product}/{chip.hex()}?{query}"


def _with_hygon_chain(hardware: Hardware, store: Store, services: Services) -> Hardware:
    if hardware.endorsements:
        return hardware
    serial = csv.parse_report(hardware.quote).signer.serial_number
    item = store.get(Resource("csv-chain", f"{services.hygon}/hsk_cek?snumber={percent(serial, safe='')}"))
    return msgspec.structs.replace(hardware, endorsements={"hsk_cek": item.body})


def _ocsp(entry: nvidia.DeviceEvidence, rims: Iterable[bytes], services: Services) -> Iterator[Resource]:
    """Yield the questions about certificates of the device and of its manifests.

    Nobody asks about roots, nor about a device's first certificate: the device itself issued it.
    """
    chains = [parse_chain(entry.certificates.rstrip(b"\n"), "attest.nvidia-device-chain-malformed")[1:]]
    chains += [parse_rim(rim).chain for rim in rims]
    for chain in chains:
        for certificate, issuer in pairwise(chain):
            yield _ocsp_question(certificate, issuer, services)


def _ocsp_question(certificate: Certificate, issuer: Certificate, services: Services) -> Resource:
    built = OCSPRequestBuilder().add_certificate(certificate.parsed, issuer.parsed, SHA384()).build()
    return Resource(
        "ocsp", services.nvidia_ocsp, request=built.public_bytes(Encoding.DER), media_type="application/ocsp-request"
    )
