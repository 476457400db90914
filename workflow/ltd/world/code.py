"""Short Python functions: the prompt has signature and docstring, the answer is the indented body."""

from dataclasses import dataclass

from ltd.world.conversation import Draw, Exchange, split_of

_RECORDS = (
    ("orders", "order", ("price", "weight", "amount")),
    ("books", "book", ("pages", "year", "price")),
    ("players", "player", ("score", "age", "level")),
    ("files", "file", ("size", "lines", "version")),
    ("rooms", "room", ("width", "height", "seats")),
    ("trips", "trip", ("distance", "hours", "cost")),
    ("boxes", "box", ("weight", "depth", "items")),
    ("users", "user", ("age", "visits", "points")),
    ("tasks", "task", ("hours", "level", "cost")),
    ("cars", "car", ("speed", "year", "doors")),
    ("fields", "field", ("width", "yield_rate", "rows")),
    ("songs", "song", ("length", "year", "plays")),
)
_LABELS = ("name", "group", "owner", "kind", "colour", "city")
_TESTS = (
    ("above", ">"),
    ("below", "<"),
    ("at least", ">="),
    ("at most", "<="),
    ("equal to", "=="),
    ("not", "!="),
)
_QUALIFIERS = "large old new active cheap open valid daily first local final extra main public".split()
_LISTS = (
    ("numbers", "number"),
    ("values", "value"),
    ("prices", "price"),
    ("scores", "score"),
    ("heights", "height"),
)
_TEXTS = (("words", "word"), ("names", "name"), ("lines", "line"), ("titles", "title"), ("keys", "key"))


@dataclass(frozen=True)
class _Function:
    category: str
    name: str
    parameters: str
    doc: list[str]
    body: list[str]


@dataclass(frozen=True)
class _Condition:
    words: str
    code: str
    parameter: str


def _condition(draw: Draw, item: str, attribute: str) -> _Condition:
    """A test of `item`'s attribute against a constant or against a parameter."""
    words, operator = draw.choice(_TESTS)
    if draw.chance(0.5):
        limit = draw.choice(["limit", "bound", "target", "threshold"])
        return _Condition(
            f"{attribute} is {words} {limit}", f'{item}["{attribute}"] {operator} {limit}', f", {limit}"
        )
    constant = draw.number(1, 99)
    return _Condition(
        f"{attribute} is {words} {constant}", f'{item}["{attribute}"] {operator} {constant}', ""
    )


def _guard(draw: Draw, plural: str, doc: list[str], body: list[str]) -> None:
    """Half of the functions say what happens to an empty argument."""
    kind = draw.number(0, 3)
    if kind == 0:
        doc.append(f"Raise ValueError if {plural} is empty.")
        body.extend([f"if not {plural}:", f'    raise ValueError("{plural} must not be empty")'])
    elif kind == 1:
        doc.append(f"Return None if {plural} is empty.")
        body.extend([f"if not {plural}:", "    return None"])


def _total(draw: Draw) -> _Function:
    (plural, item, attributes), name = draw.choice(_RECORDS), draw.choice(_QUALIFIERS)
    summed, tested = draw.sample(attributes, 2)
    test = _condition(draw, item, tested)
    doc, body = [f"Return the total {summed} of the {plural} whose {test.words}."], []
    _guard(draw, plural, doc, body)
    body += [
        "total = 0",
        f"for {item} in {plural}:",
        f"    if {test.code}:",
        f'        total += {item}["{summed}"]',
    ]
    digits = draw.number(0, 3)
    if digits:
        doc.append(f"Round the result to {digits} digits.")
    body.append(f"return round(total, {digits})" if digits else "return total")
    return _Function("total", f"total_{summed}_of_{name}_{plural}", plural + test.parameter, doc, body)


def _count(draw: Draw) -> _Function:
    plural, item, attributes = draw.choice(_RECORDS)
    test = _condition(draw, item, draw.choice(attributes))
    doc, body = [f"Count the {plural} whose {test.words}."], []
    _guard(draw, plural, doc, body)
    body += [
        "count = 0",
        f"for {item} in {plural}:",
        f"    if {test.code}:",
        "        count += 1",
        "return count",
    ]
    return _Function(
        "count", f"count_{draw.choice(_QUALIFIERS)}_{plural}", plural + test.parameter, doc, body
    )


def _select(draw: Draw) -> _Function:
    plural, item, attributes = draw.choice(_RECORDS)
    test, label = _condition(draw, item, draw.choice(attributes)), draw.choice(_LABELS)
    doc, body = [f"Return the {label} of all {plural} whose {test.words}."], []
    _guard(draw, plural, doc, body)
    if draw.chance(0.5):
        doc.append("The result is sorted.")
        last = "return sorted(result)"
    else:
        last = "return result"
    body += ["result = []", f"for {item} in {plural}:", f"    if {test.code}:"]
    body += [f'        result.append({item}["{label}"])', last]
    return _Function(
        "select", f"{label}_of_{draw.choice(_QUALIFIERS)}_{plural}", plural + test.parameter, doc, body
    )


def _group(draw: Draw) -> _Function:
    plural, item, attributes = draw.choice(_RECORDS)
    label, value = draw.choice(_LABELS), draw.choice(attributes)
    body = ["groups = {}", f"for {item} in {plural}:", f'    {label} = {item}["{label}"]']
    if draw.chance(0.5):
        doc = [f"Map each {label} to the list of the {value} of its {plural}."]
        body += [f"    if {label} not in groups:", f"        groups[{label}] = []"]
        body += [f'    groups[{label}].append({item}["{value}"])']
    else:
        doc = [f"Map each {label} to the sum of the {value} of its {plural}."]
        body += [f'    groups[{label}] = groups.get({label}, 0) + {item}["{value}"]']
    return _Function(
        "group", f"{draw.choice(_QUALIFIERS)}_{plural}_by_{label}", plural, doc, [*body, "return groups"]
    )


def _best(draw: Draw) -> _Function:
    plural, item, attributes = draw.choice(_RECORDS)
    value = draw.choice(attributes)
    word, operator = draw.choice([("largest", ">"), ("smallest", "<")])
    doc, body = [f"Return the {item} with the {word} {value}."], []
    _guard(draw, plural, doc, body)
    body += ["best = None", f"for {item} in {plural}:"]
    body += [
        f'    if best is None or {item}["{value}"] {operator} best["{value}"]:',
        f"        best = {item}",
    ]
    if draw.chance(0.4):
        label = draw.choice(_LABELS)
        doc[0] = f"Return the {label} of the {item} with the {word} {value}."
        body.append(f'return best["{label}"]')
    else:
        body.append("return best")
    return _Function("best", f"{word}_{value}_of_{draw.choice(_QUALIFIERS)}_{plural}", plural, doc, body)


def _scale(draw: Draw) -> _Function:
    plural, item = draw.choice(_LISTS)
    low, factor = draw.number(0, 20), draw.number(2, 9)
    high = low + draw.number(5, 79)
    doc = [f"Multiply the {plural} by {factor} and keep them between {low} and {high}."]
    body = ["result = []", f"for {item} in {plural}:", f"    {item} = {item} * {factor}"]
    body += [
        f"    if {item} < {low}:",
        f"        {item} = {low}",
        f"    if {item} > {high}:",
        f"        {item} = {high}",
    ]
    body += [f"    result.append({item})", "return result"]
    return _Function("scale", f"scale_{draw.choice(_QUALIFIERS)}_{plural}_{factor}", plural, doc, body)


def _running(draw: Draw) -> _Function:
    plural, item = draw.choice(_LISTS)
    start = draw.number(0, 50)
    name, verb = draw.choice(_QUALIFIERS), draw.choice(["sums", "products", "maxima"])
    step = {"sums": f"total + {item}", "products": f"total * {item}", "maxima": f"max(total, {item})"}[verb]
    doc = [f"Return the running {verb} of the {plural}, starting from {start}."]
    body = ["result = []", f"total = {start}", f"for {item} in {plural}:", f"    total = {step}"]
    body += ["    result.append(total)", "return result"]
    return _Function("running", f"running_{verb}_of_{name}_{plural}_{start}", plural, doc, body)


def _average(draw: Draw) -> _Function:
    plural, item = draw.choice(_LISTS)
    words, operator = draw.choice(_TESTS[:4])
    limit = draw.number(1, 99)
    doc, body = [f"Return the average of the {plural} that are {words} {limit}."], []
    fallback = draw.choice(["0", "None", "-1"])
    doc.append(f"Return {fallback} if there are none.")
    body += ["total = 0", "count = 0", f"for {item} in {plural}:", f"    if {item} {operator} {limit}:"]
    body += [f"        total += {item}", "        count += 1", "if count == 0:", f"    return {fallback}"]
    body.append("return total / count")
    return _Function("average", f"average_of_{draw.choice(_QUALIFIERS)}_{plural}_{limit}", plural, doc, body)


def _text(draw: Draw) -> _Function:
    plural, item = draw.choice(_TEXTS)
    change, call = draw.choice([("upper case", "upper"), ("lower case", "lower"), ("title case", "title")])
    mark, length = draw.choice(["-", "_", ", ", "/", ";"]), draw.number(2, 20)
    doc = [
        f"Join the {plural} in {change} with {mark!r}.",
        f"Leave out every {item} shorter than {length} characters.",
    ]
    body = [
        "parts = []",
        f"for {item} in {plural}:",
        f"    {item} = {item}.strip()",
        f"    if len({item}) < {length}:",
    ]
    body += ["        continue", f"    parts.append({item}.{call}())", f"return {mark!r}.join(parts)"]
    return _Function("text", f"join_{draw.choice(_QUALIFIERS)}_{plural}_{call}", plural, doc, body)


def _find(draw: Draw) -> _Function:
    plural, item, attributes = draw.choice(_RECORDS)
    test, missing = _condition(draw, item, draw.choice(attributes)), draw.choice(["-1", "None"])
    doc = [f"Return the index of the first {item} whose {test.words}.", f"Return {missing} if there is none."]
    body = [f"for index, {item} in enumerate({plural}):", f"    if {test.code}:", "        return index"]
    name = f"find_{draw.choice(_QUALIFIERS)}_{item}"
    return _Function("find", name, plural + test.parameter, doc, [*body, f"return {missing}"])


def _parse(draw: Draw) -> _Function:
    mark, comment = draw.choice(["=", ":", "->", "|"]), draw.choice(["#", ";", "//"])
    kind, call = draw.choice(
        [("an integer", "int(value)"), ("a number", "float(value)"), ("text", "value.strip()")]
    )
    doc = [f"Read lines of the form key{mark}value into a dictionary; each value is {kind}."]
    doc.append(f"Skip empty lines and lines that start with {comment!r}.")
    body = ["result = {}", "for line in lines:", "    line = line.strip()"]
    body += [f"    if not line or line.startswith({comment!r}):", "        continue"]
    body += [
        f"    key, value = line.split({mark!r}, 1)",
        f"    result[key.strip()] = {call}",
        "return result",
    ]
    name = f"parse_{draw.choice(_QUALIFIERS)}_{draw.choice(['settings', 'options', 'limits', 'sizes', 'labels'])}"
    return _Function("parse", name, "lines", doc, body)


def _halve(draw: Draw) -> _Function:
    item, divisor, limit = draw.choice(_LISTS)[1], draw.number(2, 9), draw.number(1, 50)
    doc = [f"Count how often {item} can be divided by {divisor} until it is at most {limit}."]
    body = [
        "steps = 0",
        f"while {item} > {limit}:",
        f"    {item} = {item} // {divisor}",
        "    steps += 1",
        "return steps",
    ]
    return _Function("while", f"{draw.choice(_QUALIFIERS)}_{item}_steps_{divisor}", item, doc, body)


_FAMILIES = (_total, _count, _select, _group, _best, _scale, _running, _average, _text, _find, _parse, _halve)


def exchange(draw: Draw) -> Exchange:
    """One function to complete; the function's name belongs to the split."""
    while True:
        function = draw.choice(_FAMILIES)(draw)
        if split_of(function.name) == draw.split:
            break
    lead = draw.phrase(
        "Complete this function.",
        "Write the body of this function.",
        held_out="Please complete the function below.",
    )
    doc = "\n    ".join(function.doc)
    prompt = f'{lead}\n\ndef {function.name}({function.parameters}):\n    """{doc}"""\n'
    return Exchange(function.category, (prompt,), ("\n".join("    " + line for line in function.body),))
