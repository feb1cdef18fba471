"""`mitai doctor` on machines that are not here: folders that look like them."""

from __future__ import annotations

from mitai.cli.doctor import examine


def verdicts(root):
    return {finding.what: finding.verdict for finding in examine(root)}


def test_a_bare_machine_is_not_confidential(tmp_path):
    found = verdicts(tmp_path)
    assert found["Confidential"] == "no"
    assert found["NVIDIA GPU"] == "no"
    assert found["AES instructions"] == "no"


def test_a_tdx_guest_with_a_gpu(tmp_path):
    for path in ("dev/tdx_guest", "sys/kernel/config/tsm/report/x", "proc/driver/nvidia/gpus/0/information"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("Model: NVIDIA H100\nIRQ: 5\n")
    (tmp_path / "proc/cpuinfo").write_text(
        "model name : Xeon\nflags : aes avx2 avx512f amx_int8 amx_bf16\n\nnonsense\n"
    )
    found = verdicts(tmp_path)
    assert found["Intel TDX guest"] == found["Confidential"] == found["AMX"] == "yes"
    details = {finding.what: finding.detail for finding in examine(tmp_path)}
    assert "H100" in details["NVIDIA GPU"]
    assert details["Processor"] == "Xeon"
