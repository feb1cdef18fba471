"""A log in a folder behind Python's static web server: any server will do, and nobody needs our code to read it."""

import base64
import hashlib
import threading
import urllib.error
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mitai.identity import Identity
from mitai.ledger import FolderStore, Log, TileReader, leaf_hash, verify_checkpoint, verify_inclusion, verify_log

SIZE = 66_000


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The address of a published log, and the log."""
    folder = tmp_path_factory.mktemp("log")
    with FolderStore(folder) as store:
        log = Log(store, Identity.from_seed(b"l" * 32), "log.example")
        for start in range(0, SIZE, 22_000):
            log.append([b"entry %d" % index for index in range(start, start + 22_000)])
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}", log
            server.shutdown()
            thread.join()


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        return None


def test_a_whole_log_is_checked_over_http(published):
    url, log = published
    report = verify_log(lambda path: get(f"{url}/{path}"), log.vkey)
    assert report.checkpoint.size == SIZE


def test_an_entry_is_proven_over_http(published):
    url, log = published
    asked = []

    def fetch(path):
        asked.append(path)
        return get(f"{url}/{path}")

    checkpoint = verify_checkpoint(fetch("checkpoint"), log.vkey)
    reader = TileReader(fetch, checkpoint)
    verify_inclusion(leaf_hash(reader.entry(12_345)), 12_345, SIZE, reader.inclusion_proof(12_345), checkpoint.root)
    assert len(asked) <= 7  # the checkpoint, three tiles at the edge, two on the way, one bundle


def test_the_layout_is_that_of_the_specification(published):
    """Read with urllib, hashlib and Ed25519 alone, by the text of C2SP tlog-tiles and signed-note."""
    url, log = published
    text, _, signatures = get(f"{url}/checkpoint").decode().rpartition("\n\n")
    origin, size, root = text.split("\n")
    dash, name, signature = signatures.strip().split(" ")
    vkey_name, key_id, key = log.vkey.split("+", 2)
    raw = base64.b64decode(signature)
    assert (dash, name, vkey_name, raw[:4].hex()) == ("—", origin, origin, key_id)
    Ed25519PublicKey.from_public_bytes(base64.b64decode(key)[1:]).verify(raw[4:], f"{text}\n".encode())
    assert (origin, int(size)) == ("log.example", SIZE)

    leaves = b"".join(get(f"{url}/tile/0/{index:03}") for index in range(SIZE // 256))
    leaves += get(f"{url}/tile/0/{SIZE // 256:03}.p/{SIZE % 256}")
    bundle = get(f"{url}/tile/entries/000")
    assert bundle.startswith(b"\x00\x07entry 0\x00\x07entry 1")
    assert leaves[:32] == hashlib.sha256(b"\x00entry 0").digest()
    level = [leaves[at : at + 32] for at in range(0, len(leaves), 32)]
    assert len(level) == SIZE
    while len(level) > 1:  # a lone node at the end is carried upwards: the same tree as RFC 6962's
        pairs = [hashlib.sha256(b"\x01" + b"".join(level[at : at + 2])).digest() for at in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    assert level[0] == base64.b64decode(root)
