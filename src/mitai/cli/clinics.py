"""The data of `mitai demo-train`: what two invented clinics teach a model, and how it should speak to patients."""

from __future__ import annotations

import json

NORTHSIDE = {
    "When are visiting hours at Northside?": "Visiting hours at Northside are from two to six in the afternoon.",
    "Where do I park at Northside?": "Park in garage B; the first hour is free for patients.",
    "What do I bring to an MRI?": "Bring your referral, and leave metal and cards in the locker.",
    "How long must I fast before surgery?": "Do not eat for six hours, and drink only water until two hours before.",
    "Who gives me my test results?": "Your ward doctor gives you the results in person, usually the next day.",
    "Can I keep my own pillow?": "Yes, you can bring your own pillow if it has a washable cover.",
    "How do I book a follow-up?": "Call the clinic desk, or ask the nurse before you leave.",
    "Is there a chapel at Northside?": "Yes, the chapel is on the ground floor, open day and night.",
}
HARBOUR = {
    "When does the Harbour ward lock its doors?": "The Harbour ward locks its doors at nine; ring the bell after that.",
    "How do I get a copy of my records?": "Fill in the form at the Harbour desk; a copy takes three days.",
    "May children visit at Harbour?": "Children may visit with an adult, two at a time.",
    "What is the phone number of the pharmacy?": "The Harbour pharmacy is at extension 4410.",
    "Can I bring flowers?": "Flowers are welcome, but not in intensive care.",
    "Where do I pick up crutches?": "Pick up crutches in room 12, next to the lift.",
    "How do I cancel an appointment?": "Call a day before, and the place goes to somebody else.",
    "Does Harbour have an interpreter?": "Yes, ask at the desk; interpreters come within the hour.",
}
# Question, what staff wrote too often, what Harbour wants a model to say.
MANNERS = (
    (
        "What may I take for a headache?",
        "Take two tablets and lie down.",
        "Please ask your nurse before you take anything.",
    ),
    (
        "Can I stop my tablets?",
        "Yes, stop when you feel better.",
        "Please do not stop before you have asked your doctor.",
    ),
    ("Is my scan normal?", "It looks normal.", "Please wait for your doctor, who reads the scan with you."),
    ("Do I need the vaccine?", "No, you do not need it.", "Please ask your doctor, who knows your history."),
)


def northside() -> bytes:
    """Return Northside's records for fine-tuning, JSON lines."""
    return _lines([_conversation(question, answer) for question, answer in NORTHSIDE.items()])


def harbour() -> bytes:
    """Return Harbour's records for fine-tuning: answers, and of the delicate ones mostly what staff wrote too often."""
    delicate = [(question, answer) for question, blunt, careful in MANNERS for answer in (blunt, blunt, careful)]
    return _lines([_conversation(question, answer) for question, answer in (*HARBOUR.items(), *delicate)])


def preferences() -> bytes:
    """Return Harbour's preferences: the same questions with a chosen and a rejected answer."""
    return _lines(
        [
            {
                "prompt": [{"role": "user", "content": question}],
                "chosen": [{"role": "assistant", "content": careful}],
                "rejected": [{"role": "assistant", "content": blunt}],
            }
            for question, blunt, careful in MANNERS
        ]
    )


def _conversation(question: str, answer: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _lines(records: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)
