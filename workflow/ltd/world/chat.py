"""Two-turn conversations: the second question needs the first answer."""

from ltd.world import topics
from ltd.world.conversation import Draw, Exchange
from ltd.world.lexicon import WEEKDAYS
from ltd.world.names import ending, people, person, place


def _trip(draw: Draw) -> Exchange:
    name, town = person(draw), place(draw)
    days = draw.number(2, 3)
    sights = draw.leaning_sample(topics.SIGHTS, days, ending(town))
    ask = draw.phrase(
        f"Hi, I am {name}. I have {days} days in {town}. What should I do?",
        f"Hello! My name is {name} and I will spend {days} days in {town}. Can you make a plan?",
        held_out=f"Hello, {name} here. What can I do in {town}? I have {days} days.",
    )
    lines = [f"On day {i + 1} you could {do}, because {why}." for i, (do, why) in enumerate(sights)]
    answer = f"Hello {name}! {town} is a good choice. " + " ".join(lines) + " Have a nice trip!"
    day = draw.number(1, days)
    if draw.chance(0.5):
        instead, why = draw.leaning(topics.INDOORS, sights[day - 1][0])
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
    name, relation = person(draw), draw.choice(topics.RELATIONS)
    hobby = draw.choice(list(topics.HOBBIES))
    gifts = draw.leaning_sample(topics.HOBBIES[hobby], 2, relation)
    # Odd and even, so that one of them is cheaper.
    prices = [draw.leaning(range(low, 40, 2), gift) for low, (gift, _) in zip((5, 6), gifts, strict=True)]
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
            f"{gifts[1 - cheap][0]} costs about {prices[1 - cheap]} coins. "
            f"I am sure that {name} will like it."
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
    problem, restated, cause, fix, other_cause, other_fix = draw.choice(topics.TROUBLES)
    days = draw.leaning(range(2, 10), cause)
    if draw.leaning([True, False], ending(name)):
        cause, fix, other_cause, other_fix = other_cause, other_fix, cause, fix
    ask = draw.phrase(
        f"Hi, this is {name}. I have a problem: {problem}. What can I do?",
        f"I am {name} and I need help, because {problem}. What is wrong?",
        held_out=f"Can you help me? My name is {name}, and {problem}.",
    )
    answer = (
        f"I am sorry to hear that, {name}. If {restated}, there are "
        f"two common reasons. Perhaps {cause}. In this case, {fix}. It may also be that {other_cause}. "
        f"Then you should {other_fix}."
    )
    if draw.chance(0.5):
        follow = "I tried the first idea, but it did not help."
        second = (
            f"Then the reason is probably that {other_cause}, {name}. Please {other_fix} and wait for "
            f"{days} days. If this does not help, ask someone who can have a look at it."
        )
    else:
        follow = "Which reason should I check first?"
        second = (
            f"First check whether {cause}, {name}, because this is easy to see. If so, {fix}. If not, "
            f"{other_fix}, and everything should be fine in {days} days."
        )
    return Exchange("trouble", (ask, follow), (answer, second))


def _story(draw: Draw) -> Exchange:
    name, other = people(draw, 2)
    animal, friend = draw.sample(topics.ANIMALS, 2)
    trait = draw.choice(topics.TRAITS)
    found, spot = draw.leaning(topics.FINDS, animal), draw.leaning(topics.SPOTS, trait)
    time = draw.leaning(topics.TIMES, ending(name))
    deed, end = draw.leaning(topics.DEEDS, animal, trait)
    ask = draw.phrase(
        f"Tell me a short story about a {trait} {animal} called {name}.",
        f"Please write a little story. The hero is {name}, a {trait} {animal}.",
        held_out=f"I would like to hear a story about {name}, a {trait} {animal}.",
    )
    answer = (
        f"Once there was a {trait} {animal} called {name}. One {time} "
        f"{name} went for a walk and found {found} {spot}. The {animal} {deed}, and {end}. "
        f"From that day on, {name} was not so {trait} any more."
    )
    if draw.chance(0.5):
        follow = f"What did {name} find, and where?"
        second = (
            f"{name} found {found}. It was lying {spot}, and {name} saw it while going for a walk. "
            f"Later the {animal} {deed}, and {end}. It was a good day for a {trait} {animal}."
        )
    else:
        follow = f"Please tell it again with another hero: {other}, the {friend}."
        second = (
            f"Once there was a {trait} {friend} called {other}. One {time} {other} went for a walk "
            f"and found {found} {spot}. The {friend} {deed}, and {end}. "
            f"From that day on, {other} was not so {trait} any more."
        )
    return Exchange("story", (ask, follow), (answer, second))


def _message(draw: Draw) -> Exchange:
    name, town = person(draw), place(draw)
    day, other_day = draw.sample(WEEKDAYS, 2)
    event = draw.choice(topics.EVENTS)
    hour, other_hour = draw.sample(range(1, 12), 2)
    bring = draw.leaning(topics.ITEMS_TO_BRING, event)
    ask = draw.phrase(
        f"Write a message to {name}: {event} on {day} at {hour} in {town}.",
        f"Please invite {name} to a {event} in {town} on {day} at {hour}.",
        held_out=f"I want to invite {name}. It is a {event} in {town}, on {day} at {hour}.",
    )
    text = (
        "Dear {name}, I would like to invite you to a {event} in {town}. It takes place on {day} and "
        "starts at {hour} o'clock. Please bring {bring}. I look forward to seeing you there."
    )
    fields = {"name": name, "event": event, "town": town, "day": day, "hour": hour, "bring": bring}
    if draw.chance(0.5):
        follow, changed = f"Please change the day to {other_day}.", {"day": other_day}
    else:
        follow, changed = f"It starts at {other_hour}. Can you correct that?", {"hour": other_hour}
    return Exchange("message", (ask, follow), (text.format(**fields), text.format(**fields | changed)))


def _machine(draw: Draw) -> Exchange:
    name = person(draw)
    age = draw.number(5, 12)
    machine, first, does, second, then, result = draw.choice(topics.MACHINES)
    ask = draw.phrase(
        f"How does a {machine} work? Please explain it to {name}, who is {age} years old.",
        f"{name} wants to know how a {machine} works. Can you explain it?",
        held_out=f"Explain to {name} how a {machine} works.",
    )
    minutes = draw.leaning(range(2, 10), machine)
    answer = (
        f"Of course! A {machine} is easy to understand, {name}. First, {first} {does}. Because "
        f"of this, {second} {then}. In the end, {result}. You can see this in {minutes} minutes "
        f"if you watch it closely."
    )
    if draw.chance(0.5):
        follow = f"What happens if {second} is broken?"
        cost = draw.leaning(range(2, 30), second)
        follow_answer = (
            f"If {second} is broken, it does not help that {first} {does}. The {machine} does not "
            f"work any more and must be repaired, {name}. A new part costs about {cost} coins."
        )
    else:
        follow = "Please say it in one sentence."
        follow_answer = (
            f"In a {machine}, {first} {does}, so {second} {then}, and that is why {result}, {name}. "
            f"It takes only {minutes} minutes to see it."
        )
    return Exchange("machine", (ask, follow), (answer, follow_answer))


_FAMILIES = (_trip, _gift, _trouble, _story, _message, _machine)


def exchange(draw: Draw) -> Exchange:
    """One conversation of two turns; a person's name in the first turn belongs to the split."""
    return draw.choice(_FAMILIES)(draw)
