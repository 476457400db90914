"""Names composed from parts, so that held-out names are made of pieces the target has seen."""

from ltd.world.conversation import Draw

_PERSON_START = "Ma Ne Ta Lo Ri Sa Be Ko Da Fe Ju Pa Vi El Or Ha Mi Lu Za Ge".split()
_PERSON_END = "ra lin mel vin na sor rik da len bo ria tan nel mo sil ven".split()
_FAMILY_START = "Bar Hol Win Tor Ash Kel Mor San Fen Dal Gar Lin".split()
_FAMILY_END = "ton ley man field son wick ford berg mond ster".split()
_PLACE_START = "North Stone River Green Sun Oak Silver Wind Salt Fox Bright Moss Iron Lake Elm Snow".split()
_PLACE_END = "ville haven bridge wood port dale mouth brook gate field mere stead".split()
_WONDER_START = "Ara Bel Cor Dor Fal Gri Hel Jas Kar Lum Mur Nor Pel Quil Rov Sel Tam Ul Ver Zan".split()
_WONDER_END = "ba ca dil fin go ka lo min nock pa rel sk tis to vor wen".split()


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
    """A town's or region's name of this split."""
    return draw.own(lambda: draw.choice(_PLACE_START) + draw.choice(_PLACE_END))


def wonder(draw: Draw) -> str:
    """An invented word of this split, for animals, plants, instruments and the like."""
    return draw.own(lambda: draw.choice(_WONDER_START) + draw.choice(_WONDER_END))
