"""A model cut into shares, folders of all sides, and three processes that generate with it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import transformers

from mitai import demo_model
from mitai.attest import Policy
from mitai.attest.sim import SimPlatform
from mitai.cli import mpc
from mitai.cli.commands import app
from mitai.errors import MitaiError
from mitai.fleet.processes import free_port
from mitai.identity import Identity
from mitai.mpc import setup
from mitai.mpc.kept import Kept
from mitai.mpc.models.arrays import Arrays, Tensors
from mitai.mpc.sampling import Sampling
from mitai.mpc.settings import SETTINGS
from mitai.mpc.setup import PartyConfig, Side, configure_here, key_of
from mitai.mpc.sharing import CLIENT, SIDES, ShareFolder, fitting, generation, split_model
from mitai.mpc.tasks import Question, Walk
from mitai.mpc.text import Text
from mitai.mpc.two.engine import Party
from mpc_rig import Parties, Told


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A tiny GPT-2 as transformers saves it, and a tokenizer."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(19)  # whose answer is clear: 1.9 between the best logits
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=2560, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6)  # so that answers are not all one token
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((demo_model.path() / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


@pytest.fixture
def setting():
    return SETTINGS["2+1"]


@pytest.fixture
def cut(gpt2, tmp_path, setting):
    split_model(gpt2, tmp_path / "cut", setting.name)
    return tmp_path / "cut"


every_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)


def refused(code, work):
    with pytest.raises(MitaiError) as caught:
        work()
    assert caught.value.code == code


def offered(folder, prompt_tokens=(8,), new_tokens=(4,), kinds=("greedy",)):
    return generation(folder, prompt_tokens, new_tokens, kinds)


def test_both_shares_together_are_the_model(gpt2, cut):
    folders = [ShareFolder.open(cut / role) for role in SIDES[:2]]
    offer = offered(folders[0])
    walk = Walk()
    model = offer.tasks[0].model
    arrays = model.arrays(Tensors(gpt2))
    expected = walk.inputs(lambda engine: model.load(Arrays(engine, "model", arrays)))["model"]
    first, second = (list(folder.shares(offer)) for folder in folders)
    assert len(first) == len(second) == len(expected) > 10
    for one, other, whole in zip(first, second, expected, strict=True):
        assert (one + other == whole).all()


@every_setting
def test_what_parties_have_is_what_owners_give(gpt2, cut, setting):
    """As for a client's arrays: each party's share, and all of them together the model."""
    folders = {role: ShareFolder.open(cut / role) for role in (*setting.roles, CLIENT)}
    offer = offered(folders[CLIENT])
    assert offer.setting is setting
    model = offer.tasks[0].model
    expected = Walk().inputs(lambda engine: model.load(Arrays(engine, "model", model.arrays(Tensors(gpt2)))))["model"]
    parts = [list(folders[role].parts(offer)) for role in setting.parties]
    for arrays, whole in zip(zip(*parts, strict=True), expected, strict=True):
        assert {len(pieces) for pieces in arrays} == {setting.pieces}
        assert (setting.join([pieces[0] for pieces in arrays]) == whole).all()
        if setting.name == "3pc":
            for pieces, following in itertools.pairwise([*arrays, arrays[0]]):
                assert (pieces[1] == following[0]).all()
    for role in (*setting.dealers, CLIENT):
        assert not list((cut / role).glob("share.[bk]*"))


@every_setting
def test_a_setting_is_said_by_who_trusts_it(cut, setting):
    configure_here(cut, range(7801, 7801 + len(setting.listeners)), prompt_tokens=8, new_tokens=4)
    sides = {role: Side.open(cut / role) for role in (*setting.roles, CLIENT)}
    for role, side in sides.items():
        assert set(side.peers) == set(setting.roles) - {role}
        assert (side.own().listen is not None) == (role in setting.listeners)
    refused("mpc.config", lambda: sides[CLIENT].serve(print))
    path = cut / "p0" / setup.FILE
    text = path.read_text()
    others = [name for name in SETTINGS if name != setting.name]
    path.write_text(text.replace(f'setting = "{setting.name}"', f'setting = "{others[0]}"'))
    refused("mpc.config", lambda: Side.open(cut / "p0"))
    path.write_text(text.replace("[peers.p1]", "[peers.p3]"))
    refused("mpc.config", lambda: Side.open(cut / "p0"))


def test_a_folder_of_a_side_that_its_setting_does_not_have_is_refused(cut):
    file = cut / "p1" / "share.json"
    file.write_text(file.read_text().replace('"p1"', '"p2"'))
    refused("mpc.shares-malformed", lambda: ShareFolder.open(cut / "p1"))


def test_how_far_a_cut_is_is_told(gpt2, tmp_path):
    told = []
    split_model(gpt2, tmp_path / "cut", progress=lambda *numbers: told.append(numbers))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert {total for _, total in told} == {told[-1][0], (tmp_path / "cut" / "p1" / "share.bin").stat().st_size}


def test_a_partys_folder_says_nothing_of_the_model(gpt2, cut):
    assert sorted(path.name for path in (cut / "p0").iterdir()) == ["config.json", "share.json", "share.key"]
    data = np.frombuffer((cut / "p1" / "share.bin").read_bytes(), np.uint8)
    counts = np.bincount(data, minlength=256)
    deviation = (counts - data.size / 256) / (data.size / 256) ** 0.5
    assert np.abs(deviation).max() < 8  # standard deviations: uniform bytes
    for name in ("share.key", "share.bin"):
        (path,) = cut.glob(f"*/{name}")
        assert path.stat().st_mode & 0o77 == 0


def test_every_cut_is_another(gpt2, tmp_path):
    keys = set()
    for number in range(2):
        split_model(gpt2, tmp_path / str(number))
        keys.add((tmp_path / str(number) / "p0" / "share.key").read_bytes())
        keys.add(ShareFolder.open(tmp_path / str(number) / "p0").id)
    assert len(keys) == 4


def test_what_can_not_be_cut(gpt2, tmp_path, cut):
    refused("mpc.out-exists", lambda: split_model(gpt2, cut))
    refused("mpc.model-mismatch", lambda: split_model(tmp_path, tmp_path / "out"))
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}')
    refused("mpc.model-unsupported", lambda: split_model(tmp_path / "t5", tmp_path / "out"))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_bytes((gpt2 / "config.json").read_bytes())
    refused("mpc.model-mismatch", lambda: split_model(tmp_path / "half", tmp_path / "out"))  # it has no tensors
    assert not (tmp_path / "out").exists()


def test_a_model_is_cut_for_what_it_was_trained_for(gpt2, tmp_path):
    app_result("split", gpt2, tmp_path / "exact", "--approx", "exact")
    refused("mpc.approximation", lambda: app_result("split", gpt2, tmp_path / "out", "--approx", "mpcformer"))
    distilled = tmp_path / "distilled"
    shutil.copytree(gpt2, distilled)
    config = json.loads((gpt2 / "config.json").read_text()) | {"mpc_approx": "mpcformer"}
    (distilled / "config.json").write_text(json.dumps(config))
    app_result("split", distilled, tmp_path / "approximated", "--approx", "mpcformer")
    assert offered(ShareFolder.open(tmp_path / "approximated" / "p0")).approximation == "mpcformer"
    refused("mpc.approximation", lambda: app_result("split", distilled, tmp_path / "out", "--approx", "exact"))
    assert not (tmp_path / "out").exists()


def test_shares_of_another_size_are_refused(cut):
    folder = ShareFolder.open(cut / "p1")
    with (cut / "p1" / "share.bin").open("ab") as file:
        file.write(b"x")
    refused("mpc.shares-malformed", lambda: list(folder.shares(offered(folder))))
    (cut / "p0" / "share.key").write_bytes(b"short")
    folder = ShareFolder.open(cut / "p0")
    refused("mpc.shares-malformed", lambda: list(folder.shares(offered(folder))))


def test_answers_longer_than_the_model_are_not_offered(cut):
    folder = ShareFolder.open(cut / "p0")
    refused("mpc.model-unsupported", lambda: offered(folder, (60,), (6,)))
    names = [task.name for task in offered(folder, (60, 8), (6, 4)).tasks]
    assert names == ["generate 60 4 greedy", "generate 8 6 greedy", "generate 8 4 greedy"]


def test_the_shortest_that_fits_is_asked_for(cut):
    offer = offered(ShareFolder.open(cut / "p0"), (8, 32, 16), (4, 8), ("greedy", "nucleus"))

    def name(length, tokens, kind="greedy"):
        return fitting(offer, length, tokens, kind).name

    assert name(8, 4) == "generate 8 4 greedy"
    assert name(9, None) == "generate 16 4 greedy"
    assert name(1, 5, "nucleus") == "generate 8 8 nucleus"
    assert name(32, 8) == "generate 32 8 greedy"
    refused("mpc.prompt-too-long", lambda: name(33, 4))
    refused("mpc.not-offered", lambda: name(8, 9))
    refused("mpc.not-offered", lambda: name(8, 4, "sampled"))


@pytest.mark.parametrize("kind", ["greedy", "sampled", "nucleus"])
def test_a_plan_is_the_same_for_all_values_of_its_kind(cut, kind):
    """Else parties would need to know temperature and top_p before they make tapes."""
    offer = offered(ShareFolder.open(cut / "p0"), (2,), (2,), (kind,))
    loaded = Party(0, None).plan(offer.load)[1]
    values = {
        "greedy": [Sampling()],
        "sampled": [Sampling(t) for t in (0.05, 0.7, 1.0, 2.0, 20.0)],
        "nucleus": [Sampling(t, p) for t in (0.05, 1.0, 20.0) for p in (1e-9, 0.3, 0.5, 1 - 1e-9)],
    }[kind]
    plans = [
        Party(0, None).plan(Question(offer.tasks[0], sampling).program(loaded, lambda _: None))[0]
        for sampling in [*values, Sampling.of(kind)]
    ]
    assert len({plan.digest for plan in plans}) == 1
    assert len(plans[0].draws) > 100


@pytest.mark.parametrize(
    "text", ["", "{}", '{"v":"mitai mpc shares v2","role":"p0","id":"' + "0" * 32 + '"}', "[]", "\ufeff{}"]
)
def test_what_is_no_share_file(cut, text):
    (cut / "p0" / "share.json").write_text(text)
    refused("mpc.shares-malformed", lambda: ShareFolder.open(cut / "p0"))


def test_what_is_no_folder(tmp_path):
    refused("mpc.shares-missing", lambda: ShareFolder.open(tmp_path))
    refused("mpc.shares-missing", lambda: ShareFolder.open(tmp_path / "nowhere"))


# -- configuration -------------------------------------------------------------------------------------------


def test_configurations_for_one_machine(cut):
    configure_here(cut, (7801, 7802), prompt_tokens=8, new_tokens=4)
    sides = {role: Side.open(cut / role) for role in SIDES}
    for role, side in sides.items():
        own = side.own()
        assert (own.role, side.offer.tasks[0].name) == (role, "generate 8 4 greedy")
        assert (own.listen is not None) == (role in {"p0", "p1"})
        for name, peer in side.peers.items():
            assert peer.key_id == sides[name].identity.key_id
    assert sides["p0"].own().clients == (sides["client"].identity.key_id,)
    assert len({tuple(task.name for task in side.offer.tasks) for side in sides.values()}) == 1


def test_a_side_that_proves_its_machine_and_demands_it_of_another(cut, tmp_path):
    sim = SimPlatform.create(tmp_path / "sim")
    configure_here(cut, (7801, 7802), prompt_tokens=8, new_tokens=4)
    file = cut / "p0" / setup.FILE
    text = file.read_text().replace("[peers.dealer]", '[peers.dealer]\npolicy = "dealer.toml"')
    file.write_text(f'attest = true\nsim = "{tmp_path / "sim"}"\n{text}')
    (cut / "p0" / "dealer.toml").write_text(
        Policy(allow_simulation=True, sim_roots=(sim.sim_root,), workloads=()).to_toml()
    )
    credentials = Side.open(cut / "p0").credentials()
    assert credentials._attester is not None
    assert list(credentials._policies) == [Side.open(cut / "dealer").identity.key_id]
    (cut / "p0" / "dealer.toml").write_text("nonsense = 1")
    with pytest.raises(MitaiError):
        Side.open(cut / "p0").credentials()


def test_a_key_is_made_once_and_in_a_sides_folder(cut, tmp_path):
    assert key_of(cut / "p0").key_id == key_of(cut / "p0").key_id
    refused("mpc.shares-missing", lambda: key_of(tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "unknown = 1",
        "prompt_tokens = 0",
        "prompt_tokens = []",
        "prompt_tokens = [8, 5000]",
        "new_tokens = [0]",
        'sampling = ["lottery"]',
        "ahead_others = -1",
        'clients = ["alice"]',
        '[peers.p0]\nkey = "00"',
        "[peers.p0]\naddress = ''",
    ],
)
def test_what_is_no_configuration(text):
    refused("mpc.config", lambda: PartyConfig.parse(text))


@pytest.mark.parametrize("side", ["client", "dealer"])
def test_two_sides_have_two_keys(cut, side):
    """A client would send both halves of its question to one process."""
    configure_here(cut, (7801, 7802), prompt_tokens=8, new_tokens=4)
    path = cut / side / setup.FILE
    keys = [Side.open(cut / role).identity.key_id for role in ("p0", "p1")]
    path.write_text(path.read_text().replace(keys[1], keys[0]))
    refused("mpc.config", lambda: Side.open(cut / side))


def test_lists_of_lengths_and_kinds(cut):
    configure_here(
        cut, (7801, 7802), prompt_tokens=[8, 16, 8], new_tokens=4, sampling=["sampled"], ahead_others=1, tapes_gib=2
    )
    side = Side.open(cut / "p1")
    assert [task.name for task in side.offer.tasks] == ["generate 8 4 sampled", "generate 16 4 sampled"]
    assert (side.own().ahead, side.own().ahead_others, side.own().tapes_bytes) == (2, 1, 2 << 30)


def test_a_side_needs_its_peers_and_its_file(cut):
    key_of(cut / "p0")
    refused("mpc.config", lambda: Side.open(cut / "p0"))
    (cut / "p0" / setup.FILE).write_text("prompt_tokens = 8")
    refused("mpc.config", lambda: Side.open(cut / "p0"))
    (cut / "p0" / setup.FILE).write_bytes(b"\xff")
    refused("mpc.config", lambda: Side.open(cut / "p0"))


def test_words_and_tokens(cut, tmp_path):
    text = Text.load(cut / "client")
    assert text.words(text.tokens("remote attestation", plain=False)) == "remote attestation"
    refused("mpc.no-tokenizer", lambda: Text.load(tmp_path / "nowhere"))
    chat = Text.load(demo_model.path())
    assert len(chat.tokens("Hello", plain=False)) > len(chat.tokens("Hello", plain=True))
    assert chat.ends(2)


# -- three processes -----------------------------------------------------------------------------------------


class Processes:
    """`mitai mpc party` for each side."""

    def __init__(self, cut, roles):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.logs = {role: cut / f"{role}.log" for role in roles}
        self.running = {}
        for role, log in self.logs.items():
            with log.open("wb") as file:
                command = [sys.executable, "-m", "mitai.cli", "mpc", "party", str(cut / role)]
                self.running[role] = subprocess.Popen(command, stderr=file, stdout=file, env=environment)

    def wait_for(self, role, words):
        until = time.monotonic() + 200
        while words not in (text := self.logs[role].read_text()):
            assert time.monotonic() < until, text
            time.sleep(0.05)

    def kill(self):
        for process in self.running.values():
            process.kill()
            process.wait()


@pytest.fixture
def processes(cut, setting):
    configure_here(cut, [free_port() for _ in setting.listeners], prompt_tokens=8, new_tokens=4)
    three = Processes(cut, setting.roles)
    yield three
    three.kill()


def app_result(*words):
    return app(["mpc", *map(str, words)], exit_on_error=False, print_error=False, result_action="return_value")


@pytest.mark.slow
@every_setting
def test_processes_generate_as_transformers_does(gpt2, cut, processes, setting, capsys):
    capsys.readouterr()
    ids = Text.load(cut / "client").tokens("What is", plain=True)
    model = transformers.GPT2LMHeadModel.from_pretrained(gpt2)
    with torch.no_grad():
        expected = model.generate(
            torch.tensor([ids]), max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None
        )
    for role in setting.parties:
        processes.wait_for(role, "the model is loaded")
    for _ in range(2):
        app_result("ask", cut / "client", "What is", "--plain", "--json", "--receipts", cut / "kept")
        answer = json.loads(capsys.readouterr().out)
        assert sorted(answer["receipts"]) == sorted(setting.parties)
        known = {role: peer.key_id for role, peer in Side.open(cut / "client").peers.items()}
        assert Kept.decode((cut / "kept").read_bytes()).check(known)["p0"].task == "generate 8 4 greedy"
        assert answer["tokens"] == expected[0, len(ids) :].tolist()
    processes.wait_for("p0", "run 1 of generate 8 4 greedy took")
    refused("mpc.prompt-too-long", lambda: app_result("ask", cut / "client", "What is it? " * 9, "--plain"))
    Identity.generate().save(cut / "client" / "other.pem")
    (cut / "client" / "other.pem").rename(cut / "client" / "identity.pem")
    with pytest.raises(MitaiError) as caught:  # a stranger
        app_result("ask", cut / "client", "What is", "--plain")
    assert caught.value.code in {"mpc.peer-refused", "mpc.link-lost"}
    processes.running["p1"].send_signal(signal.SIGKILL)
    for role in set(setting.roles) - {"p1"}:
        assert processes.running[role].wait(100) == 1
        processes.wait_for(role, "mpc.link-lost")
    for role in setting.roles:
        assert "What is" not in processes.logs[role].read_text()


@every_setting
def test_the_command_that_cuts(gpt2, tmp_path, setting, capsys):
    lengths = ("--prompt-tokens", 8, "--new-tokens", 4)
    app_result("split", gpt2, tmp_path / "out", "--setting", setting.name, "--local", "--json", *lengths)
    made = json.loads(capsys.readouterr().out)
    assert list(made) == [*setting.roles, CLIENT]
    assert {Side.open(tmp_path / "out" / role).folder.setting for role in made} == {setting}
    app_result("key", made["p0"], "--json")
    assert json.loads(capsys.readouterr().out)["key"] == Side.open(tmp_path / "out" / "p0").identity.key_id


def test_prompts_that_a_model_has_no_tokens_for(cut):
    (task,) = offered(ShareFolder.open(cut / "client")).tasks
    refused("mpc.prompt-empty", lambda: task.values([[]]))
    refused("mpc.no-tokenizer", lambda: task.values([[1, 2560]]))  # which would be a position


def test_several_prompts_in_one_run(gpt2, cut, monkeypatch, capsys):
    """Of which a client may have fewer than a run takes."""
    configure_here(cut, (7801, 7802), prompt_tokens=8, new_tokens=4, batch=3)
    side = Side.open(cut / "client")
    assert side.offer.tasks[0].name == "generate 8 4 greedy 3"
    monkeypatch.setattr("mitai.mpc.clients.ask", Parties(cut, side.offer).ask)
    monkeypatch.setattr("mitai.cli.mpc.forbid_core_dumps", lambda: None)
    questions = "What is", "remote attestation"
    mpc.ask(cut / "client", *questions, plain=True, json=True)
    answers = json.loads(capsys.readouterr().out)["answers"]
    text, model = Text.load(cut / "client"), transformers.GPT2LMHeadModel.from_pretrained(gpt2)
    for question, answer in zip(questions, answers, strict=True):
        ids = torch.tensor([text.tokens(question, plain=True)])
        with torch.no_grad():
            made = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None)
        assert answer["tokens"] == made[0, ids.shape[1] :].tolist()
        assert answer["answer"] == text.words(answer["tokens"])
    mpc.ask(cut / "client", *questions, plain=True)
    shown = capsys.readouterr().out
    assert all(answer["answer"] in shown for answer in answers)
    refused("mpc.not-offered", lambda: mpc.ask(cut / "client", "a", "b", "c", "d"))


def test_a_client_stays_to_the_end_of_an_answer(cut, monkeypatch, capsys):
    """When it leaves is seen by the parties, and must not tell how long the answer is."""

    class Words:
        def tokens(self, prompt, *, plain):
            return [1]

        def ends(self, token):
            return token == 0

        def words(self, tokens):
            return "a" * len(tokens)

    taken = []

    def answers():
        for token in (5, 0, 7, 7):
            taken.append(token)
            yield np.array([float(token)])

    configure_here(cut, (7801, 7802), prompt_tokens=8, new_tokens=4)
    monkeypatch.setattr(Text, "load", lambda _: Words())
    monkeypatch.setattr("mitai.mpc.clients.ask", lambda *_, **__: Told(answers()))
    monkeypatch.setattr("mitai.cli.mpc.forbid_core_dumps", lambda: None)
    mpc.ask(cut / "client", "x", json=True)
    assert taken == [5, 0, 7, 7]
    said = capsys.readouterr()
    assert json.loads(said.out) == {"answer": "a", "tokens": [5, 0], "receipts": {}}
    assert said.err.count("goes on to its end") == 1
    monkeypatch.setattr("mitai.mpc.clients.ask", lambda *_, **__: Told([np.array([1e6])]))
    refused("mpc.answer-malformed", lambda: mpc.ask(cut / "client", "x", json=True))
    refused("mpc.not-offered", lambda: mpc.ask(cut / "client", "x", "y"))  # parties here take one at a time
    refused("mpc.not-offered", lambda: mpc.ask(cut / "client", "x", second="y"))
