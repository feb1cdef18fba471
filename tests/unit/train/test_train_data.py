"""Records: what is read, what is refused, and that no refusal says what a record holds."""

from __future__ import annotations

import pytest
from train_rig import MemorySource, lines

from mitai.errors import TrainError
from mitai.train import data
from mitai.train.data import Message, read


def test_files_by_name_and_capsules_in_order() -> None:
    one = MemorySource({"b.jsonl": b'{"text":"3"}', "a.jsonl": b'{"text":"1"}\n\n {"text":"2"}\n', "c.txt": b"no"})
    assert [row["text"] for row in read([one, lines([{"text": "4"}])]).rows] == ["1", "2", "3", "4"]


def test_types_of_columns() -> None:
    row = {"messages": [{"role": "user", "content": "hi"}], "n": 1, "x": 1.5, "ok": True}
    records = read([lines([row])])
    assert records.rows == [{"messages": [Message("user", "hi")], "n": 1, "ok": True, "x": 1.5}]
    assert records.plain() == [row]
    assert "hi" not in repr(records)


def test_only_the_stated_columns_and_rows() -> None:
    source = lines([{"text": str(at), "name": "secret"} for at in range(9)])
    records = read([source, source], columns=("text",), rows=12)
    assert (len(records), records.columns) == (12, ("text",))
    assert "secret" not in str(records.rows)
    train, held = records.split(3)
    assert [row["text"] for row in held.rows] == ["0", "1", "2"]
    assert len(train) == 9


@pytest.mark.parametrize(
    "content",
    [
        b"[1]",
        b"{}",
        b'{"text":"a"}{"text":"b"}',
        b'{"text":null}',
        b'{"text":{"a":1}}',
        b'{"messages":[{"role":"root","content":"x"}]}',
        b'{"messages":[{"role":"user","content":"x","tool":1}]}',
        b'{"text":"a"}\n{"text":1}',
        b'{"text":"a"}\n{"text":"b","more":"c"}',
        b'{"text":"\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"n":1e999999}',
    ],
)
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(TrainError) as caught:
        read([MemorySource({"a.jsonl": content})])
    assert caught.value.code == "train.data-malformed"


def test_refusals_tell_nothing_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    for content, more in ((b'{"patient zero":"x"', {}), (b'{"patient zero":"x"}', {"columns": ("text",)})):
        with pytest.raises(TrainError) as caught:
            read([MemorySource({"a.jsonl": content})], **more)
        assert "patient" not in caught.value.diagnostics()
    monkeypatch.setattr(data, "MAX_LINE_BYTES", 20)
    with pytest.raises(TrainError):
        read([lines([{"text": "a long line of text"}])])
    monkeypatch.setattr(data, "MAX_FILE_BYTES", 10)
    with pytest.raises(TrainError) as caught:
        read([lines([{"text": "x"}])])
    assert caught.value.code == "train.data-too-large"


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainError) as caught:
        read([MemorySource({"readme.md": b"x", "a.jsonl": b"\n \n"})])
    assert caught.value.code == "train.no-rows"
    with pytest.raises(TrainError) as caught:
        read([lines([{"text": "x"}])]).split(1)
    assert caught.value.code == "train.too-few-rows"
    monkeypatch.setattr(data, "MAX_ROWS", 2)
    with pytest.raises(TrainError) as caught:
        read([lines([{"text": "x"}] * 3)])
    assert caught.value.code == "train.too-many-rows"
