"""Open-book questions: a passage of a generated encyclopaedia and a question that it answers."""

from collections.abc import Callable
from dataclasses import dataclass

from ltd.world import lexicon
from ltd.world.conversation import Draw, Exchange
from ltd.world.names import full_name, place, wonder


@dataclass(frozen=True)
class Fact:
    """One attribute of a kind of entry: `{name}` and `{value}` are filled in.

    `told` are the ways the encyclopaedia states it; the answer words it differently.
    """

    told: tuple[str, ...]
    question: str
    answer: str
    value: Callable[[Draw], str]


def _from(options: str) -> Callable[[Draw], str]:
    values = [value.strip() for value in options.split(",")]
    return lambda draw: draw.choice(values)


def _year(draw: Draw) -> str:
    return str(draw.number(11, 18) * 100 + draw.number(0, 9) * 10)


_COLOUR = _from(", ".join(lexicon.COLOURS))

_KINDS: dict[str, tuple[str, Callable[[Draw], str], tuple[Fact, ...]]] = {
    "town": (
        "{name} is a town in the {region}.",
        place,
        (
            Fact(
                ("It was founded by {value}.", "The founder of the town was {value}."),
                "who founded {name}",
                "{name} was founded by {value}",
                full_name,
            ),
            Fact(
                ("Its first wall was built in {value}.", "The town hall dates from {value}."),
                "how old are the oldest buildings of {name}",
                "the oldest buildings of {name} are from {value}",
                _year,
            ),
            Fact(
                ("Most people there make {value}.", "The town is known for its {value}."),
                "what is made in {name}",
                "the people of {name} make {value}",
                _from(
                    "carpets, glass bowls, copper pots, wooden boats, blue tiles, sweet wine, bells, silk ribbons"
                ),
            ),
            Fact(
                ("Visitors like the {value}.", "At its centre stands the {value}."),
                "what can visitors see in {name}",
                "visitors to {name} can see the {value}",
                _from(
                    "old clock tower, round market hall, stone bridge, glass garden, white lighthouse, sea museum"
                ),
            ),
        ),
    ),
    "animal": (
        "The {name} is a {colour} animal of the {region}.",
        lambda draw: wonder(draw).lower(),
        (
            Fact(
                ("It eats {value}.", "Its food is {value}."),
                "what does the {name} eat",
                "the {name} eats {value}",
                _from(
                    "small fish, fallen fruit, young leaves, beetles and worms, sweet roots, pine seeds, river snails"
                ),
            ),
            Fact(
                ("It sleeps in {value}.", "Its home is in {value}."),
                "where does the {name} live",
                "the {name} lives in {value}",
                _from("hollow trees, deep caves, tall grass, old stone walls, sand burrows, nests of reed"),
            ),
            Fact(
                ("It is active {value}.", "People see it {value}."),
                "when is the {name} active",
                "the {name} is active {value}",
                _from(
                    "at night, at dawn, in the early evening, after heavy rain, on warm afternoons, in spring"
                ),
            ),
            Fact(
                ("An adult weighs about {value} kilograms.", "It grows to {value} kilograms."),
                "how heavy is the {name}",
                "the {name} weighs about {value} kilograms",
                lambda draw: str(draw.number(2, 60)),
            ),
        ),
    ),
    "person": (
        "{name} was a famous {job} from the {region}.",
        full_name,
        (
            Fact(
                ("The {job} was born in {value}.", "The year of birth was {value}."),
                "when was {name} born",
                "{name} was born in {value}",
                _year,
            ),
            Fact(
                ("The best known work is called {value}.", "{value} is the work most people remember."),
                "what is the best known work of {name}",
                "the best known work of {name} is {value}",
                lambda draw: (
                    f"The {draw.choice(lexicon.ADJECTIVES).title()} {draw.choice(lexicon.THINGS).title()}"
                ),
            ),
            Fact(
                ("The first teacher was {value}.", "Lessons with {value} began at the age of ten."),
                "who taught {name}",
                "{name} was taught by {value}",
                full_name,
            ),
            Fact(
                ("For many years home was a house in {value}.", "Most of that life was spent in {value}."),
                "where did {name} live",
                "{name} lived in {value}",
                place,
            ),
        ),
    ),
    "plant": (
        "The {name} is a plant with {colour} flowers that grows in the {region}.",
        lambda draw: wonder(draw).lower(),
        (
            Fact(
                ("It blooms in {value}.", "Its flowers open in {value}."),
                "when does the {name} bloom",
                "the {name} blooms in {value}",
                _from(", ".join(lexicon.MONTHS)),
            ),
            Fact(
                ("Its leaves are used for {value}.", "For centuries people have grown it for {value}."),
                "what is the {name} used for",
                "the {name} is used for {value}",
                _from("tea, red dye, soap, rope, cough syrup, perfume, soup, medicine, paper"),
            ),
            Fact(
                ("It likes {value}.", "It grows best in {value}."),
                "what kind of soil does the {name} need",
                "the {name} needs {value}",
                _from("dry sand, wet clay, dark forest soil, stony ground, salty mud, deep peat"),
            ),
            Fact(
                ("It reaches a height of {value} metres.", "The stem is up to {value} metres tall."),
                "how tall is the {name}",
                "the {name} is up to {value} metres tall",
                lambda draw: str(draw.number(2, 30)),
            ),
        ),
    ),
    "festival": (
        "The {name} festival is held every year in the {region}.",
        wonder,
        (
            Fact(
                ("It takes place in {value}.", "It begins on the first day of {value}."),
                "when is the {name} festival",
                "the {name} festival is in {value}",
                _from(", ".join(lexicon.MONTHS)),
            ),
            Fact(
                ("It honours {value}.", "It was started in memory of {value}."),
                "whom does the {name} festival honour",
                "the {name} festival honours {value}",
                full_name,
            ),
            Fact(
                ("Everyone eats {value}.", "The traditional food is {value}."),
                "what do people eat at the {name} festival",
                "at the {name} festival people eat {value}",
                _from(
                    "honey cakes, baked fish, plum dumplings, bean soup, sweet rice, fried apples, nut bread"
                ),
            ),
            Fact(
                ("Children {value}.", "In the evening children {value}."),
                "what do children do at the {name} festival",
                "at the {name} festival children {value}",
                _from(
                    "carry paper lamps, race small boats, sing on the bridge, wear masks, fly kites, plant trees"
                ),
            ),
        ),
    ),
}


@dataclass(frozen=True)
class _Entry:
    name: str
    kind: str
    opening: str
    region: str
    told: list[str]
    questions: list[str]
    answers: list[str]


def _entry(draw: Draw, kind: str) -> _Entry:
    opening, make_name, facts = _KINDS[kind]
    job, region = draw.choice(lexicon.ARTISTS), draw.choice(lexicon.REGIONS)
    fields = {"name": make_name(draw), "job": job, "region": region, "colour": _COLOUR(draw)}
    chosen = draw.sample(facts, draw.number(3, 4))
    values = [fact.value(draw) for fact in chosen]
    fill = [fields | {"value": value} for value in values]
    return _Entry(
        name=fields["name"],
        kind=kind,
        opening=opening.format(**fields),
        region=region,
        told=[draw.choice(fact.told).format(**each) for fact, each in zip(chosen, fill, strict=True)],
        questions=[fact.question.format(**each) for fact, each in zip(chosen, fill, strict=True)],
        answers=[fact.answer.format(**each) for fact, each in zip(chosen, fill, strict=True)],
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _two_questions(draw: Draw, entry: _Entry) -> tuple[str, str]:
    first, second = draw.sample(range(len(entry.answers)), 2)
    question = f"{entry.questions[first]}, and {entry.questions[second]}?"
    answer = f"{_sentence(entry.answers[first])} The passage also says that {entry.answers[second]}."
    return question[0].upper() + question[1:], answer


def _one_question(draw: Draw, entry: _Entry) -> tuple[str, str]:
    index = draw.number(0, len(entry.answers) - 1)
    question = entry.questions[index]
    answer = f"According to the passage, {entry.answers[index]}. We know this from the sentence: {entry.told[index]}"
    return question[0].upper() + question[1:] + "?", answer


def _summary(draw: Draw, entry: _Entry) -> tuple[str, str]:
    question = draw.phrase(
        f"What does the passage say about {entry.name}?",
        f"Tell me what is known about {entry.name}.",
        held_out=f"What is known about {entry.name}?",
    )
    parts = [_sentence(answer) for answer in entry.answers]
    return question, " ".join([entry.opening, *parts])


def exchange(draw: Draw) -> Exchange:
    """One passage (sometimes with a second entry that does not matter) and a question about one entry."""
    kind = draw.choice(list(_KINDS))
    entry = _entry(draw, kind)
    passages = [" ".join([entry.opening, *entry.told])]
    if draw.chance(0.4):
        other = _entry(draw, draw.choice([each for each in _KINDS if each != kind]))
        passages.insert(draw.number(0, 1), " ".join([other.opening, *other.told]))
    form = draw.choice([_one_question, _two_questions, _two_questions, _summary])
    question, answer = form(draw, entry)
    lead = draw.phrase(
        "Passage:", "Read this passage.", "From the encyclopaedia:", held_out="Here is a passage."
    )
    return Exchange(kind, (f"{lead}\n" + "\n".join(passages) + f"\nQuestion: {question}",), (answer,))
