"""What an SGX enclave must look like: the section `[sgx]` of an appraisal policy."""

from __future__ import annotations

import msgspec

from mitai.attest.fields import check_hex


class SgxRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an SGX enclave must look like; empty lists pin nothing."""

    mrenclave: tuple[str, ...] = ()
    mrsigner: tuple[str, ...] = ()
    isv_prod_id: int | None = None
    min_isv_svn: int = 0
    allow_debug: bool = False

    def __post_init__(self) -> None:
        for value in (*self.mrenclave, *self.mrsigner):
            check_hex("mrenclave or mrsigner", value, 32)
