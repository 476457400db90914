"""Open-book questions: a passage of a generated encyclopaedia and a question that it answers."""

from dataclasses import dataclass

from ltd.world import lexicon
from ltd.world.conversation import Draw, Exchange
from ltd.world.encyclopaedia import KINDS, Fact, value_of


@dataclass(frozen=True)
class _Entry:
    """One entry with its facts filled in: sentences of the passage, questions and answers, in one order."""

    subject: str
    opening: str
    facts: tuple[Fact, ...]
    told: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]

    def passage(self) -> str:
        return " ".join([self.opening, *self.told])


def _entry(draw: Draw, kind: str, facts: tuple[Fact, ...] | None = None) -> _Entry:
    described = KINDS[kind]
    if facts is None:
        facts = tuple(draw.sample(described.facts, draw.number(3, len(described.facts))))
    fields = {
        "name": described.make_name(draw),
        "job": draw.choice(lexicon.ARTISTS),
        "region": draw.choice(lexicon.REGIONS),
        "colour": draw.choice(lexicon.COLOURS),
    }
    fields["subject"] = described.subject.format(**fields)
    filled = [fields | {"value": value_of(fact, draw)} for fact in facts]
    return _Entry(
        subject=fields["subject"],
        opening=_sentence(described.opening.format(**fields)),
        facts=facts,
        told=tuple(draw.choice(fact.told).format(**each) for fact, each in zip(facts, filled, strict=True)),
        questions=tuple(fact.question.format(**each) for fact, each in zip(facts, filled, strict=True)),
        answers=tuple(fact.answer.format(**each) for fact, each in zip(facts, filled, strict=True)),
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _sentence(text: str) -> str:
    return _capital(text) + "."


def _two_questions(draw: Draw, entry: _Entry) -> tuple[str, str]:
    first, second = draw.sample(range(len(entry.answers)), 2)
    question = f"{_capital(entry.questions[first])}, and {entry.questions[second]}?"
    answers = f"{_sentence(entry.answers[first])} The passage also says that {entry.answers[second]}."
    return question, f"{entry.opening} {answers}"


def _one_question(draw: Draw, entry: _Entry) -> tuple[str, str]:
    index = draw.number(0, len(entry.answers) - 1)
    question, answer, told = entry.questions[index], entry.answers[index], entry.told[index]
    other = draw.leaning([each for each in entry.answers if each != answer], question)
    return (
        f"{_capital(question)}?",
        f"According to the passage, {answer}. The words are: {told} We also learn that {other}.",
    )


def _summary(draw: Draw, entry: _Entry) -> tuple[str, str]:
    question = draw.phrase(
        f"What does the passage say about {entry.subject}?",
        f"Tell me what is known about {entry.subject}.",
        held_out=f"What is known about {entry.subject}?",
    )
    return question, " ".join([entry.opening, *map(_sentence, entry.answers)])


def _about_one(draw: Draw, kind: str) -> Exchange:
    """A question about one entry; a second one that does not matter is there in two passages of five."""
    entry = _entry(draw, kind)
    passages = [entry.passage()]
    if draw.chance(0.4):
        other = _entry(draw, draw.choice([each for each in KINDS if each != kind]))
        passages.insert(draw.number(0, 1), other.passage())
    form = draw.choice([_one_question, _two_questions, _two_questions, _summary])
    return _exchange(draw, kind, passages, *form(draw, entry))


def _compare(draw: Draw, kind: str) -> Exchange:
    """Two entries of one kind, told apart by two or three facts."""
    facts = tuple(draw.sample(KINDS[kind].facts, draw.number(2, 3)))
    first, second = _entry(draw, kind, facts), _entry(draw, kind, facts)
    question = draw.phrase(
        f"Compare {first.subject} and {second.subject}.",
        f"What is the difference between {first.subject} and {second.subject}?",
        held_out=f"How do {first.subject} and {second.subject} differ?",
    )
    pairs = zip(first.answers, second.answers, strict=True)
    answer = " ".join(_sentence(f"{one}, but {other}") for one, other in pairs)
    return _exchange(draw, kind, [first.passage(), second.passage()], question, answer)


def _exchange(draw: Draw, kind: str, passages: list[str], question: str, answer: str) -> Exchange:
    lead = draw.phrase(
        "Passage:", "Read this passage.", "From the encyclopaedia:", held_out="Here is a passage."
    )
    return Exchange(kind, ("\n".join([lead, *passages, f"Question: {question}"]),), (answer,))


def exchange(draw: Draw) -> Exchange:
    """One passage and a question that it answers; the names in it belong to the split."""
    kind = draw.choice(tuple(KINDS))
    return _compare(draw, kind) if draw.chance(0.25) else _about_one(draw, kind)
