"""Word problems with small numbers; the answer works them out a line at a time and ends in `#### result`."""

from ltd.world.conversation import Draw, Exchange
from ltd.world.lexicon import words
from ltd.world.names import people, person, place

_ITEMS = words("shells stamps marbles cards buttons pens apples coins beads stickers eggs nuts")
_HOLDERS = words("box bag jar basket")
_GOODS = words("pen book cup lamp ball hat cap cake map kite")
_CROPS = words("carrot bean tulip cabbage pepper tomato onion leek")
_PLURALS = {"box": "boxes", "tomato": "tomatoes"}


def _plural(word: str) -> str:
    return _PLURALS.get(word, word + "s")


def _finish(story: str, question: str, steps: list[str], conclusion: str, result: int) -> Exchange:
    answer = "\n".join([*steps, conclusion, f"#### {result}"])
    return Exchange("maths", (f"{story} {question}",), (answer,))


def _loses(draw: Draw, total: int, items: str, friend: str) -> tuple[str, str, int]:
    lost = draw.number(2, min(12, total - 2))
    story, step = draw.choice(
        [
            (f"gives {lost} {items} to {friend}", f"After giving {lost} to {friend}"),
            (f"loses {lost} {items} on the way home", f"After losing {lost}"),
            (f"sells {lost} {items} at the market", f"After selling {lost}"),
        ]
    )
    return story, f"{step}, {total} - {lost} = {total - lost} {items} are left.", total - lost


def _gains(draw: Draw, total: int, items: str, friend: str) -> tuple[str, str, int]:
    if draw.chance(0.4):
        packs, size = draw.number(2, 5), draw.number(2, 6)
        more = packs * size
        step = f"The {packs} packs hold {packs} * {size} = {more}, and {total} + {more} = {total + more}."
        return f"buys {packs} packs of {size} {items}", step, total + more
    more = draw.number(2, 15)
    story, step = draw.choice(
        [
            (f"gets {more} {items} from {friend}", f"With {more} from {friend}"),
            (f"finds {more} more {items}", f"After finding {more} more"),
        ]
    )
    return story, f"{step}, there are {total} + {more} = {total + more} {items}.", total + more


def _collection(draw: Draw) -> Exchange:
    name, friend = people(draw, 2)
    items = draw.choice(_ITEMS)
    if draw.chance(0.6):
        holder, count, each = draw.choice(_HOLDERS), draw.number(2, 9), draw.number(3, 9)
        total = count * each
        story = [f"{name} has {count} {_plural(holder)} with {each} {items} in each {holder}."]
        steps = [f"{name} starts with {count} * {each} = {total} {items}."]
    else:
        total = draw.number(12, 40)
        story = [f"{name} has {total} {items}."]
        steps = [f"{name} starts with {total} {items}."]
    for link in ("First", "Then", "Later")[: draw.number(1, 3)]:
        event = _loses if total > 10 and draw.chance(0.5) else _gains
        told, step, total = event(draw, total, items, friend)
        story.append(f"{link} {name} {told}.")
        steps.append(step)
    question = draw.phrase(
        f"How many {items} does {name} have now?",
        f"How many {items} does {name} have in the end?",
        held_out=f"In the end, how many {items} are there?",
    )
    return _finish(" ".join(story), question, steps, f"So {name} has {total} {items} now.", total)


def _shopping(draw: Draw) -> Exchange:
    name = person(draw)
    first, second = draw.sample(_GOODS, 2)
    prices = draw.number(2, 9), draw.number(2, 9)
    counts = draw.number(2, 6), draw.number(2, 6)
    costs = prices[0] * counts[0], prices[1] * counts[1]
    total = sum(costs)
    story = (
        f"In {place(draw)} a {first} costs {prices[0]} coins and a {second} costs {prices[1]} coins. "
        f"{name} buys {counts[0]} {_plural(first)} and {counts[1]} {_plural(second)}"
    )
    steps = [
        f"The {_plural(first)} cost {counts[0]} * {prices[0]} = {costs[0]} coins.",
        f"The {_plural(second)} cost {counts[1]} * {prices[1]} = {costs[1]} coins.",
        f"Together that is {costs[0]} + {costs[1]} = {total} coins.",
    ]
    if draw.chance(0.5):
        return _finish(
            f"{story}.", f"How much does {name} pay?", steps, f"So {name} pays {total} coins.", total
        )
    paid = next(note for note in (20, 50, 100, 200) if note > total)
    steps.append(f"The change is {paid} - {total} = {paid - total} coins.")
    question = f"How much change does {name} get?"
    conclusion = f"So {name} gets {paid - total} coins back."
    return _finish(f"{story} and pays with {paid} coins.", question, steps, conclusion, paid - total)


def _trip(draw: Draw) -> Exchange:
    name, start, end = person(draw), place(draw), place(draw)
    ways = draw.sample(["drives", "walks", "rides", "sails", "runs"], 2)
    speeds = draw.number(3, 12), draw.number(3, 12)
    hours = draw.number(2, 6), draw.number(2, 6)
    legs = speeds[0] * hours[0], speeds[1] * hours[1]
    total = sum(legs)
    story = (
        f"{name} travels from {start} to {end}. First {name} {ways[0]} for {hours[0]} hours at {speeds[0]} "
        f"km an hour, then {name} {ways[1]} for {hours[1]} hours at {speeds[1]} km an hour."
    )
    steps = [
        f"The first part is {hours[0]} * {speeds[0]} = {legs[0]} km.",
        f"The second part is {hours[1]} * {speeds[1]} = {legs[1]} km.",
    ]
    if draw.chance(0.6):
        steps.append(f"Together that is {legs[0]} + {legs[1]} = {total} km.")
        conclusion = f"So it is {total} km from {start} to {end}."
        return _finish(story, f"How far is it from {start} to {end}?", steps, conclusion, total)
    hours_total = sum(hours)
    steps = [f"{name} {ways[0]} for {hours[0]} hours and {ways[1]} for {hours[1]} hours."]
    steps.append(f"Together that is {hours[0]} + {hours[1]} = {hours_total} hours.")
    conclusion = f"So the way from {start} to {end} takes {hours_total} hours."
    return _finish(story, "How many hours does it take?", steps, conclusion, hours_total)


def _compare(draw: Draw) -> Exchange:
    first, second, third = people(draw, 3)
    items, start, more = draw.choice(_ITEMS), draw.number(4, 20), draw.number(2, 12)
    middle = start + more
    story = f"{first} has {start} {items}. {second} has {more} more {items} than {first}."
    steps = [f"{second} has {start} + {more} = {middle} {items}."]
    if draw.chance(0.5):
        factor = draw.number(2, 3)
        last = factor * middle
        story += f" {third} has {factor} times as many {items} as {second}."
        steps.append(f"{third} has {factor} * {middle} = {last} {items}.")
    else:
        fewer = draw.number(2, middle - 2)
        last = middle - fewer
        story += f" {third} has {fewer} fewer {items} than {second}."
        steps.append(f"{third} has {middle} - {fewer} = {last} {items}.")
    if draw.chance(0.5):
        conclusion = f"So {third} has {last} {items}."
        return _finish(story, f"How many {items} does {third} have?", steps, conclusion, last)
    total = start + middle + last
    steps.append(f"Together they have {start} + {middle} + {last} = {total} {items}.")
    conclusion = f"So {first}, {second} and {third} have {total} {items}."
    return _finish(story, "How many do they have together?", steps, conclusion, total)


def _garden(draw: Draw) -> Exchange:
    name, crop = person(draw), draw.choice(_CROPS)
    crops, part = _plural(crop), draw.choice([(2, "half"), (3, "a third"), (4, "a quarter")])
    rows, each = part[0] * draw.number(1, 3), draw.number(3, 9)
    planted = rows * each
    eaten = planted // part[0]
    left = planted - eaten
    story = (
        f"{name} has a garden in {place(draw)} with {rows} rows of {each} {crops}. "
        f"Rabbits eat {part[1]} of the {crops}."
    )
    steps = [
        f"The garden has {rows} * {each} = {planted} {crops}.",
        f"The rabbits eat {planted} / {part[0]} = {eaten} {crops}.",
        f"That leaves {planted} - {eaten} = {left} {crops}.",
    ]
    if draw.chance(0.5):
        return _finish(
            story, f"How many {crops} are left?", steps, f"So {name} has {left} {crops} left.", left
        )
    price = draw.number(2, 5)
    steps.append(f"At {price} coins each, they bring {left} * {price} = {left * price} coins.")
    question = f"{name} sells the rest for {price} coins each. How many coins does {name} get?"
    return _finish(story, question, steps, f"So {name} gets {left * price} coins.", left * price)


def _work(draw: Draw) -> Exchange:
    name = person(draw)
    verb, past, unit, whole = draw.choice(
        [
            ("reads", "read", "pages", "book"),
            ("paints", "painted", "boards", "fence"),
            ("lays", "laid", "bricks", "wall"),
            ("knits", "knitted", "rows", "scarf"),
        ]
    )
    rate, days = draw.number(3, 12), draw.number(3, 9)
    done, extra = rate * days, draw.number(5, 40)
    size = done + extra
    story = (
        f"A {whole} in {place(draw)} has {size} {unit}. {name} {verb} {rate} {unit} a day for {days} days."
    )
    steps = [
        f"In {days} days {name} {verb} {days} * {rate} = {done} {unit}.",
        f"The {whole} has {size} {unit}, so {size} - {done} = {extra} {unit} are left.",
    ]
    question = draw.phrase(
        f"How many {unit} are left?",
        f"How many {unit} are not {past} yet?",
        held_out=f"How many {unit} are still to be {past}?",
    )
    return _finish(story, question, steps, f"So {extra} {unit} of the {whole} are left.", extra)


_FAMILIES = (_collection, _collection, _shopping, _trip, _compare, _garden, _work)


def exchange(draw: Draw) -> Exchange:
    """One word problem; a person's name in it belongs to the split."""
    return draw.choice(_FAMILIES)(draw)
