"""Several broker processes on one PostgreSQL: who leads, and that nobody else commits or answers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import msgspec
import pytest
import sqlalchemy
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from broker_rig import BROKER, Party, Rig
from mitai.attest.sim import SimPlatform
from mitai.broker import leadership, writer
from mitai.broker.leadership import Leadership
from mitai.broker.protocol import Budget
from mitai.broker.service import Broker
from mitai.broker.standby import StandBy
from mitai.broker.store import Database
from mitai.errors import BrokerError, DeniedError, RollbackError
from mitai.ledger import folder_reader, verify_log
from postgres_rig import Postgres


def eventually(true: Callable[[], object], within_s: float = 30.0) -> None:
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


# --- the lock -------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(postgres_url: str) -> Iterator[list[Leadership]]:
    made = [Leadership(postgres_url) for _ in range(3)]
    yield made
    for one in made:
        one.close()


def leaders(all_of_them: list[Leadership]) -> list[Leadership]:
    return [one for one in all_of_them if one.term() is not None]


def test_one_leads_and_another_takes_over(three: list[Leadership]) -> None:
    eventually(lambda: leaders(three))
    time.sleep(3 * leadership.RENEW_S)
    (first,) = leaders(three)
    assert first.term() == 1
    first.close()
    eventually(lambda: leaders(three))
    (second,) = leaders(three)
    assert second is not first


def test_who_gives_up_stands_back_for_another(three: list[Leadership]) -> None:
    eventually(lambda: leaders(three))
    (first,) = leaders(three)
    first.give_up()
    assert first.term() is None
    eventually(lambda: leaders(three))
    assert leaders(three) != [first]


def test_a_session_that_is_ended_ends_the_term(three: list[Leadership], postgres: Postgres) -> None:
    eventually(lambda: leaders(three))
    (first,) = leaders(three)
    postgres.run("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted")
    eventually(lambda: first.term() != 1 and len(leaders(three)) == 1)


def test_a_leader_that_falls_silent_stops_before_another_begins(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused process renews nothing: PostgreSQL frees its lock, and its own clock has ended its term by then."""
    monkeypatch.setattr(leadership, "RENEW_S", 60.0)
    silent = Leadership(postgres_url)
    eventually(lambda: silent.term())
    monkeypatch.undo()
    other = Leadership(postgres_url)
    try:
        until = time.monotonic() + 3 * leadership.LEASE_S
        while other.term() is None and time.monotonic() < until:
            assert not (silent.term() and other.term())
            time.sleep(0.005)
        assert other.term() == 1
        assert silent.term() is None
    finally:
        other.close()
        silent.close()


def test_a_lock_that_is_taken_away_ends_the_term(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a pooler that gives its clients one another's sessions."""
    one = Leadership(postgres_url)
    try:
        eventually(lambda: one.term())
        monkeypatch.setattr(leadership, "_HOLDS", sqlalchemy.text("SELECT pg_advisory_unlock_all() IS NULL"))
        eventually(lambda: one.term() is None)
    finally:
        one.close()


def test_without_a_database_nobody_leads(tmp_path: Path) -> None:
    one = Leadership(f"postgresql+psycopg://nobody@/none?host={tmp_path}")
    time.sleep(0.5)
    assert one.term() is None
    one.close()


# --- the fence ------------------------------------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path: Path, sim: SimPlatform, postgres_url: str) -> Iterator[Rig]:
    made = Rig(tmp_path, sim, state_url=postgres_url)
    yield made
    made.close()


@contextmanager
def beside(rig: Rig, leads: Callable[[], bool] = lambda: True) -> Iterator[Rig]:
    """A second broker on the same database, which believes that it leads."""
    other = object.__new__(Rig)
    other.__dict__.update(rig.__dict__, settings=replace(rig.settings, publish_folder=rig.folder / "second"))
    other.broker = Broker.open(other.settings, rig.sim.attester(BROKER), rig.policy, clock=rig.clock, leads=leads)
    try:
        yield other
    finally:
        other.broker.close()


def test_a_former_leader_commits_nothing(ready: Rig) -> None:
    sealed = ready.publish(budget=Budget(uses=1))
    size = ready.broker.size
    with beside(ready) as new:
        with pytest.raises(RollbackError) as caught:
            ready.release(sealed.capsule_id)
        assert caught.value.code == "broker.state-conflict"
        assert new.entries()[size:] == []
        new.release(sealed.capsule_id)
    assert len(ready.entries()) == size + 1


def test_a_former_leader_answers_nothing_old(ready: Rig) -> None:
    sealed = ready.publish()
    target = f"/v1/capsules/{sealed.capsule_id}"
    with beside(ready) as new:
        new.send(ready.alice.revocation(new, sealed.capsule_id))
        with pytest.raises(RollbackError):
            asyncio.run(ready.broker.capsule(sealed.capsule_id, ready.alice.query(ready, target)))


def test_a_former_leader_refuses_nothing_for_what_it_does_not_know(ready: Rig) -> None:
    """A denial that rests on an old state is no answer either."""
    sealed = ready.publish(budget=Budget(uses=1))
    ready.release(sealed.capsule_id)
    with beside(ready) as new:
        new.send(ready.alice.policy(new, sealed.capsule_id, budget=Budget(uses=2)))
        with pytest.raises(RollbackError) as caught:
            ready.release(sealed.capsule_id)
        assert caught.value.code == "broker.state-conflict"
        assert new.release(sealed.capsule_id)


def test_who_does_not_lead_decides_nothing(ready: Rig) -> None:
    sealed = ready.publish()
    leads = [True]
    with beside(ready, lambda: leads[0]) as new:
        assert new.release(sealed.capsule_id)
        leads[0] = False
        size = new.broker.size
        with pytest.raises(BrokerError) as caught:
            new.release(sealed.capsule_id)
        assert caught.value.code == "broker.standby"
        assert len(ready.entries()) == size


def test_a_lock_given_to_both_spends_no_budget_twice(ready: Rig) -> None:
    """A lying database server lets two brokers lead at once; they take the state from each other, again and again."""
    budget = 24
    sealed = ready.publish(budget=Budget(uses=budget))
    acknowledged: list[tuple[int, Rig]] = []

    async def client(rig: Rig) -> None:
        while True:
            request = rig.request(sealed.capsule_id)
            try:
                answer = await rig.broker.release(request.body)
            except DeniedError:
                return
            except (RollbackError, BrokerError):
                continue
            acknowledged.append((request.open(answer, rig.keyring)[0].ledger_index, rig))

    async def both(*rigs: Rig) -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(*(client(rig) for rig in rigs for _ in range(2)))

    with beside(ready) as other:
        asyncio.run(both(ready, other))
        releases = [index for index, entry in enumerate(ready.entries()) if entry["type"] == "release"]
    assert len(releases) == budget
    assert sorted({index for index, _ in acknowledged}) == sorted(index for index, _ in acknowledged)
    assert {index for index, _ in acknowledged} <= set(releases)


# --- a commit that breaks off ---------------------------------------------------------------------------------------


def broken_commit(monkeypatch: pytest.MonkeyPatch, *, arrives: bool) -> None:
    """The next transaction that changes the head loses its connection in COMMIT: after or before it counted."""
    writing, armed = Database.writing, [True]

    @contextmanager
    def breaking(self: Database) -> Iterator[sqlalchemy.Connection]:
        with self.engine.connect() as connection:
            transaction = connection.begin()
            yield connection
            if armed.pop() if armed else False:
                monkeypatch.setattr(Database, "writing", writing)
                (transaction.commit if arrives else transaction.rollback)()
                raise OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))
            transaction.commit()

    monkeypatch.setattr(Database, "writing", breaking)


def test_a_commit_that_arrived_is_acknowledged(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = ready.publish(budget=Budget(uses=1))
    request = ready.request(sealed.capsule_id)
    broken_commit(monkeypatch, arrives=True)
    (key,) = request.open(asyncio.run(ready.broker.release(request.body)), ready.keyring)
    assert key.data_key == sealed.data_key
    assert ready.entries()[key.ledger_index]["type"] == "release"
    with pytest.raises(DeniedError):
        ready.release(sealed.capsule_id)


def test_a_commit_that_did_not_arrive_spent_nothing(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = ready.publish(budget=Budget(uses=1))
    broken_commit(monkeypatch, arrives=False)
    with pytest.raises(BrokerError) as caught:
        ready.release(sealed.capsule_id)
    assert caught.value.code == "broker.storage"
    assert ready.release(sealed.capsule_id)


@pytest.mark.parametrize("arrives", [True, False])
def test_a_commit_of_a_leader_that_was_cut_off(ready: Rig, monkeypatch: pytest.MonkeyPatch, arrives: bool) -> None:
    """It may read whether its commit counted; that it did not, it can't know, and does not say."""
    sealed = ready.publish()
    leads = [True]
    with beside(ready, lambda: leads[0]) as cut:
        body = ready.alice.policy(cut, sealed.capsule_id)
        broken_commit(monkeypatch, arrives=arrives)
        cut.broker._writer._append, append = (
            lambda *args: (append(*args), leads.clear(), leads.append(False)),
            (cut.broker._writer._append),
        )
        if arrives:
            assert cut.send(body) == len(ready.entries()) - 1
            return
        with pytest.raises(BrokerError) as caught:
            cut.send(body)
        assert caught.value.code == "broker.outcome-unknown"


def test_a_database_that_stays_away_leaves_the_outcome_unknown(ready: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FIND_OUT_WITHIN_S", 0.2)
    body = ready.alice.policy(ready, ready.publish().capsule_id)
    broken_commit(monkeypatch, arrives=True)

    def away(_: Database) -> None:
        raise OperationalError("SELECT", {}, Exception("connection refused"))

    monkeypatch.setattr(Database, "take_over", away)
    with pytest.raises(BrokerError) as caught:
        ready.send(body)
    assert caught.value.code == "broker.outcome-unknown"
    monkeypatch.undo()
    assert ready.send(body) == ready.broker.size - 1  # the same again: it had arrived


# --- the published folder -------------------------------------------------------------------------------------------


def published(rig: Rig) -> int:
    if not (rig.settings.publish_folder / "checkpoint").exists():
        return 0
    return verify_log(folder_reader(rig.settings.publish_folder), rig.broker.vkey).checkpoint.size


def test_a_stale_folder_is_brought_forward_before_the_first_answer(ready: Rig) -> None:
    with beside(ready) as second:
        size = second.broker.size
        eventually(lambda: published(second) == size)
    ready.reopen()
    for number in range(300):
        ready.broker.submit(entry_number(number)).result()
    with beside(ready) as second:  # its folder was left behind
        assert published(second) == ready.broker.size == size + 300


def entry_number(number: int) -> writer.Job[int]:
    return writer.Job(lambda draft: draft.append(b"entry %d" % number))


def test_a_folder_that_is_ahead_of_the_database_stops_the_take_over(ready: Rig, sim: SimPlatform) -> None:
    ready.publish()
    engine = ready.broker._database.engine
    with engine.connect() as connection:
        kept = {
            table: connection.exec_driver_sql(f"SELECT * FROM {table}").all()
            for table in sqlalchemy.inspect(engine).get_table_names()
        }
        names = {table: [column["name"] for column in sqlalchemy.inspect(engine).get_columns(table)] for table in kept}
    ready.publish()
    eventually(lambda: published(ready) == ready.broker.size)
    ready.broker.close()
    restored = sqlalchemy.create_engine(ready.settings.state_url)
    with restored.begin() as connection:
        for table, rows in kept.items():
            connection.exec_driver_sql(f"DELETE FROM {table}")
            for row in rows:
                places = ", ".join(["%s"] * len(row))
                columns = ", ".join(names[table])
                connection.exec_driver_sql(f"INSERT INTO {table} ({columns}) VALUES ({places})", tuple(row))
    restored.dispose()
    with pytest.raises(RollbackError) as caught:
        ready.open()
    assert caught.value.code == "broker.rolled-back"


# --- the process ----------------------------------------------------------------------------------------------------


class FakeLeadership:
    """Leads when a test says so."""

    def __init__(self) -> None:
        self.now: int | None = None
        self.given_up = 0
        self.closed = False

    def term(self) -> int | None:
        return self.now

    def give_up(self) -> None:
        self.now, self.given_up = None, self.given_up + 1

    def close(self) -> None:
        self.closed = True


class FakeBroker:
    size = 7

    def __init__(self, leads: Callable[[], bool]) -> None:
        self.leads, self.closed = leads, False

    def close(self) -> None:
        self.closed = True


class Standing:
    """A `StandBy` and what it was given."""

    def __init__(self, fails: list[Exception] | None = None) -> None:
        self.leadership, self.brokers, self.fails, self.stopped = FakeLeadership(), [], fails or [], False
        self.app = StandBy(self.leadership, self.open, self.serving, self.stop)

    def open(self, leads: Callable[[], bool]) -> FakeBroker:
        if self.fails:
            raise self.fails.pop()
        self.brokers.append(FakeBroker(leads))
        return self.brokers[-1]

    def serving(self, broker: FakeBroker) -> AbstractAsyncContextManager[Starlette]:
        @asynccontextmanager
        async def made():
            yield Starlette(routes=[Route("/{path:path}", lambda _: PlainTextResponse("served"))])

        return made()

    def stop(self) -> None:
        self.stopped = True

    async def ask(self, path: str) -> httpx2.Response:
        transport = httpx2.ASGITransport(self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://broker") as client:
            return await client.get(path)

    @asynccontextmanager
    async def running(self):
        async with self.app._lifespan(Starlette()):
            yield

    async def until(self, true: Callable[[], object]) -> None:
        await asyncio.to_thread(eventually, true)


PATHS = ["/.well-known/mitai/evidence?nonce=" + "0" * 64, "/ohttp", "/ledger/checkpoint", "/kbs/v0/auth", "/v1/release"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_standby_answers_its_role_and_nothing_else(path: str) -> None:
    standing = Standing()
    async with standing.running():
        answer = await standing.ask(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "broker.standby")
        assert answer.headers["mitai-role"] == "standby"
        assert (await standing.ask("/healthz")).json() == {"status": "ok", "role": "standby", "code": None}
    assert standing.leadership.closed


async def test_a_term_begins_with_a_broker_and_ends_with_it() -> None:
    standing = Standing()
    async with standing.running():
        for term in (1, 2):
            standing.leadership.now = term
            await standing.until(lambda: standing.app._leading)
            assert (await standing.ask("/x")).text == "served"
            assert (await standing.ask("/healthz")).json() == {"status": "ok", "role": "leader", "ledger_size": 7}
            assert standing.brokers[-1].leads()
            standing.leadership.now = None
            assert (await standing.ask("/x")).status_code == 503  # at once, whatever the rest of the process does
            assert not standing.brokers[-1].leads()
            await standing.until(lambda: standing.brokers[-1].closed)
    assert len(standing.brokers) == 2


async def test_a_term_that_followed_at_once_is_another_one() -> None:
    standing = Standing()
    async with standing.running():
        standing.leadership.now = 1
        await standing.until(lambda: standing.app._leading)
        standing.leadership.now = 2
        assert (await standing.ask("/x")).status_code == 503
        await standing.until(lambda: len(standing.brokers) == 2 and standing.app._leading)
        assert standing.brokers[0].closed


async def test_what_keeps_it_from_leading_leaves_the_lock_to_others() -> None:
    standing = Standing([BrokerError("broker.witness-unreachable", "x"), OperationalError("", {}, Exception())])
    async with standing.running():
        for code in ("OperationalError", "broker.witness-unreachable"):
            standing.leadership.now = 1
            await standing.until(lambda: standing.leadership.now is None)
            assert (await standing.ask("/healthz")).json()["code"] == code
        standing.leadership.now = 2
        await standing.until(lambda: standing.app._leading)
    assert standing.leadership.given_up == 2
    assert not standing.stopped
    assert standing.brokers[0].closed


async def test_a_state_that_was_rolled_back_ends_the_process() -> None:
    standing = Standing([RollbackError("broker.rolled-back", "x")])
    async with standing.running():
        standing.leadership.now = 1
        await standing.until(lambda: standing.stopped)
    assert isinstance(standing.app.failure, RollbackError)
    assert standing.app.failure.code == "broker.rolled-back"


async def test_a_real_standby_takes_over_when_the_database_crashed(
    tmp_path: Path, sim: SimPlatform, postgres_url: str, postgres: Postgres
) -> None:
    rig = Rig(tmp_path, sim, state_url=postgres_url)
    rig_broker = rig.broker
    rig_broker.close()
    brokers: list[Broker] = []

    def open_broker(leads: Callable[[], bool]) -> Broker:
        brokers.append(Broker.open(rig.settings, sim.attester(BROKER), rig.policy, clock=rig.clock, leads=leads))
        return brokers[-1]

    standing = Standing()
    standing.app = StandBy(Leadership(postgres_url), open_broker, standing.serving, standing.stop)
    async with standing.running():
        await standing.until(lambda: standing.app._leading)
        rig.broker = brokers[0]
        registered = await brokers[0].command(Party().registration(rig))
        await asyncio.to_thread(postgres.crash)
        await standing.until(lambda: len(brokers) > 1 and standing.app._leading)
        rig.broker = brokers[1]
        assert brokers[1].size == 1
        assert await brokers[1].command(Party("bob").registration(rig)) != registered
    assert not standing.stopped


# --- processes that are killed and paused ---------------------------------------------------------------------------


class Child:
    """A process that leads and releases one capsule's key, and what it has said."""

    def __init__(self, folder: Path, sim: Path, url: str, capsule: str) -> None:
        tests = Path(__file__).parents[2]
        command = [sys.executable, str(Path(__file__).with_name("broker_leader_child.py"))]
        self.process = subprocess.Popen(
            [*command, str(folder), str(sim), url, capsule],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent / 'src'}"},
        )
        self.lines: list[list[str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line.split())

    def acknowledged(self) -> list[tuple[int, str]]:
        return [(int(index), digest) for index, digest in (w for w in self.lines if len(w) == 2) if index.isdecimal()]

    def refusals(self) -> set[str]:
        return {words[1] for words in list(self.lines) if words[:1] == ["refused"]}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_leader_that_is_killed_or_paused_is_replaced(tmp_path: Path, postgres_url: str, how: signal.Signals) -> None:
    """What it had acknowledged is there, what it does when it wakes up is not, and no use is counted twice."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    rig = Rig(tmp_path / "a", SimPlatform.create(tmp_path / "sim"), state_url=postgres_url)
    rig.register()
    capsule = rig.publish().capsule_id
    rig.close()
    child = Child(tmp_path / "b", tmp_path / "sim", postgres_url, capsule)
    lock = None
    try:
        eventually(lambda: len(child.acknowledged()) > 5, 30.0)
        lock = Leadership(postgres_url)
        time.sleep(0.5)
        assert lock.term() is None
        child.process.send_signal(how)
        began = time.monotonic()
        eventually(lock.term)
        assert time.monotonic() - began < (0 if how == signal.SIGKILL else leadership.LEASE_S) + 5  # on a busy machine
        rig.open()
        ours = [rig.release(capsule)[0].ledger_index for _ in range(3)]
        if how == signal.SIGSTOP:
            known = len(child.lines)
            child.process.send_signal(signal.SIGCONT)
            eventually(lambda: len(child.lines) > known + 3)
            assert child.refusals() <= {"broker.standby", "broker.state-conflict", "broker.outcome-unknown"}
            assert child.refusals()
        time.sleep(0.2)
        entries = rig.entries()
        acknowledged = child.acknowledged()
        assert all(entries[index]["release"] == digest for index, digest in acknowledged)
        assert not {index for index, _ in acknowledged} & set(ours)
        releases = [index for index, entry in enumerate(entries) if entry["type"] == "release"]
        assert max(index for index, _ in acknowledged) < ours[0] == releases[-3]
        target = f"/v1/capsules/{capsule}"
        view = msgspec.json.decode(asyncio.run(rig.broker.capsule(capsule, rig.alice.query(rig, target))))
        assert view["grants"][0]["uses"] == len(releases)
    finally:
        child.close()
        if lock is not None:
            lock.close()
        rig.close()
