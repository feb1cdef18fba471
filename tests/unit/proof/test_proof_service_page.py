"""The page of a service: what it offers, which templates it can follow, and headers."""

from __future__ import annotations

import hashlib
import json

import pytest

from mitai.errors import MitaiError
from mitai.proof.service.page import PageOffer, Template
from mitai.web.page import installed_page
from proof_service_rig import KEY, NAME, TOKENIZER, running, tiny

TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
CHATML = f"{{% for m in messages %}}{TURN}{{% endfor %}}<|im_start|>assistant\n"
SYSTEM = "<|im_start|>system\nBe kind.<|im_end|>\n"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def here(tmp_path_factory, prepared):
    with running(tmp_path_factory.mktemp("service"), prepared) as service:
        yield service


def templated(folder, prepared, template):
    folder.mkdir(exist_ok=True)
    for name in TOKENIZER:
        (folder / name).write_bytes((prepared / name).read_bytes())
    settings = json.loads((folder / TOKENIZER[1]).read_text())
    (folder / TOKENIZER[1]).write_text(json.dumps(settings | {"chat_template": template}))
    return PageOffer.of(folder, NAME, "ab" * 32, KEY.key_id, unaudited=False).template


def test_service_and_client_write_the_same_offer(here):
    page = here.http.get("/mitai.json").json()
    offer = PageOffer.of(here.folder / "client", NAME, here.identity, KEY.key_id, unaudited=False)
    assert page == {"v": 1, "gateway": "", "policy": "", "releases": [], "proof": offer.text()}
    digest = hashlib.sha256(offer.text().encode()).hexdigest()
    assert offer.fragment == f"proof={digest}"
    tokenizer = here.http.get("/v1/tokenizer")
    assert hashlib.sha256(tokenizer.content).hexdigest() == offer.tokenizer
    assert offer.template == Template(
        head="<|im_start|>user\n",
        user="<|im_end|>\n<|im_start|>assistant\n",
        assistant="<|im_end|>\n<|im_start|>user\n",
        tail="<|im_end|>\n<|im_start|>assistant\n",
    )


def test_only_the_pages_files_are_documents(here):
    page = here.http.get("/")
    own = page.headers["content-security-policy"]
    assert (page.status_code, page.content) == (200, installed_page().files["index.html"])
    assert "script-src 'self'" in own
    assert "frame-ancestors 'none'" in own
    assert "access-control-allow-origin" not in page.headers
    for path in ("/v1/models", "/v1/tokenizer", "/healthz", "/v1/receipts/none", "/nothing"):
        answer = here.http.get(path)
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox", path
        assert answer.headers["x-content-type-options"] == "nosniff", path
    assert here.http.post("/").status_code in {404, 405}


@pytest.mark.parametrize(
    ("template", "head"),
    [
        (CHATML, "<|im_start|>user\n"),
        (SYSTEM + CHATML, SYSTEM + "<|im_start|>user\n"),
        ("{% if true %}" + CHATML.replace("m.content", "m.content | trim") + "{% endif %}", "<|im_start|>user\n"),
    ],
)
def test_templates_that_write_a_fixed_text_can_be_followed(tmp_path, prepared, template, head):
    assert templated(tmp_path, prepared, template).head == head


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("m.content", "m.content | upper"),
        CHATML.replace("m.content", "m.content | replace('you', 'I')"),
        CHATML.replace("{% for", "{{ messages | length }}{% for"),
        CHATML.replace("messages %}", "messages[-1:] %}"),
        CHATML.replace("{% for", "{{ strftime_now('%Y') }}{% for"),
        "{{ raise_exception('no') }}",
        f"<|im_start|>system\n{'Be kind. ' * 8000}<|im_end|>\n{CHATML}",
    ],
)
def test_others_have_no_page(tmp_path, prepared, template):
    with pytest.raises(MitaiError):
        templated(tmp_path, prepared, template)
