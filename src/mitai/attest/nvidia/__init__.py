"""NVIDIA GPUs and NVSwitches: reports in, devices out.

`mitai.attest.nvidia.nras` has the other way, by tokens of NVIDIA's service; it is not imported here, as it needs a JWT
library.

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
]
