"""Words and records that the generated functions are about."""

from dataclasses import dataclass

from ltd.world.lexicon import words

# list, element, its numeric attributes
RECORDS = (
    ("orders", "order", ("price", "weight", "amount")),
    ("books", "book", ("pages", "year", "price")),
    ("players", "player", ("score", "age", "level")),
    ("files", "file", ("size", "lines", "version")),
    ("rooms", "room", ("width", "height", "seats")),
    ("trips", "trip", ("distance", "hours", "cost")),
    ("boxes", "box", ("weight", "depth", "items")),
    ("users", "user", ("age", "visits", "points")),
    ("tasks", "task", ("hours", "level", "cost")),
    ("cars", "car", ("speed", "year", "doors")),
    ("fields", "field", ("width", "height", "rows")),
    ("songs", "song", ("length", "year", "plays")),
)
LABELS = words("name group owner kind colour city")
TESTS = (
    ("above", ">"),
    ("below", "<"),
    ("at least", ">="),
    ("at most", "<="),
    ("equal to", "=="),
    ("not", "!="),
)
CONSTANT_TESTS = TESTS[:5]
QUALIFIERS = words("large old new active cheap open valid daily first local final extra main public")
LISTS = (
    ("numbers", "number"),
    ("values", "value"),
    ("prices", "price"),
    ("scores", "score"),
    ("heights", "height"),
)
TEXTS = (("words", "word"), ("names", "name"), ("lines", "line"), ("titles", "title"), ("keys", "key"))


@dataclass(frozen=True)
class Function:
    """A function: docstring as lines, body as lines without the function's own indentation."""

    category: str
    name: str
    parameters: str
    doc: list[str]
    body: list[str]
