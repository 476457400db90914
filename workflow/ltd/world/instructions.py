"""Single instructions: tips, recipes, sorting, rewriting, describing, planning, grouping."""

from ltd.world import lexicon, topics
from ltd.world.conversation import Draw, Exchange
from ltd.world.names import ending, people, person, place


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _numbered(lines: list[str]) -> str:
    return "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))


def _tips(draw: Draw) -> Exchange:
    name, friend = people(draw, 2)
    job, goal = draw.choice(lexicon.JOBS), draw.choice(tuple(topics.TIPS))
    count, word = draw.choice([(3, "three"), (4, "four")])
    ask = draw.phrase(
        f"Give {word} tips for {name}, a {job} who wants to {goal} with {friend}.",
        f"{name} is a {job} and wants to {goal} with {friend}. List {word} tips.",
        held_out=f"List {word} things that could help {name}, a {job}, to {goal} with {friend}.",
    )
    chosen = draw.leaning_sample(topics.TIPS[goal], count, job)
    lines = [f"{tip} {draw.leaning(topics.TIP_ENDINGS, job, tip)}" for tip in chosen]
    fields = {"count": draw.leaning(range(2, 10), goal), "friend": friend}
    tips = _numbered([_sentence(line.format(**fields)) for line in lines])
    best = draw.leaning(range(1, count + 1), job)
    answer = f"Here are {word} tips for {name} to {goal}:\n{tips}\nFor a {job}, tip {best} is the easiest."
    return Exchange("tips", (ask,), (answer,))


def _recipe(draw: Draw) -> Exchange:
    dish, main, second = (
        draw.choice(tuple(topics.DISHES)),
        draw.choice(topics.MAINS),
        draw.choice(topics.SECONDS),
    )
    fields = {"main": main, "second": second, "spice": draw.leaning(topics.SPICES, main)}
    fields["side"] = draw.leaning(topics.SIDES, dish, second)
    fields["short"] = draw.leaning(range(2, 10), dish, second)
    fields["long"] = draw.leaning(range(10, 50, 5), dish, main)
    name = person(draw)
    ask = draw.phrase(
        f"Write a recipe for a {main} {dish} with {second} for {name}.",
        f"{name} has {main} and {second} at home. How can {name} make a {dish}?",
        held_out=f"{name} would like to cook a {main} {dish} with {second}. Write down the steps.",
    )
    steps = _numbered([_sentence(step.format(**fields)) for step in topics.DISHES[dish]])
    answer = f"{main.title()} {dish} with {second}:\n{steps}\nEnjoy your meal, {name}!"
    return Exchange("recipe", (ask,), (answer,))


def _sort(draw: Draw) -> Exchange:
    if draw.chance(0.5):
        names = people(draw, draw.number(4, 6))
        ordered = sorted(names)
        ask = draw.phrase(
            f"Sort these names: {', '.join(names)}.",
            f"Put these names into alphabetical order: {', '.join(names)}.",
            held_out=f"What is the alphabetical order of {', '.join(names)}?",
        )
        answer = (
            f"In alphabetical order the names are:\n{_numbered(ordered)}\n"
            f"The first name is {ordered[0]} and the last name is {ordered[-1]}."
        )
        return Exchange("sort", (ask,), (answer,))
    names = people(draw, draw.number(3, 5))
    ages = draw.sample(range(5, 80), len(names))
    ordered = sorted(zip(ages, names, strict=True))
    listed = ", ".join(f"{name} is {age}" for name, age in zip(names, ages, strict=True))
    ask = f"{listed}. Sort them by age, the youngest first."
    lines = _numbered([f"{name} ({age})" for age, name in ordered])
    answer = (
        f"From the youngest to the oldest:\n{lines}\n"
        f"The youngest is {ordered[0][1]} and the oldest is {ordered[-1][1]}."
    )
    return Exchange("sort", (ask,), (answer,))


def _rewrite(draw: Draw) -> Exchange:
    first, second = people(draw, 2)
    actions = draw.sample(topics.ACTIONS, 4)
    day = draw.choice(lexicon.WEEKDAYS)
    forms = {
        "past tense": [f"{past} {rest}" for _, past, _, rest in actions],
        "future": [f"will {plain} {rest}" for _, _, plain, rest in actions],
        "present tense": [f"{now} {rest}" for now, _, _, rest in actions],
        "negative": [f"does not {plain} {rest}" for _, _, plain, rest in actions],
    }
    wanted = draw.choice(["past tense", "future", "negative"])
    pattern = "On {day} {first} {0}. {second} {1} and {2}. In the evening {first} {3}."
    given = pattern.format(*forms["present tense"], day=day, first=first, second=second)
    if wanted == "negative":
        pattern = "On {day} {first} {0}. {second} {1} and {second} {2}. In the evening {first} {3}."
    changed = pattern.format(*forms[wanted], day=day, first=first, second=second)
    ask = draw.phrase(
        f"Rewrite this text in the {wanted}: {given}",
        f"Put the text into the {wanted}. {given}",
        held_out=f"{given} Write this again in the {wanted}.",
    )
    answer = f"Here is the text in the {wanted}: {changed}"
    return Exchange("rewrite", (ask,), (answer,))


def _describe(draw: Draw) -> Exchange:
    adjective, thing, town = draw.choice(lexicon.ADJECTIVES), draw.choice(lexicon.THINGS), place(draw)
    ask = draw.phrase(
        f"Describe the {adjective} {thing} of {town}.",
        f"Write a few sentences about the {adjective} {thing} in {town}.",
        held_out=f"In {town} there is a {adjective} {thing}. What is it like?",
    )
    details = [
        draw.leaning(topics.LOOKS, adjective),
        draw.leaning(topics.SOUNDS, thing),
        draw.leaning(topics.FEELINGS, ending(town)),
    ]
    fields = {
        "colour": draw.leaning(lexicon.COLOURS, thing),
        "adjective": draw.leaning(lexicon.ADJECTIVES, adjective, "look"),
    }
    looks, sound, feeling = (detail.format(**fields) for detail in details)
    answer = (
        f"The {adjective} {thing} of {town} stands {draw.leaning(topics.STANDS, adjective, thing)}. "
        f"If you look at it closely, {looks}. Sometimes {sound}, and {feeling}. "
        f"It is the {draw.leaning(lexicon.ADJECTIVES, thing, 'heart')} heart of {town}."
    )
    return Exchange("describe", (ask,), (answer,))


def _plan(draw: Draw) -> Exchange:
    name, town = person(draw), place(draw)
    likes = draw.sample(tuple(topics.LIKES), 2)
    ask = draw.phrase(
        f"Plan a day in {town} for {name}, who likes {likes[0]} and {likes[1]}.",
        f"{name} likes {likes[0]} and {likes[1]}. Make a plan for a day in {town}.",
        held_out=f"What could {name} do for a day in {town}? {name} likes {likes[0]} and {likes[1]}.",
    )
    first = draw.leaning(topics.LIKES[likes[0]], ending(town))
    second = draw.leaning(topics.LIKES[likes[1]], ending(town))
    left = [like for each in likes for like in topics.LIKES[each] if like not in (first, second)]
    third, hour = draw.leaning(left, *likes), draw.leaning((12, 13, 14), ending(name))
    lines = [
        f"Morning: {name} can {first}.",
        f"Afternoon: After lunch at {hour} o'clock, it is time to {second}.",
        f"Evening: At the end of the day {name} can {third}.",
        f"So {name} sees both {likes[0]} and {likes[1]} in {town}.",
    ]
    return Exchange("plan", (ask,), (f"A day in {town} for {name}:\n" + "\n".join(lines),))


def _group(draw: Draw) -> Exchange:
    name = person(draw)
    kinds = draw.sample(tuple(topics.GROUPS), draw.number(2, 3))
    members = {kind: draw.sample(topics.GROUPS[kind], draw.number(2, 3)) for kind in kinds}
    words = [word for kind in kinds for word in members[kind]]
    draw.rng.shuffle(words)
    wanted = ", ".join(kinds[:-1]) + f" and {kinds[-1]}"
    ask = draw.phrase(
        f"{name} has these words: {', '.join(words)}. Group them into {wanted}.",
        f"Help {name} to group the words {', '.join(words)} into {wanted}.",
        held_out=f"{name} must sort {', '.join(words)} into the groups {wanted}.",
    )
    lines = [
        f"{kind.title()}: {', '.join(word for word in words if word in members[kind])}" for kind in kinds
    ]
    lines.insert(0, f"These are the groups for {name}:")
    lines.append(f"There are {len(words)} words in {len(kinds)} groups, {name}.")
    return Exchange("group", (ask,), ("\n".join(lines),))


_FAMILIES = (_tips, _recipe, _sort, _rewrite, _describe, _plan, _group)


def exchange(draw: Draw) -> Exchange:
    """One instruction and its answer; a name in the instruction belongs to the split."""
    return draw.choice(_FAMILIES)(draw)
