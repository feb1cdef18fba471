"""NVIDIA GPUs and NVSwitches: reports in, devices out.

Example:
    >>> devices = appraise_devices(checks, evidence.devices, nonce, NvidiaRules(min_gpus=1), now=now)
    >>> devices[0].summary()
"""

from mitai.attest.nvidia.device import (
    Device,
    DeviceEvidence,
    Endorsements,
    decode_devices,
    device_nonce,
    encode_devices,
)
from mitai.attest.nvidia.nras import verify_nras
from mitai.attest.nvidia.roots import NVIDIA, Roots
from mitai.attest.nvidia.rules import NvidiaRules
from mitai.attest.nvidia.verify import appraise_devices, appraise_entries, rim_names

__all__ = [
    "NVIDIA",
    "Device",
    "DeviceEvidence",
    "Endorsements",
    "NvidiaRules",
    "Roots",
    "appraise_devices",
    "appraise_entries",
    "decode_devices",
    "device_nonce",
    "encode_devices",
    "rim_names",
    "verify_nras",
]
