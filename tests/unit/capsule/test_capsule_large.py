"""Gigabytes in bounded memory, measured on a real process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SIZE = (1 << 30) + 12_345

CHILD = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    from mitai.capsule import FolderStore, open_capsule, seal, verify_objects
    from mitai.identity import Identity

    plain, dest = Path(sys.argv[1]), Path(sys.argv[2])
    status = Path("/proc/self/status")  # ru_maxrss would count the parent too
    peak_kb = lambda: int(status.read_text().split("VmHWM:")[1].split()[0])
    owner = Identity.generate()
    start = peak_kb()
    sealed = seal(plain, dest, owner=owner, name="large", workers=4)
    verify_objects(FolderStore(dest), sealed.envelope, owner.public)
    after_seal = peak_kb()
    source = open_capsule(FolderStore(dest), sealed.envelope, sealed.data_key, owner=owner.public)
    size, buffer = source.size("weights"), bytearray(32 << 20)
    with (plain / "weights").open("rb") as file:
        for position in range(0, size, len(buffer)):
            part = memoryview(buffer)[: min(len(buffer), size - position)]
            source.read_into("weights", position, part)
            assert part == file.read(len(part))
    print(json.dumps({"start": start, "seal": after_seal, "open": peak_kb()}))
    """
)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_gigabyte_in_bounded_memory(tmp_path):
    (tmp_path / "plain").mkdir()
    block = bytes(range(256)) * 4096
    with (tmp_path / "plain" / "weights").open("wb") as file:
        for position in range(0, SIZE, len(block)):
            file.write(position.to_bytes(8, "big") + block[8:])
        file.truncate(SIZE)
    result = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "plain", tmp_path / "sealed"],
        capture_output=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr.decode()
    peak = json.loads(result.stdout)
    # for each of four workers a segment of ciphertext, and one of the source that the page cache holds anyway
    assert peak["seal"] - peak["start"] < 160 << 10, peak
    assert peak["open"] - peak["start"] < 160 << 10, peak  # the buffer, and a segment per worker
