"""A local server that plays the vendors' collateral services, faithfully or badly."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

from cryptography.x509 import ocsp

import attest_csv_lab
from attest_lab import Lab
from attest_nvidia_lab import Chip, NvidiaLab, ocsp_response, responder_of
from attest_snp_lab import amd
from mitai.attest.collateral import Services


@dataclass
class Answer:
    """What the server says to one question."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    pause: float = 0.0  # before each tenth of the body
    cut: bool = False  # end in the middle


Play = Callable[[str, bytes], Answer]


class Vendors:
    """All services, from the authorities of the labs."""

    def __init__(self, intel: Lab) -> None:
        self.intel = intel
        self.collateral = {tee: intel.platform.collateral(tee) for tee in ("tdx", "sgx")}
        self.nvidia = NvidiaLab()
        self.chips: list[Chip] = [self.nvidia.chip()]
        self.asked: list[str] = []
        self.broken: Play | None = None  # asked first; what it says (if anything) is sent

    def answer(self, path: str, body: bytes) -> Answer:
        self.asked.append(path)
        if self.broken is not None:
            told = self.broken(path, body)
            if told is not None:
                return told
        place = path.partition("?")[0]
        for prefix, play in (
            ("/sgx/certification/v4/pckcrl", self._pck_crl),
            ("/sgx/certification/v4/rootcacrl", lambda _: Answer(self.collateral["tdx"].root_ca_crl.hex().encode())),
            ("/tdx/certification/v4/", lambda rest: self._signed("tdx", rest)),
            ("/sgx/certification/v4/", lambda rest: self._signed("sgx", rest)),
            ("/vcek/v1/Genoa/", self._vcek),
            ("/vlek/v1/Genoa/crl", lambda _: Answer(amd().crl())),
            ("/v1/rim/", self._rim),
            ("/hsk_cek", lambda _: Answer(attest_csv_lab.endorsement())),
        ):
            if place.startswith(prefix):
                return play(place.removeprefix(prefix))
        return self._ocsp(body) if place == "/ocsp" else Answer(status=404)

    def _signed(self, tee: str, what: str) -> Answer:
        collateral = self.collateral[tee]
        name, member, header = {
            "tcb": ("tcb_info", "tcbInfo", "TCB-Info-Issuer-Chain"),
            "qe/identity": ("qe_identity", "enclaveIdentity", "SGX-Enclave-Identity-Issuer-Chain"),
        }[what]
        text, signature = getattr(collateral, name), getattr(collateral, f"{name}_signature")
        body = f'{{"{member}":{text},"signature":"{signature.hex()}"}}'.encode()
        return Answer(body, {header: quote(getattr(collateral, f"{name}_issuer_chain"))})

    def _pck_crl(self, _: str) -> Answer:
        collateral = self.collateral["tdx"]
        return Answer(collateral.pck_crl, {"SGX-PCK-CRL-Issuer-Chain": quote(collateral.pck_crl_issuer_chain)})

    def _vcek(self, rest: str) -> Answer:
        return Answer(amd().crl() if rest == "crl" else amd().vek())

    def _rim(self, name: str) -> Answer:
        driver, vbios, bios = self.nvidia.rims()
        kinds = {"NV_GPU_VBIOS": vbios, "NV_SWITCH_BIOS": bios}
        content = next((rim for prefix, rim in kinds.items() if name.startswith(prefix)), driver)
        return Answer(json.dumps({"id": name, "rim": base64.b64encode(content).decode()}).encode())

    def _ocsp(self, body: bytes) -> Answer:
        serial = ocsp.load_der_ocsp_request(body).serial_number
        for party in self.nvidia.asked(*self.chips):
            if party.certificate.serial_number == serial:
                return Answer(ocsp_response(party, responder=responder_of(party.issuer)))
        return Answer(status=404)


@contextmanager
def serving(vendors: Vendors):
    """Run the server; give the `Services` that lead to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._play(b"")

        def do_POST(self) -> None:
            self._play(self.rfile.read(int(self.headers.get("content-length", 0))))

        def _play(self, body: bytes) -> None:
            told = vendors.answer(self.path, body)
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(told.body)))
            self.end_headers()
            sent = told.body[: len(told.body) // 2] if told.cut else told.body
            step = max(1, len(sent) // 10) if told.pause else max(1, len(sent))
            try:
                for at in range(0, len(sent), step):
                    time.sleep(told.pause)
                    self.wfile.write(sent[at : at + step])
            except OSError:  # the client has had enough
                pass

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{server.server_port}"
    try:
        yield Services(base, f"{base}/sgx/certification/v4/rootcacrl", base, base, f"{base}/ocsp", base)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
