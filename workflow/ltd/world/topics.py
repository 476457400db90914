"""What chat and instructions talk about: tips, dishes, sights, presents, troubles and the like."""

from ltd.world.lexicon import COLOURS, phrases, words

TIPS = {
    "learn a language": phrases(
        "learn ten new words; talk to other people; listen to songs; read easy books; write a short diary"
    ),
    "save money": phrases(
        "write down what you spend; cook at home; buy used things; compare prices; walk to work"
    ),
    "sleep better": phrases(
        "go to bed early; keep the room dark and cool; drink no coffee; read a calm book; put your phone away"
    ),
    "keep plants healthy": phrases(
        "water them in the morning; give them enough light; use good soil; cut off dry leaves; turn the pots"
    ),
    "get fit": phrases(
        "take the stairs; go for a run; stretch your legs; drink enough water; train with a friend"
    ),
    "speak in public": phrases(
        "practise in front of a mirror; look at the listeners; speak slowly; use short notes; breathe deeply"
    ),
    "travel cheaply": phrases(
        "book early; travel at night; carry only one bag; eat where local people eat; stay with friends"
    ),
    "study well": phrases(
        "make a plan; take short breaks; explain the topic to a friend; find a quiet place; "
        "repeat old lessons"
    ),
    "keep a house tidy": phrases(
        "put things back at once; clean one room; give away old things; use boxes for small things; wash up"
    ),
    "paint a picture": phrases(
        "start with a light sketch; mix a few colours; let each layer dry; look at it from far away; "
        "use a large brush"
    ),
}
TIP_ENDINGS = phrases(
    "at least {count} times a week; every day; for {count} minutes at a time; even if you are tired; "
    "as soon as you can; before you do anything else; together with {friend}; whenever you have time"
)
DISHES = {
    "soup": phrases(
        "cut the {main} and the {second} into small pieces; "
        "fry them in a pot with some oil for {short} minutes; "
        "add water and {spice} and cook the soup for {long} minutes; serve it hot with {side}"
    ),
    "salad": phrases(
        "wash the {main} and cut it into thin slices; mix it with the {second} in a large bowl; "
        "add oil, lemon juice and {spice}; let the salad rest for {short} minutes; serve it with {side}"
    ),
    "pie": phrases(
        "make a simple dough and let it rest for {long} minutes; "
        "cook the {main} with the {second} for {short} minutes; "
        "fill the dough with it and add {spice}; bake the pie until it is golden; serve it with {side}"
    ),
    "stew": phrases(
        "heat some oil in a heavy pot; fry the {main} for {short} minutes, then add the {second}; "
        "season it with {spice} and add a cup of water; let the stew simmer for {long} minutes; "
        "serve it with {side}"
    ),
    "omelette": phrases(
        "beat {short} eggs with a little milk; fry the {main} and the {second} in butter for {long} minutes; "
        "pour the eggs over them and add {spice}; fold the omelette; serve it with {side}"
    ),
}
MAINS = words("potato carrot pumpkin onion tomato mushroom spinach cabbage leek fennel")
SECONDS = words("rice cheese beans corn peas bacon chicken apple nuts lentils")
SPICES = words("pepper thyme ginger basil mint garlic parsley mustard salt curry")
SIDES = phrases("fresh bread; a green salad; a cup of tea; some rice; warm milk; sour cream")
GROUPS = {
    "animals": words("fox bear mouse owl rabbit goat duck wolf frog cat horse sheep"),
    "foods": words("bread cheese apple soup rice cake honey bean pie egg plum corn"),
    "tools": words("hammer saw needle spade brush ladder rope knife drill axe rake file"),
    "colours": COLOURS,
    "clothes": words("hat scarf coat shoe glove shirt belt sock dress boot cap jacket"),
}
# third person, past, plain form, rest of the phrase
ACTIONS = (
    ("paints", "painted", "paint", "the old gate"),
    ("waters", "watered", "water", "the roses"),
    ("opens", "opened", "open", "the window"),
    ("cleans", "cleaned", "clean", "the kitchen"),
    ("carries", "carried", "carry", "a heavy box"),
    ("writes", "wrote", "write", "a long letter"),
    ("bakes", "baked", "bake", "an apple cake"),
    ("repairs", "repaired", "repair", "the bicycle"),
    ("finds", "found", "find", "a small coin"),
    ("sings", "sang", "sing", "a quiet song"),
    ("feeds", "fed", "feed", "the chickens"),
    ("buys", "bought", "buy", "the newspaper"),
    ("builds", "built", "build", "a wooden boat"),
    ("sells", "sold", "sell", "fresh fish"),
)
LIKES = {
    "books": phrases("visit the bookshop; read in the library; listen to a writer"),
    "nature": phrases("walk through the forest; watch birds at the lake; climb the green hill"),
    "food": phrases("eat at the market; learn to bake bread; taste local cheese"),
    "music": phrases("listen to a street band; go to a concert; visit the piano maker"),
    "history": phrases("see the old castle; visit the town museum; walk along the city wall"),
    "sport": phrases("swim in the lake; rent a bicycle; play tennis in the park"),
}
LOOKS = phrases(
    "{colour} paint covers its sides; one side is {adjective} and {colour}; "
    "it looks {adjective} in the morning light; "
    "a {colour} ribbon hangs from it; its upper part is {adjective}"
)
SOUNDS = phrases(
    "it makes a {adjective} sound; you can hear it from far away; it is so quiet that you forget it; "
    "it creaks when it is cold; the wind sings in it"
)
FEELINGS = phrases(
    "people like to stand beside it; children are a little afraid of it; everyone in the town knows it; "
    "it reminds me of winter evenings; nobody knows who made it"
)
STANDS = phrases("near the market; in a narrow street; beside the river; in an empty room; behind the school")
# what to do, why
SIGHTS = (
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
INDOORS = (
    ("go to the town library", "it has a quiet reading room"),
    ("visit the science museum", "children can touch everything there"),
    ("see a film at the old cinema", "it shows a new film every day"),
    ("take a cooking class", "you can eat what you have made"),
    ("drink tea in the glass house", "you can watch the rain from there"),
)
# hobby: presents and why they fit
HOBBIES = {
    "painting": (
        ("a set of brushes", "every painter needs good brushes"),
        ("a sketch book", "it fits into any bag"),
        ("a box of colours", "no picture works without them"),
    ),
    "gardening": (
        ("a pair of gloves", "roses have sharp thorns"),
        ("a box of seeds", "it will last for a whole year"),
        ("a small spade", "it is light and strong"),
    ),
    "cooking": (
        ("a heavy pan", "it keeps the heat well"),
        ("a sharp knife", "cutting becomes easy and safe"),
        ("a jar of spices", "it makes every dish better"),
    ),
    "hiking": (
        ("a warm blanket", "the nights in the hills are cold"),
        ("a good map", "it shows every small path"),
        ("a water bottle", "walking makes you thirsty"),
    ),
    "reading": (
        ("a small lamp", "it is made for reading in bed"),
        ("a book of stories", "each one is short and funny"),
        ("a soft chair", "good books take a long time"),
    ),
    "cycling": (
        ("a bright light", "it makes night rides safe"),
        ("a strong lock", "it keeps the bicycle where it is"),
        ("a rain coat", "the weather changes fast"),
    ),
}
RELATIONS = words("sister brother uncle aunt friend neighbour cousin teacher")
# problem as the user says it, as the answer says it, then twice a reason and its remedy
TROUBLES = (
    (
        *("my bread does not rise", "your bread does not rise"),
        *("the yeast is too old", "buy fresh yeast"),
        *("the kitchen is too cold", "let the dough rest near a warm oven"),
    ),
    (
        *("my bicycle squeaks", "your bicycle squeaks"),
        *("the chain is dry", "put some oil on the chain"),
        *("the brake touches the wheel", "move the brake a little to the side"),
    ),
    (
        *("my plants have yellow leaves", "your plants have yellow leaves"),
        *("they get too much water", "water them only once a week"),
        *("they need more light", "put them next to a window"),
    ),
    (
        *("I cannot sleep at night", "you cannot sleep at night"),
        *("the room is too bright", "use dark curtains"),
        *("the bed is too soft", "try a harder one"),
    ),
    (
        *("my computer is slow", "your computer is slow"),
        *("too many programs are open", "close what you do not need"),
        *("the disk is full", "delete some old files"),
    ),
    (
        *("my soup tastes of nothing", "your soup tastes of nothing"),
        *("there is not enough salt", "add salt in small steps"),
        *("it has not cooked long enough", "let it simmer for another hour"),
    ),
    (
        *("my door does not close", "your door does not close"),
        *("the wood is wet", "wait for dry weather"),
        *("a screw is loose", "tighten the screws of the hinge"),
    ),
    (
        *("my cat does not eat", "your cat does not eat"),
        *("the food is too cold", "warm the food a little"),
        *("the bowl is not clean", "wash the bowl every day"),
    ),
)
ANIMALS = words("fox bear mouse owl rabbit goat duck wolf frog cat")
TRAITS = words("brave shy clever hungry sleepy curious kind proud")
FINDS = phrases(
    "a golden key; a silver bell; an old map; a tiny door; a red kite; a lost shoe; a round stone"
)
SPOTS = phrases("under a tree; behind the mill; near the river; on a hill; in the snow; beside the road")
TIMES = phrases("morning; evening; day in winter; sunny day; night; afternoon")
DEEDS = (
    ("showed it to a friend", "together they learned what it was for"),
    ("took it home", "nobody there had ever seen such a thing"),
    ("hid it in a safe place", "every evening it was still there"),
    ("gave it to the miller", "the miller was very happy"),
    ("threw it into the water", "a big fish came up and said thank you"),
)
EVENTS = phrases("meeting; dinner; concert; lesson; birthday party; game; picnic; reading")
ITEMS_TO_BRING = phrases(
    "a cake; your notes; warm clothes; some drinks; a chair; good shoes; a friend; a camera"
)
# machine, first part, what it does, second part, what that does, result
MACHINES = (
    (
        "kettle",
        *("a metal plate", "gets hot"),
        *("the water above it", "starts to boil"),
        "you have hot water for tea",
    ),
    (
        "bicycle",
        *("the pedal", "pulls the chain"),
        *("the chain", "turns the back wheel"),
        "you move forward",
    ),
    (
        "windmill",
        *("the wind", "pushes the wings"),
        *("a long axle", "turns the mill stone"),
        "corn becomes flour",
    ),
    (
        "clock",
        *("a spring", "turns a small wheel"),
        *("the wheel", "moves the hands"),
        "you can read the time",
    ),
    ("fridge", *("a pump", "presses a gas"), *("the gas", "takes heat from inside"), "your food stays cold"),
    ("piano", *("each key", "lifts a small hammer"), *("the hammer", "hits a string"), "you hear a note"),
)
