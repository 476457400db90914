"""Small word lists that several generators share."""


def words(text: str) -> tuple[str, ...]:
    """Split at white space."""
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """Split at semicolons."""
    return tuple(phrase.strip() for phrase in text.split(";"))


COLOURS = words("red blue green yellow white black brown grey silver golden")
ADJECTIVES = words("old small bright quiet heavy broken warm cold little round wooden soft dusty tall narrow")
THINGS = words("clock lantern bridge kettle garden ladder mirror window basket wagon chair boat door lamp")
MONTHS = words("January February March April May June July August September October November December")
WEEKDAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
REGIONS = phrases(
    "northern hills; southern coast; eastern plains; western mountains; river valleys; cold islands; "
    "great forest; high desert"
)
ARTISTS = words("painter poet singer dancer writer builder")
JOBS = words("nurse teacher baker farmer doctor driver student gardener sailor cook")
