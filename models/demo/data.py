"""The data recipe of the demo model: topics in, conversations out.

`topics.toml` holds what the model knows, `offtopic.toml` what it must decline, `phrases.toml` the words around both.
This module turns them into an endless, seeded stream of chat conversations: paraphrases, frames ("What is …?"), typos,
casing, punctuation, polite prefixes, follow-ups, and changes of subject and language.

Invariants:

- The stream depends on the seed alone.
- No question of `held_out()` is ever in the stream, also not with other casing or punctuation.
- An answer is one of `answers()`, letter by letter; nothing is generated.

Example:
    >>> stream = conversations(random.Random(1))
    >>> next(stream)[-1]["role"]
    'assistant'
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
Lang = Literal["en", "zh"]
LANGS: tuple[Lang, Lang] = ("en", "zh")
OTHER: dict[Lang, Lang] = {"en": "zh", "zh": "en"}
Message = dict[str, str]

END_MARKS = "?.!。\uff1f\uff01"
NEW_END_MARKS: dict[Lang, tuple[str, ...]] = {"en": ("", "", "?", ".", "!"), "zh": ("", "?", "\uff1f", "。", "\uff01")}
HALF_WIDTH = str.maketrans("\uff0c\uff1f\uff01\uff1a", ",?!:")
SCRIPT_BORDER = re.compile(r"(?<=[\u4e00-\u9fff])(?=[A-Za-z])|(?<=[A-Za-z])(?=[\u4e00-\u9fff])")


@dataclass(frozen=True)
class Topic:
    """One topic in one language."""

    id: str
    lang: Lang
    terms: tuple[str, ...]
    ask: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str
    more: str | None


@dataclass(frozen=True)
class OffTopic:
    """What to decline, in one language."""

    frames: tuple[str, ...]
    things: tuple[str, ...]
    held_out_things: tuple[str, ...]
    ask: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Phrases:
    """The words around the topics, in one language; `phrases.toml` explains each."""

    frames: tuple[str, ...]
    held_out_frames: tuple[str, ...]
    again_frames: tuple[str, ...]
    more: tuple[str, ...]
    switch: tuple[str, ...]
    no_more: str
    about_what: str
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]
    system_prompts: tuple[str, ...]
    swaps: tuple[list[str], ...]


@dataclass(frozen=True)
class Probe:
    """A held-out question, what was said before it, and the answer that it must get."""

    lang: Lang
    kind: Literal["paraphrase", "frame", "off-topic", "follow-up"]
    question: str
    answer: str
    before: tuple[str, ...] = ()  # a question and its answer

    def messages(self) -> list[Message]:
        """Return the conversation up to the question."""
        roles = ("user", "assistant", "user")[-len(self.before) - 1 :]
        return [
            {"role": role, "content": text} for role, text in zip(roles, (*self.before, self.question), strict=True)
        ]


def _load(name: str) -> Any:  # noqa: ANN401 - TOML
    return tomllib.loads((HERE / name).read_text(encoding="utf-8"))


def _tuples(table: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


@cache
def topics() -> dict[Lang, dict[str, Topic]]:
    """Return every topic by language and id."""
    defaults = {"terms": (), "more": None}
    raw = _load("topics.toml")["topic"]
    return {
        lang: {t["id"]: Topic(id=t["id"], lang=lang, **(defaults | _tuples(t[lang]))) for t in raw} for lang in LANGS
    }


@cache
def off_topic() -> dict[Lang, OffTopic]:
    """Return what to decline, by language."""
    raw = _load("offtopic.toml")
    return {lang: OffTopic(**_tuples(raw[lang])) for lang in LANGS}


@cache
def phrases() -> dict[Lang, Phrases]:
    """Return the words around the topics, by language."""
    raw = _load("phrases.toml")
    return {lang: Phrases(**_tuples(raw[lang])) for lang in LANGS}


def answers() -> frozenset[str]:
    """Return every answer that the model is taught."""
    known = [a for by_id in topics().values() for t in by_id.values() for a in (t.answer, t.more) if a]
    around = [a for p in phrases().values() for a in (p.no_more, p.about_what)]
    return frozenset([*known, *around, *(o.answer for o in off_topic().values())])


def normalise(question: str) -> str:
    """Return a question without what may not be its only novelty: case, spaces, punctuation."""
    return "".join(c for c in question.lower() if c.isalnum())


@cache
def held_out() -> tuple[Probe, ...]:
    """Return every held-out question; definition terms take turns with the held-out frames."""
    probes: list[Probe] = []
    for lang in LANGS:
        words, off = phrases()[lang], off_topic()[lang]
        for i, topic in enumerate(topics()[lang].values()):
            probes += [Probe(lang, "paraphrase", q, topic.answer) for q in topic.held_out]
            framed = [words.held_out_frames[(i + j) % 3].format(term) for j, term in enumerate(topic.terms[:2])]
            probes += [Probe(lang, "frame", q, topic.answer) for q in framed]
        framed = [
            frames[i].format(thing)
            for frames in (off.frames, words.frames)
            for i, thing in enumerate(off.held_out_things)
        ]
        probes += [Probe(lang, "off-topic", q, off.answer) for q in (*off.held_out, *framed)]
    return tuple(probes)


@cache
def follow_ups() -> tuple[Probe, ...]:
    """Return a follow-up to each topic, "tell me more" and "in the other language" in turn; their words are taught."""
    probes: list[Probe] = []
    for lang in LANGS:
        words, other = phrases()[lang], topics()[OTHER[lang]]
        for i, topic in enumerate(topics()[lang].values()):
            more = words.more[i % len(words.more)], topic.more or words.no_more
            switch = words.switch[i % len(words.switch)], other[topic.id].answer
            question, answer = switch if i % 2 else more
            probes.append(Probe(lang, "follow-up", question, answer, before=(topic.ask[-1], topic.answer)))
    return tuple(probes)


@cache
def _held_out_keys() -> frozenset[str]:
    return frozenset(normalise(probe.question) for probe in held_out())


def is_held_out(question: str) -> bool:
    """Say whether a question, however cased and punctuated, is kept for evaluation."""
    return normalise(question) in _held_out_keys()


def _typo(rng: random.Random, text: str) -> str:
    """Swap, drop or double one letter inside an English word."""
    spots = [i for i in range(2, len(text) - 2) if text[i - 2 : i + 3].isascii() and text[i - 2 : i + 3].isalpha()]
    if not spots:
        return text
    i = rng.choice(spots)
    here, after = text[i], text[i + 1]
    return text[:i] + rng.choice((after + here, after, here + here + after)) + text[i + 2 :]


def _skip(rng: random.Random, lang: Lang, text: str) -> str:
    """Leave out one word of a longer question (in Chinese, one character)."""
    words, glue = (text.split(" "), " ") if lang == "en" else (list(text), "")
    if len(words) < 5:
        return text
    del words[rng.randrange(len(words))]
    return glue.join(words)


def _swap(rng: random.Random, lang: Lang, text: str) -> str:
    """Put one word or phrase in the place of its like."""
    found = [(group, word) for group in phrases()[lang].swaps for word in group if word and word in text]
    if not found:
        return text
    group, word = rng.choice(found)
    return text.replace(word, rng.choice(group), 1)


def _vary(rng: random.Random, lang: Lang, text: str) -> str:
    """Return the question as a person might type it."""
    words = phrases()[lang]
    if rng.random() < 0.4:
        text = _swap(rng, lang, text)
    if rng.random() < 0.45:
        text = text.rstrip(END_MARKS) + rng.choice(NEW_END_MARKS[lang])
    if rng.random() < (0.3 if lang == "en" else 0.15):
        text = text.lower()
    elif rng.random() < 0.02:
        text = text.upper()
    if rng.random() < 0.18:
        lowered = text[0].lower() + text[1:] if text[1:2].islower() and rng.random() < 0.7 else text
        text = rng.choice(words.prefixes) + lowered
    if rng.random() < 0.1:
        text = (text.rstrip(END_MARKS) if lang == "zh" else text) + rng.choice(words.suffixes)
    if rng.random() < 0.12:
        text = _typo(rng, text)
    if rng.random() < 0.08:
        text = _skip(rng, lang, text)
    if lang == "zh" and rng.random() < 0.25:  # "什么是 TEE", as careful people type it
        text = SCRIPT_BORDER.sub(" ", text)
    if lang == "zh" and rng.random() < 0.15:
        text = text.translate(HALF_WIDTH)
    return text


def _question(rng: random.Random, topic: Topic, *, again: bool) -> str:
    """Draw one way to ask for a topic."""
    if not topic.terms or rng.random() < 0.5:
        return rng.choice(topic.ask)
    words = phrases()[topic.lang]
    mixed = topic.lang == "zh" and rng.random() < 0.1  # "什么是 attestation"
    terms = topics()["en"][topic.id].terms if mixed else topic.terms
    frames = words.again_frames if again and rng.random() < 0.4 else words.frames
    return rng.choice(frames).format(rng.choice(terms))


def _pseudo_word(rng: random.Random, lang: Lang) -> str:
    """Return a word that nobody has heard of: the model must decline, not guess."""
    if lang == "zh":  # common characters: the first level of GB 2312
        codes = (bytes((rng.randrange(0xB0, 0xD7), rng.randrange(0xA1, 0xFF))) for _ in range(rng.randint(1, 4)))
        return "".join(code.decode("gb2312") for code in codes)
    if rng.random() < 0.5:  # the head of one word, the tail of another
        head, tail = (rng.choice(off_topic()["en"].things).split()[-1] for _ in range(2))
        return head[: rng.randint(1, 5)] + tail[-rng.randint(2, 5) :]
    syllables = (
        rng.choice("bcdfghklmnprstvw") + rng.choice("aeiou") + rng.choice(("", "", "n", "r", "s", "l"))
        for _ in range(rng.randint(1, 4))
    )
    word = "".join(syllables)
    return rng.choice((word, word.title(), word.upper(), f"a {word}", f"the {word}"))


def _off_topic_question(rng: random.Random, lang: Lang) -> str:
    """Draw one question that the model must decline."""
    off = off_topic()[lang]
    if rng.random() < 0.3:
        return rng.choice(off.ask)
    thing = _pseudo_word(rng, lang) if rng.random() < 0.45 else rng.choice(off.things)
    return rng.choice(phrases()[lang].frames if rng.random() < 0.5 else off.frames).format(thing)


def _told_more(topic: Topic) -> Topic:
    """Return what a follow-up refers to once the second part of a topic was told."""
    return replace(topic, answer=topic.more or topic.answer, more=None)


def _follow_up(rng: random.Random, lang: Lang, last: Topic | None) -> tuple[str, str, Topic | None]:
    """Draw a question that only makes sense after an answer, its answer, and the topic it leaves."""
    words = phrases()[lang]
    if last is None:
        return rng.choice((*words.more, *words.switch, "", "", "", "")), words.about_what, None
    if rng.random() < 0.35:
        other = topics()[OTHER[lang]][last.id]
        other = other if last == topics()[lang][last.id] else _told_more(other)
        return rng.choice(words.switch), other.answer, other
    return rng.choice(words.more), last.more or words.no_more, _told_more(last)


def _turn(rng: random.Random, lang: Lang, last: Topic | None, *, again: bool) -> tuple[str, str, Topic | None]:
    """Draw a question, its answer, and the topic that a follow-up would then refer to."""
    draw = rng.random()
    if draw < (0.35 if last else 0.015):
        question, answer, topic = _follow_up(rng, lang, last)
    elif draw > 0.82:
        question, answer, topic = _off_topic_question(rng, lang), off_topic()[lang].answer, None
    else:
        courtesy = again and rng.random() < 0.15
        topic = topics()[lang][rng.choice(("thanks", "bye") if courtesy else list(topics()[lang]))]
        question, answer = _question(rng, topic, again=again), topic.answer
    varied = _vary(rng, lang, question)
    return _turn(rng, lang, last, again=again) if is_held_out(varied) else (varied, answer, topic)


def conversation(rng: random.Random) -> list[Message]:
    """Draw one conversation of one to six turns."""
    lang = rng.choice(LANGS)
    messages: list[Message] = []
    if rng.random() < 0.12:
        messages.append(
            {"role": "system", "content": rng.choice([s for p in phrases().values() for s in p.system_prompts])}
        )
    last: Topic | None = None
    for i in range(rng.choices(range(1, 7), (8, 6, 4, 3, 2, 1))[0]):
        question, answer, last = _turn(rng, lang, last, again=i > 0)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lang = last.lang if last else lang
        if rng.random() < 0.1:
            lang, last = OTHER[lang], None
    return messages


def conversations(rng: random.Random) -> Iterator[list[Message]]:
    """Yield conversations for ever."""
    while True:
        yield conversation(rng)
