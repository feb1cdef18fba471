"""What each step of a verification means, for people: `mitai verify --explain`.

Keys are a step's name, or TEE and name where one name stands for different checks.
"""

from __future__ import annotations

import re
from typing import Final

EXPLANATIONS: Final = {
    # Any evidence of ours
    "nonce": "You chose 32 random bytes, and this evidence was made for them: it is not an older one shown again.",
    "report data": "The hardware signed a digest of your nonce and the claims: the keys in them are this machine's.",
    "claims": "The process says which model, policies and ledger it works with; the policy may demand some.",
    "workload": "The measured code is exactly a build that the policy lists.",
    "devices": "The processor's signature covers the digest of this list: nobody put another GPU's report in.",
    # Intel TDX and SGX
    "quote": "The evidence is a well-formed Intel quote, to its last byte.",
    "root": "The quote's certificates end in the root key of Intel, or in a simulated one that the policy allows.",
    "collateral": "What Intel says of this kind of platform (TCB, QE identity, revocations) is signed and current.",
    "tdx platform": "Intel certified the key of this very processor, and has not revoked it.",
    "sgx platform": "Intel certified the key of this very processor, and has not revoked it.",
    "signatures": "Processor key → quoting enclave → attestation key → quote: each vouches for the next.",
    "quoting enclave": "The enclave that signs quotes on this machine is Intel's, at a version that Intel accepts.",
    "tdx tcb": "Microcode, firmware and TDX module are as recent as the policy demands; known open flaws are named.",
    "sgx tcb": "Microcode and firmware are as recent as the policy demands; known open flaws are named.",
    "second opinion": "Another implementation (dcap-qvl, Rust) came to the same verdict.",
    "td": "The guest is not in debug mode, can't be migrated, and has only features that the policy allows.",
    "enclave": "The enclave is not in debug mode and is one that the policy allows.",
    "event log": "The list of what was measured during boot adds up to registers that the hardware signed.",
    # AMD SEV-SNP
    "snp report": "The evidence is a well-formed AMD report, asked for by the guest, signed by a key of AMD's.",
    "endorsement": "AMD certified that key, up to its pinned root, and has not revoked what is between.",
    "snp signature": "The key signed the report: no byte was changed.",
    "snp binding": "The certificate is of the product, the chip and the firmware versions that the report names.",
    "snp tcb": "Boot loader, firmware and microcode are as recent as the policy demands, and can't be rolled back.",
    "guest": "The guest is not in debug mode, can't be migrated, and has a privilege level that the policy allows.",
    "snp platform": "How the host is configured (hyper-threading, memory encryption …) is as the policy demands.",
    # AWS Nitro
    "document": "The evidence is a well-formed Nitro attestation document.",
    "chain": "The certificates lead to the vendor's pinned root, and all are valid now.",
    "nitro signature": "The hypervisor's certified key signed the document: no byte was changed.",
    "time": "The document was made just now by the hypervisor's clock.",
    "registers": "The measured registers are there, and are as the policy demands; in debug mode they would be zero.",
    # Arm CCA
    "token": "The evidence is a well-formed pair of tokens, one of the platform and one of the realm.",
    "platform signature": "The platform's own key, which the policy names, signed the platform's token.",
    "cca binding": "The platform's token names the key that signed the realm's token: both are of one machine.",
    "realm signature": "That key signed the realm's token: no byte was changed.",
    "cca platform": "The platform is in its secured state, and its firmware is one that the policy lists.",
    "realm": "The realm is one that the policy lists.",
    # Hygon CSV
    "csv report": "The evidence is a well-formed CSV report.",
    "csv signature": "The chip's certified key signed the report (SM2): no byte was changed.",
    # TPM, Azure, Google
    "evidence": "The evidence holds a well-formed TPM quote and the registers that it is about.",
    "attestation key": "The key that signs quotes can sign nothing else, and a root or the policy names it.",
    "tpm signature": "The TPM's key signed the quote: no byte was changed.",
    "ima": "The list of files that were run adds up to the signed register, and the policy allows each.",
    "paravisor's report": "Azure's paravisor put a report of the processor beside the quote; both are well formed.",
    "paravisor": "The processor vouches for a paravisor of Microsoft's, and so for the TPM that lives in it.",
    "configuration": "The virtual machine was started as the policy demands (secure boot, console …).",
    "binding": "Processor and TPM signed the same bytes. That both are of one machine, neither of them says.",
    # NVIDIA
    "certificates": "NVIDIA certified the device's key, up to its pinned root, and has not revoked it.",
    "report": "The device's key signed the report, for your nonce.",
    "measurements": "Driver and firmware are what NVIDIA's signed reference manifests say.",
    "device set": "There are as many devices as the policy demands, and none is counted twice.",
    "fabric": "GPUs and switches name each other and nobody else: no foreign device sits between them.",
    "nras token": "NVIDIA's attestation service signed this result.",
    "nras result": "The service's overall verdict is positive.",
}
_NUMBER = re.compile(r"^\d+ ")


def explain(tee: str, step: str) -> str:
    """Return what a step of a checklist (`"5 platform"`) means in the verification of a TEE; nothing if unknown."""
    name = _NUMBER.sub("", step)
    short = re.sub(r"^(?:gpu|switch) \d+ ", "", name)
    for key in (f"{tee} {name}", name, short):
        if key in EXPLANATIONS:
            return EXPLANATIONS[key]
    return EXPLANATIONS["nras result"] if name.startswith("nras ") else ""
