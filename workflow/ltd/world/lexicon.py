"""Small word lists that several generators share."""

COLOURS = "red blue green yellow white black brown grey silver golden".split()
ADJECTIVES = (
    "old small bright quiet heavy broken warm cold little round wooden soft dusty tall narrow".split()
)
THINGS = "clock lantern bridge kettle garden ladder mirror window basket wagon chair boat door lamp".split()
MONTHS = "January February March April May June July August September October November December".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
REGIONS = (
    "northern hills",
    "southern coast",
    "eastern plains",
    "western mountains",
    "river valleys",
    "cold islands",
    "great forest",
    "high desert",
)
ARTISTS = "painter poet singer dancer writer builder".split()
JOBS = "nurse teacher baker farmer doctor driver student gardener sailor cook".split()
