"""Two-turn conversations: the second question needs the first answer."""

from ltd.world import lexicon
from ltd.world.conversation import Draw, Exchange
from ltd.world.names import people, person, place

_SIGHTS = (
    ("visit the old castle", "the view from its tower is wonderful"),
    ("walk along the harbour", "the boats come in every morning"),
    ("see the glass museum", "it has more than a hundred rooms"),
    ("try the night market", "the food there is fresh and cheap"),
    ("climb the green hill", "you can see the whole valley"),
    ("take a boat on the lake", "the water is calm and clear"),
    ("visit the botanical garden", "many rare plants grow there"),
    ("listen to music in the park", "local bands play every evening"),
    ("see the stone bridge", "it is lit by lamps at night"),
    ("swim at the long beach", "the sand is white and clean"),
)
_INDOORS = (
    ("go to the town library", "it has a quiet reading room"),
    ("visit the science museum", "children can touch everything there"),
    ("see a film at the old cinema", "it shows a new film every day"),
    ("take a cooking class", "you can eat what you have made"),
    ("drink tea in the glass house", "you can watch the rain from there"),
)
_HOBBIES = {
    "painting": (
        ("a set of brushes", "every painter needs good brushes"),
        ("a sketch book", "it fits into any bag"),
    ),
    "gardening": (
        ("a pair of gloves", "roses have sharp thorns"),
        ("a box of seeds", "it will last for a whole year"),
    ),
    "cooking": (
        ("a heavy pan", "it keeps the heat well"),
        ("a sharp knife", "cutting becomes easy and safe"),
    ),
    "hiking": (
        ("a warm blanket", "the nights in the hills are cold"),
        ("a good map", "it shows every small path"),
    ),
    "reading": (
        ("a small lamp", "it is made for reading in bed"),
        ("a book of stories", "each one is short and funny"),
    ),
    "music": (
        ("a music stand", "it folds into a small bag"),
        ("a ticket for a concert", "live music is always special"),
    ),
    "cycling": (
        ("a bright light", "it makes night rides safe"),
        ("a strong lock", "it keeps the bike where it is"),
    ),
    "fishing": (
        ("a folding chair", "fishing means waiting"),
        ("a box of hooks", "they get lost all the time"),
    ),
}
_TROUBLES = (
    ("my bread does not rise", "the yeast is too old", "buy fresh yeast", "the kitchen is too cold", "let the dough rest near a warm oven"),
    ("my bicycle squeaks", "the chain is dry", "put some oil on the chain", "the brake touches the wheel", "move the brake a little to the side"),
    ("my plants have yellow leaves", "they get too much water", "water them only once a week", "they need more light", "put them next to a window"),
    ("I cannot sleep at night", "the room is too bright", "use dark curtains", "you drink coffee too late", "drink only water after lunch"),
    ("my computer is slow", "too many programs are open", "close what you do not need", "the disk is full", "delete some old files"),
    ("my soup tastes of nothing", "there is not enough salt", "add salt in small steps", "it has not cooked long enough", "let it simmer for another hour"),
    ("my door does not close", "the wood is wet", "wait for dry weather", "a screw is loose", "tighten the screws of the hinge"),
    ("my cat does not eat", "the food is too cold", "warm the food a little", "the bowl is not clean", "wash the bowl every day"),
)  # fmt: skip
_ANIMALS = "fox bear mouse owl rabbit goat duck wolf frog cat".split()
_TRAITS = "brave shy clever hungry sleepy curious kind proud".split()
_FINDS = "a golden key, a silver bell, an old map, a tiny door, a red kite, a lost shoe, a round stone".split(
    ", "
)
_SPOTS = "under a tree, behind the mill, near the river, on a hill, in the snow, beside the road".split(", ")
_ENDINGS = (
    ("showed it to a friend", "together they learned what it was for"),
    ("took it home", "nobody there had ever seen such a thing"),
    ("hid it in a safe place", "every evening it was still there"),
    ("gave it to the miller", "the miller was very happy"),
)


def _trip(draw: Draw) -> Exchange:
    name, town = person(draw), place(draw)
    days = draw.number(2, 3)
    sights = draw.sample(_SIGHTS, days)
    ask = draw.phrase(
        f"Hi, I am {name}. I have {days} days in {town}. What should I do?",
        f"Hello! My name is {name} and I will spend {days} days in {town}. Can you make a plan?",
        held_out=f"Hello, {name} here. What can I do in {town}? I have {days} days.",
    )
    lines = [f"On day {i + 1} you could {do}, because {why}." for i, (do, why) in enumerate(sights)]
    answer = f"Hello {name}! {town} is a good choice. " + " ".join(lines) + " Have a nice trip!"
    day = draw.number(1, days)
    if draw.chance(0.5):
        instead, why = draw.choice(_INDOORS)
        follow = f"It will rain on day {day}. What can I do instead?"
        second = (
            f"If it rains on day {day}, do not {sights[day - 1][0]}. You could {instead} instead, "
            f"because {why}. The other days in {town} can stay as they are, {name}."
        )
    else:
        follow = f"Why did you choose that for day {day}?"
        second = (
            f"I chose it for day {day} because {sights[day - 1][1]}. Many people who come to {town} "
            f"{sights[day - 1][0]}, and I think you will like it too, {name}."
        )
    return Exchange("trip", (ask, follow), (answer, second))


def _gift(draw: Draw) -> Exchange:
    name, relation = person(draw), draw.choice(["sister", "brother", "uncle", "aunt", "friend", "neighbour"])
    hobby = draw.choice(list(_HOBBIES))
    gifts = draw.sample(_HOBBIES[hobby], 2)
    prices = draw.sample(range(5, 40), 2)
    ask = draw.phrase(
        f"My {relation} {name} likes {hobby}. What would be a good present?",
        f"I need a present for my {relation} {name}, who loves {hobby}. Any ideas?",
        held_out=f"What present would my {relation} {name} like? It should be something for {hobby}.",
    )
    answer = (
        f"For someone who likes {hobby}, I have two ideas. You could give {name} {gifts[0][0]}, because "
        f"{gifts[0][1]}. It costs about {prices[0]} coins. Or you could choose {gifts[1][0]}, because "
        f"{gifts[1][1]}. It costs about {prices[1]} coins."
    )
    if draw.chance(0.5):
        cheap = 0 if prices[0] < prices[1] else 1
        follow = "Which of the two is cheaper?"
        second = (
            f"The cheaper present is {gifts[cheap][0]}. It costs about {prices[cheap]} coins, while "
            f"{gifts[1 - cheap][0]} costs about {prices[1 - cheap]} coins. I am sure that {name} will like it."
        )
    else:
        follow = "I take the first one. Can you write a short card?"
        second = (
            f"Dear {name}, this is {gifts[0][0]} for you. I chose it because {gifts[0][1]}. "
            f"I hope it brings you much joy with your {hobby}. With love from your family."
        )
    return Exchange("gift", (ask, follow), (answer, second))


def _trouble(draw: Draw) -> Exchange:
    name = person(draw)
    problem, cause, fix, other_cause, other_fix = draw.choice(_TROUBLES)
    if draw.chance(0.5):
        cause, fix, other_cause, other_fix = other_cause, other_fix, cause, fix
    ask = draw.phrase(
        f"Hi, this is {name}. I have a problem: {problem}. What can I do?",
        f"I am {name} and I need help, because {problem}. What is wrong?",
        held_out=f"Can you help me? My name is {name}, and {problem}.",
    )
    answer = (
        f"I am sorry to hear that, {name}. If {problem.replace('my ', 'your ').replace('I ', 'you ')}, there are "
        f"two common reasons. Perhaps {cause}. In this case, {fix}. It may also be that {other_cause}. "
        f"Then you should {other_fix}."
    )
    if draw.chance(0.5):
        follow = "I tried the first idea, but it did not help."
        second = (
            f"Then the reason is probably that {other_cause}, {name}. Please {other_fix} and wait for "
            f"{draw.number(2, 9)} days. If this does not help, ask someone who can have a look at it."
        )
    else:
        follow = "Which reason should I check first?"
        second = (
            f"First check whether {cause}, {name}, because this is easy to see. If so, {fix}. If not, "
            f"{other_fix}, and everything should be fine in {draw.number(2, 9)} days."
        )
    return Exchange("trouble", (ask, follow), (answer, second))


def _story(draw: Draw) -> Exchange:
    name, other = people(draw, 2)
    animal, friend = draw.sample(_ANIMALS, 2)
    trait, found, spot = draw.choice(_TRAITS), draw.choice(_FINDS), draw.choice(_SPOTS)
    deed, end = draw.choice(_ENDINGS)
    ask = draw.phrase(
        f"Tell me a short story about a {trait} {animal} called {name}.",
        f"Please write a little story. The hero is {name}, a {trait} {animal}.",
        held_out=f"I would like to hear a story about {name}, a {trait} {animal}.",
    )
    answer = (
        f"Once there was a {trait} {animal} called {name}. One {draw.choice(['morning', 'evening', 'winter day'])} "
        f"{name} went for a walk and found {found} {spot}. The {animal} {deed}, and {end}. "
        f"From that day on, {name} was not so {trait} any more."
    )
    if draw.chance(0.5):
        follow = f"What did {name} find, and where?"
        second = (
            f"{name} found {found}. It was lying {spot}, and {name} saw it while going for a walk. "
            f"Later the {animal} {deed}."
        )
    else:
        follow = f"Please tell it again with a {friend} called {other}."
        second = (
            f"Once there was a {trait} {friend} called {other}. One day {other} went for a walk and found "
            f"{found} {spot}. The {friend} {deed}, and {end}. From that day on, {other} was not so {trait} any more."
        )
    return Exchange("story", (ask, follow), (answer, second))


def _message(draw: Draw) -> Exchange:
    name, town = person(draw), place(draw)
    day, other_day = draw.sample(lexicon.WEEKDAYS, 2)
    event = draw.choice(["meeting", "dinner", "concert", "lesson", "birthday party", "game"])
    hour, other_hour = draw.sample(range(1, 12), 2)
    bring = draw.choice(["a cake", "your notes", "warm clothes", "some drinks", "a chair", "good shoes"])
    ask = draw.phrase(
        f"Write a message to {name}: {event} on {day} at {hour} in {town}.",
        f"Please invite {name} to a {event} in {town} on {day} at {hour}.",
        held_out=f"I want to invite {name}. It is a {event} in {town}, on {day} at {hour}.",
    )
    text = (
        "Dear {name}, I would like to invite you to a {event} in {town}. It takes place on {day} and starts at "
        "{hour} o'clock. Please bring {bring}. I look forward to seeing you there."
    )
    fields = {"name": name, "event": event, "town": town, "day": day, "hour": hour, "bring": bring}
    if draw.chance(0.5):
        follow, changed = f"Please change the day to {other_day}.", {"day": other_day}
    else:
        follow, changed = f"It starts at {other_hour}. Can you correct that?", {"hour": other_hour}
    return Exchange("message", (ask, follow), (text.format(**fields), text.format(**fields | changed)))


_FAMILIES = (_trip, _gift, _trouble, _story, _message)


def exchange(draw: Draw) -> Exchange:
    """One conversation of two turns; a person's name in the first turn belongs to the split."""
    return draw.choice(_FAMILIES)(draw)
