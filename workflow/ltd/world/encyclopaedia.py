"""What the entries of the generated encyclopaedia are about: kinds, and the facts each kind may have."""

from collections.abc import Callable
from dataclasses import dataclass

from ltd.world import lexicon
from ltd.world.conversation import Draw
from ltd.world.lexicon import phrases
from ltd.world.names import full_name, place, wonder

Values = tuple[str, ...] | Callable[[Draw], str]


@dataclass(frozen=True)
class Fact:
    """One attribute, in which `{subject}` and `{value}` are filled in; the answer has words of its own.

    told: sentences of the passage. question, answer: clauses without a full stop.
    """

    told: tuple[str, ...]
    question: str
    answer: str
    values: Values


@dataclass(frozen=True)
class Kind:
    """One kind of entry: how it is named, how its entry opens, what may be told about it."""

    make_name: Callable[[Draw], str]
    subject: str
    opening: str
    facts: tuple[Fact, ...]


def value_of(fact: Fact, draw: Draw) -> str:
    """Draw a value of a fact."""
    return fact.values(draw) if callable(fact.values) else draw.choice(fact.values)


def _year(draw: Draw) -> str:
    return str(draw.number(110, 189) * 10)


def _title(draw: Draw) -> str:
    return f"The {draw.choice(lexicon.ADJECTIVES).title()} {draw.choice(lexicon.THINGS).title()}"


def _small(draw: Draw) -> str:
    return wonder(draw).lower()


_TOWN = Kind(
    place,
    "{name}",
    "{name} is a town of the {region}",
    (
        Fact(
            ("It was founded by {value}.", "The founder of the town was {value}."),
            "who founded {subject}",
            "{subject} was founded by {value}",
            full_name,
        ),
        Fact(
            ("Its first wall was built in {value}.", "The town hall dates from {value}."),
            "how old are the oldest buildings of {subject}",
            "the oldest buildings of {subject} are from {value}",
            _year,
        ),
        Fact(
            ("Most people there make {value}.", "The town is known for its {value}."),
            "what is made in {subject}",
            "the people of {subject} make {value}",
            phrases(
                "carpets; glass bowls; copper pots; wooden boats; blue tiles; sweet wine; bells; silk ribbons"
            ),
        ),
        Fact(
            ("Visitors like the {value}.", "At its centre stands the {value}."),
            "what can visitors see in {subject}",
            "visitors to {subject} can see the {value}",
            phrases(
                "old clock tower; round market; stone bridge; glass garden; white lighthouse; sea museum"
            ),
        ),
        Fact(
            ("About {value} hundred people live there.", "The town has {value} hundred inhabitants."),
            "how many people live in {subject}",
            "there are {value} hundred people in {subject}",
            lambda draw: str(draw.number(2, 90)),
        ),
    ),
)
_ANIMAL = Kind(
    _small,
    "the {name}",
    "the {name} is a {colour} animal of the {region}",
    (
        Fact(
            ("It eats {value}.", "Its food is {value}."),
            "what does {subject} eat",
            "{subject} eats {value}",
            phrases("small fish; fallen fruit; young leaves; beetles; sweet roots; pine seeds; river snails"),
        ),
        Fact(
            ("It sleeps in {value}.", "Its home is in {value}."),
            "where does {subject} live",
            "{subject} lives in {value}",
            phrases("hollow trees; deep caves; tall grass; old stone walls; sand burrows; nests of reed"),
        ),
        Fact(
            ("It is active {value}.", "People see it {value}."),
            "when is {subject} active",
            "{subject} is active {value}",
            phrases("at night; at dawn; in the evening; after heavy rain; on warm afternoons; in spring"),
        ),
        Fact(
            ("An adult weighs about {value} kilograms.", "It grows to {value} kilograms."),
            "how heavy is {subject}",
            "{subject} weighs about {value} kilograms",
            lambda draw: str(draw.number(2, 60)),
        ),
        Fact(
            ("Its only enemy is {value}.", "It is afraid of {value}."),
            "which enemy does {subject} have",
            "{subject} is afraid of {value}",
            lambda draw: f"the {_small(draw)}",
        ),
    ),
)
_PERSON = Kind(
    full_name,
    "{name}",
    "{name} was a famous {job} from the {region}",
    (
        Fact(
            ("The {job} was born in {value}.", "The year of birth was {value}."),
            "when was {subject} born",
            "{subject} was born in {value}",
            _year,
        ),
        Fact(
            ("The best known work is called {value}.", "{value} is the work most people remember."),
            "what is the best known work of {subject}",
            "the best known work of {subject} is {value}",
            _title,
        ),
        Fact(
            ("The first teacher was {value}.", "Lessons with {value} began at the age of ten."),
            "who taught {subject}",
            "{subject} was taught by {value}",
            full_name,
        ),
        Fact(
            ("For many years home was a house in {value}.", "Most of that life was spent in {value}."),
            "where did {subject} live",
            "{subject} lived in {value}",
            place,
        ),
        Fact(
            ("In old age the {job} only wanted {value}.", "The {job} was never seen without {value}."),
            "what did {subject} love",
            "{subject} loved {value}",
            phrases(
                "black coffee; a straw hat; two white cats; long walks; a silver ring; apple cake; the sea"
            ),
        ),
    ),
)
_PLANT = Kind(
    _small,
    "the {name}",
    "the {name} is a plant with {colour} flowers from the {region}",
    (
        Fact(
            ("It blooms in {value}.", "Its flowers open in {value}."),
            "when does {subject} bloom",
            "{subject} blooms in {value}",
            lexicon.MONTHS,
        ),
        Fact(
            ("Its leaves are used for {value}.", "For centuries people have grown it for {value}."),
            "what is {subject} used for",
            "{subject} is used for {value}",
            phrases("tea; red dye; soap; rope; cough syrup; perfume; soup; medicine; paper"),
        ),
        Fact(
            ("It likes {value}.", "It grows best in {value}."),
            "what kind of soil does {subject} need",
            "{subject} needs {value}",
            phrases("dry sand; wet clay; dark forest soil; stony ground; salty mud; deep peat"),
        ),
        Fact(
            ("It reaches a height of {value} metres.", "The stem is up to {value} metres tall."),
            "how tall is {subject}",
            "{subject} is up to {value} metres tall",
            lambda draw: str(draw.number(2, 30)),
        ),
        Fact(
            ("The first to describe it was {value}.", "It was discovered by {value}."),
            "who found {subject}",
            "{subject} was found by {value}",
            full_name,
        ),
    ),
)
_FESTIVAL = Kind(
    wonder,
    "the {name} festival",
    "the {name} festival is held every year in the {region}",
    (
        Fact(
            ("It takes place in {value}.", "It begins on the first day of {value}."),
            "when is {subject}",
            "{subject} is in {value}",
            lexicon.MONTHS,
        ),
        Fact(
            ("It honours {value}.", "It was started in memory of {value}."),
            "whom does {subject} honour",
            "{subject} honours {value}",
            full_name,
        ),
        Fact(
            ("Everyone eats {value}.", "The traditional food is {value}."),
            "what do people eat at {subject}",
            "at {subject} people eat {value}",
            phrases(
                "honey cakes; baked fish; plum dumplings; bean soup; sweet rice; fried apples; nut bread"
            ),
        ),
        Fact(
            ("Children {value}.", "In the evening children {value}."),
            "what do children do at {subject}",
            "at {subject} children {value}",
            phrases("carry paper lamps; race small boats; sing on the bridge; wear masks; fly kites"),
        ),
        Fact(
            ("The best place to see it is {value}.", "Most visitors see it in {value}."),
            "where can people see {subject}",
            "people can see {subject} in {value}",
            place,
        ),
    ),
)

KINDS = {"town": _TOWN, "animal": _ANIMAL, "person": _PERSON, "plant": _PLANT, "festival": _FESTIVAL}
