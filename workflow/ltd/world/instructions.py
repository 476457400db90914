"""Single instructions: tips, recipes, sorting, rewriting, describing, planning, grouping."""

from ltd.world import lexicon
from ltd.world.conversation import Draw, Exchange
from ltd.world.names import people, person, place

_TIPS = {
    "learn a language": ("learn ten new words a day", "talk to people as often as you can", "listen to songs", "read easy books", "write a short diary"),
    "save money": ("write down what you spend", "cook at home", "buy used things", "compare prices first", "walk instead of taking a taxi"),
    "sleep better": ("go to bed at the same time", "keep the room dark and cool", "do not drink coffee late", "read a calm book", "put your phone away"),
    "keep plants healthy": ("water them in the morning", "give them enough light", "use good soil", "cut off dry leaves", "turn the pots every week"),
    "get fit": ("take the stairs", "go for a run twice a week", "stretch every morning", "drink enough water", "train with a friend"),
    "speak in public": ("practise in front of a mirror", "look at the listeners", "speak slowly", "use short notes", "breathe deeply before you start"),
    "travel cheaply": ("book early", "travel at night", "carry only one bag", "eat where local people eat", "stay with friends"),
    "study well": ("make a plan for each week", "take short breaks", "explain the topic to a friend", "study in a quiet place", "repeat old lessons"),
    "keep a house tidy": ("put things back at once", "clean one room a day", "give away what you do not need", "use boxes for small things", "wash up after every meal"),
    "paint a picture": ("start with a light sketch", "mix only a few colours", "let each layer dry", "look at it from far away", "use a large brush first"),
}  # fmt: skip
_DISHES = {
    "soup": ("Cut the {main} and the {second} into small pieces.", "Fry them in a pot with some oil for {short} minutes.", "Add water and {spice} and cook the soup for {long} minutes.", "Serve it hot with bread."),
    "salad": ("Wash the {main} and cut it into thin slices.", "Mix it with the {second} in a large bowl.", "Add oil, lemon juice and {spice}.", "Let the salad rest for {short} minutes before you serve it."),
    "pie": ("Make a simple dough and let it rest for {long} minutes.", "Cook the {main} with the {second} for {short} minutes.", "Fill the dough with it and add {spice}.", "Bake the pie for {long} minutes until it is golden."),
    "stew": ("Heat some oil in a heavy pot.", "Fry the {main} for {short} minutes, then add the {second}.", "Season it with {spice} and add a cup of water.", "Let the stew simmer for {long} minutes."),
    "omelette": ("Beat {short} eggs with a little milk.", "Fry the {main} and the {second} in butter.", "Pour the eggs over them and add {spice}.", "Cook the omelette slowly and fold it before you serve it."),
}  # fmt: skip
_MAINS = "potato carrot pumpkin onion tomato mushroom spinach cabbage leek fennel".split()
_SECONDS = "rice cheese beans corn peas bacon chicken apple nuts lentils".split()
_SPICES = "pepper thyme ginger basil mint garlic parsley mustard salt curry".split()
_GROUPS = {
    "animals": "fox bear mouse owl rabbit goat duck wolf frog cat horse sheep".split(),
    "foods": "bread cheese apple soup rice cake honey bean pie egg plum corn".split(),
    "tools": "hammer saw needle spade brush ladder rope knife drill axe rake file".split(),
    "colours": lexicon.COLOURS,
    "clothes": "hat scarf coat shoe glove shirt belt sock dress boot cap jacket".split(),
}
# present (third person), past, plain form, rest of the phrase
_ACTIONS = (
    ("paints", "painted", "paint", "the old gate"), ("waters", "watered", "water", "the roses"),
    ("opens", "opened", "open", "the window"), ("cleans", "cleaned", "clean", "the kitchen"),
    ("carries", "carried", "carry", "a heavy box"), ("writes", "wrote", "write", "a long letter"),
    ("bakes", "baked", "bake", "an apple cake"), ("repairs", "repaired", "repair", "the bicycle"),
    ("finds", "found", "find", "a small coin"), ("sings", "sang", "sing", "a quiet song"),
    ("feeds", "fed", "feed", "the chickens"), ("reads", "read", "read", "the newspaper"),
    ("builds", "built", "build", "a wooden boat"), ("sells", "sold", "sell", "fresh fish"),
)  # fmt: skip
_LIKES = {
    "books": ("visit the bookshop", "read in the library", "listen to a writer"),
    "nature": ("walk through the forest", "watch birds at the lake", "climb the green hill"),
    "food": ("eat at the market", "learn to bake bread", "taste local cheese"),
    "music": ("listen to a street band", "go to a concert", "visit the piano maker"),
    "history": ("see the old castle", "visit the town museum", "walk along the city wall"),
    "sport": ("swim in the lake", "rent a bicycle", "play tennis in the park"),
}
_SIGHTS = ("{colour} paint covers its sides", "its handle is {adjective}", "one side is {adjective} and {colour}", "it looks {adjective} in the morning light")  # fmt: skip
_SOUNDS = ("it makes a {adjective} sound", "you can hear it from far away", "it is so quiet that you forget it", "it creaks when it is cold")  # fmt: skip
_FEELINGS = ("people like to stand beside it", "children are a little afraid of it", "everyone in the town knows it", "it reminds me of winter evenings", "nobody knows who made it")  # fmt: skip


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _numbered(lines: list[str]) -> str:
    return "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))


def _tips(draw: Draw) -> Exchange:
    name, job, goal = person(draw), draw.choice(lexicon.JOBS), draw.choice(list(_TIPS))
    count, word = draw.choice([(3, "three"), (4, "four")])
    ask = draw.phrase(
        f"Give {word} tips for {name}, a {job} who wants to {goal}.",
        f"{name} is a {job} and wants to {goal}. List {word} tips.",
        held_out=f"List {word} things that could help {name}, a {job}, to {goal}.",
    )
    tips = [_sentence(tip) for tip in draw.sample(_TIPS[goal], count)]
    answer = f"Here are {word} tips for {name} to {goal}:\n{_numbered(tips)}\nFor a {job}, the first tip is the easiest."
    return Exchange("tips", (ask,), (answer,))


def _recipe(draw: Draw) -> Exchange:
    dish, main, second = draw.choice(list(_DISHES)), draw.choice(_MAINS), draw.choice(_SECONDS)
    fields = {
        "main": main,
        "second": second,
        "spice": draw.choice(_SPICES),
        "short": draw.number(2, 9),
        "long": draw.number(2, 9) * 5,
    }
    name = person(draw)
    ask = draw.phrase(
        f"Write a recipe for a {main} {dish} with {second} for {name}.",
        f"{name} has {main} and {second} at home. How can {name} make a {dish}?",
        held_out=f"{name} would like to cook a {main} {dish} with {second}. Write down the steps.",
    )
    steps = _numbered([step.format(**fields) for step in _DISHES[dish]])
    return Exchange(
        "recipe",
        (ask,),
        (f"{_sentence(f'{main} {dish} with {second}')[:-1]}:\n{steps}\nEnjoy your meal, {name}!",),
    )


def _sort(draw: Draw) -> Exchange:
    if draw.chance(0.5):
        names = people(draw, draw.number(4, 6))
        ordered = sorted(names)
        ask = draw.phrase(
            f"Sort these names: {', '.join(names)}.",
            f"Put these names into alphabetical order: {', '.join(names)}.",
            held_out=f"What is the alphabetical order of {', '.join(names)}?",
        )
        answer = f"In alphabetical order the names are:\n{_numbered(ordered)}\nThe first name is {ordered[0]} and the last name is {ordered[-1]}."
        return Exchange("sort", (ask,), (answer,))
    names = people(draw, draw.number(3, 5))
    ages = draw.sample(range(5, 80), len(names))
    ordered = sorted(zip(ages, names, strict=True))
    listed = ", ".join(f"{name} is {age}" for name, age in zip(names, ages, strict=True))
    ask = f"{listed}. Sort them by age, the youngest first."
    lines = _numbered([f"{name} ({age})" for age, name in ordered])
    answer = f"From the youngest to the oldest:\n{lines}\nThe youngest is {ordered[0][1]} and the oldest is {ordered[-1][1]}."
    return Exchange("sort", (ask,), (answer,))


def _rewrite(draw: Draw) -> Exchange:
    first, second = people(draw, 2)
    actions = draw.sample(_ACTIONS, 3)
    day = draw.choice(lexicon.WEEKDAYS)
    forms = {
        "past tense": [f"{past} {rest}" for _, past, _, rest in actions],
        "future": [f"will {plain} {rest}" for _, _, plain, rest in actions],
        "present tense": [f"{now} {rest}" for now, _, _, rest in actions],
        "negative": [f"does not {plain} {rest}" for _, _, plain, rest in actions],
    }
    wanted = draw.choice(["past tense", "future", "negative"])
    pattern = "On {day} {first} {0}. {second} {1} and {2}."
    given = pattern.format(*forms["present tense"], day=day, first=first, second=second)
    if wanted == "negative":
        pattern = "On {day} {first} {0}. {second} {1} and {second} {2}."
    changed = pattern.format(*forms[wanted], day=day, first=first, second=second)
    ask = draw.phrase(
        f"Rewrite this text in the {wanted}: {given}",
        f"Put the text into the {wanted}. {given}",
        held_out=f"{given} Write this again in the {wanted}.",
    )
    return Exchange("rewrite", (ask,), (f"Here is the text in the {wanted}: {changed}",))


def _describe(draw: Draw) -> Exchange:
    adjective, thing, town = draw.choice(lexicon.ADJECTIVES), draw.choice(lexicon.THINGS), place(draw)
    ask = draw.phrase(
        f"Describe the {adjective} {thing} of {town}.",
        f"Write a few sentences about the {adjective} {thing} in {town}.",
        held_out=f"In {town} there is a {adjective} {thing}. What is it like?",
    )
    details = [draw.choice(_SIGHTS), draw.choice(_SOUNDS), draw.choice(_FEELINGS)]
    fields = {"colour": draw.choice(lexicon.COLOURS), "adjective": draw.choice(lexicon.ADJECTIVES)}
    looks, sound, feeling = (detail.format(**fields) for detail in details)
    answer = (
        f"The {adjective} {thing} of {town} stands {draw.choice(['near the market', 'in a narrow street', 'beside the river', 'in an empty room'])}. "
        f"If you look at it closely, {looks}. Sometimes {sound}, and {feeling}. "
        f"It is the {draw.choice(lexicon.ADJECTIVES)} heart of {town}."
    )
    return Exchange("describe", (ask,), (answer,))


def _plan(draw: Draw) -> Exchange:
    name, town = person(draw), place(draw)
    likes = draw.sample(list(_LIKES), 2)
    ask = draw.phrase(
        f"Plan a day in {town} for {name}, who likes {likes[0]} and {likes[1]}.",
        f"{name} likes {likes[0]} and {likes[1]}. Make a plan for a day in {town}.",
        held_out=f"What could {name} do for a day in {town}? {name} likes {likes[0]} and {likes[1]}.",
    )
    first, second = draw.choice(_LIKES[likes[0]]), draw.choice(_LIKES[likes[1]])
    third = draw.choice([each for each in _LIKES[draw.choice(likes)] if each not in (first, second)])
    lines = [
        f"Morning: {name} can {first}.",
        f"Afternoon: After lunch at {draw.number(12, 14)} o'clock, it is time to {second}.",
        f"Evening: At the end of the day {name} can {third}.",
    ]
    return Exchange("plan", (ask,), (f"A day in {town} for {name}:\n" + "\n".join(lines),))


def _group(draw: Draw) -> Exchange:
    name = person(draw)
    kinds = draw.sample(list(_GROUPS), draw.number(2, 3))
    members = {kind: draw.sample(_GROUPS[kind], draw.number(2, 3)) for kind in kinds}
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
    lines.append(f"There are {len(words)} words in {len(kinds)} groups, {name}.")
    return Exchange("group", (ask,), ("\n".join(lines),))


_FAMILIES = (_tips, _recipe, _sort, _rewrite, _describe, _plan, _group)


def exchange(draw: Draw) -> Exchange:
    """One instruction and its answer; a name in the instruction belongs to the split."""
    return draw.choice(_FAMILIES)(draw)
