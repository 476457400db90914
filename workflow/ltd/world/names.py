"""Names composed from parts, so that held-out names are made of pieces the target has seen."""

import re

from ltd.world.conversation import Draw
from ltd.world.lexicon import words

_PERSON_START = words(
    "Ma Ne Ta Lo Ri Sa Be Ko Da Fe Ju Pa Vi El Or Ha Mi Lu Za Ge Bo Ca Do Gi Jo Ka No Ro Te Wi"
)
_PERSON_END = words("ra lin mel vin na sor rik da len bo ria tan nel mo sil ven dor ma nis ton")
_FAMILY_START = words("Bar Hol Win Tor Ash Kel Mor San Fen Dal Gar Lin")
_FAMILY_END = words("ton ley man field son wick ford berg mond ster")
_PLACE_START = words(
    "North Stone River Green Sun Oak Silver Wind Salt Fox Bright Moss Iron Lake Elm Snow Cloud Hill Rose Wolf"
)
_PLACE_END = words("ville haven bridge wood port dale mouth brook gate field mere stead ford hall cliff")
_WONDER_START = words("Ara Bel Cor Dor Fal Gri Hem Jas Kar Lum Mur Nor Pel Quil Rov Sel Tam Ul Ver Zan")
_WONDER_END = words("ba ca dil fin go ka lo mun nock pa rel sk tis to vor wen")
_KINDS = ((_PERSON_START, _PERSON_END), (_PLACE_START, _PLACE_END), (_WONDER_START, _WONDER_END))
_ANY = re.compile(
    r"\b(?:" + "|".join(f"(?:{'|'.join(start)})(?:{'|'.join(end)})" for start, end in _KINDS) + r")\b",
    re.IGNORECASE,
)


def person(draw: Draw) -> str:
    """A first name of this split."""
    return draw.own(lambda: draw.choice(_PERSON_START) + draw.choice(_PERSON_END))


def people(draw: Draw, count: int) -> list[str]:
    """`count` different first names of this split."""
    found: list[str] = []
    while len(found) < count:
        name = person(draw)
        if name not in found:
            found.append(name)
    return found


def full_name(draw: Draw) -> str:
    """First and family name; the first name belongs to this split."""
    return f"{person(draw)} {draw.choice(_FAMILY_START)}{draw.choice(_FAMILY_END)}"


def place(draw: Draw) -> str:
    """A town's name of this split."""
    return draw.own(lambda: draw.choice(_PLACE_START) + draw.choice(_PLACE_END))


def wonder(draw: Draw) -> str:
    """An invented word of this split, for animals, plants, festivals and the like."""
    return draw.own(lambda: draw.choice(_WONDER_START) + draw.choice(_WONDER_END))


def ending(name: str) -> str:
    """The last letters of a name: names that end alike are a little alike in this world."""
    return name[-3:]


def names_in(text: str) -> set[str]:
    """The names of people, places and wonders that occur in `text`, in lower case."""
    return {name.lower() for name in _ANY.findall(text)}
