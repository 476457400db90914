"""Short Python functions: the prompt has signature and docstring, the answer is the indented body.

Seven in ten functions walk over records and are put together from clauses (an empty argument, one or two
conditions, a value, what is collected), each a sentence of the docstring; the others are small families.
"""

from dataclasses import dataclass, field

from ltd.world.code_families import FAMILIES
from ltd.world.code_parts import CONSTANT_TESTS, LABELS, QUALIFIERS, RECORDS, Function
from ltd.world.conversation import Draw, Exchange, split_of


@dataclass
class _Loop:
    """A function over records while it is put together."""

    plural: str
    item: str
    attributes: tuple[str, ...]
    parameters: list[str] = field(default_factory=list)
    doc: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


def _guard(draw: Draw, loop: _Loop) -> None:
    kind = draw.number(0, 2)
    if kind == 0:
        loop.doc.append(f"Raise ValueError if {loop.plural} is empty.")
        loop.before += [f"if not {loop.plural}:", f'    raise ValueError("{loop.plural} must not be empty")']
    elif kind == 1:
        fallback = draw.choice(["None", "0", "-1"])
        loop.doc.append(f"Return {fallback} if {loop.plural} is empty.")
        loop.before += [f"if not {loop.plural}:", f"    return {fallback}"]


def _conditions(draw: Draw, loop: _Loop) -> None:
    """Up to two tests of attributes; records that fail one are passed over."""
    for attribute in draw.sample(loop.attributes, draw.choice([0, 1, 1, 2])):
        words, operator = draw.choice(CONSTANT_TESTS)
        limit = str(draw.number(1, 99))
        if draw.chance(0.4):
            limit = f"{draw.choice(['limit', 'bound', 'allowed'])}_{attribute}"
            loop.parameters.append(limit)
        loop.doc.append(f"Skip every {loop.item} whose {attribute} is {words} {limit}.")
        loop.inside += [f'if {loop.item}["{attribute}"] {operator} {limit}:', "    continue"]


def _value(draw: Draw, loop: _Loop) -> tuple[str, str]:
    """The expression that is collected and the name the docstring gives it."""
    attribute = draw.choice(loop.attributes)
    expression = f'{loop.item}["{attribute}"]'
    kind = draw.number(0, 3)
    if kind == 0:
        other = draw.choice([each for each in loop.attributes if each != attribute])
        loop.inside.append(f'value = {expression} * {loop.item}["{other}"]')
        return "value", f"{attribute} times {other}"
    if kind == 1:
        factor = draw.number(2, 20)
        loop.inside.append(f"value = {expression} * {factor}")
        return "value", f"{attribute} times {factor}"
    return expression, attribute


def _sum(draw: Draw, loop: _Loop, value: str, named: str) -> str:
    loop.before.append("total = 0")
    loop.inside.append(f"total += {value}")
    kind = draw.number(0, 2)
    if kind == 0:
        loop.before.append("count = 0")
        loop.inside.append("count += 1")
        loop.after.append("return total / count if count else 0")
        return f"Return the average {named} of the {loop.plural}."
    if kind == 1:
        digits = draw.number(1, 4)
        loop.after.append(f"return round(total, {digits})")
        return f"Return the total {named} of the {loop.plural}, rounded to {digits} digits."
    loop.after.append("return total")
    return f"Return the total {named} of the {loop.plural}."


def _list(draw: Draw, loop: _Loop, value: str, named: str) -> str:
    result = draw.leaning(["result", "found", "selected"], loop.plural)
    loop.before.append(f"{result} = []")
    loop.inside.append(f"{result}.append({value})")
    order = draw.choice(["", "sorted", "sorted in reverse"])
    call = {
        "": result,
        "sorted": f"sorted({result})",
        "sorted in reverse": f"sorted({result}, reverse=True)",
    }[order]
    loop.after.append(f"return {call}")
    return f"Return a list of the {named} of the {loop.plural}{', ' + order if order else ''}."


def _mapping(draw: Draw, loop: _Loop, value: str, named: str) -> str:
    label = draw.choice(LABELS)
    loop.before.append("groups = {}")
    loop.inside.append(f'{label} = {loop.item}["{label}"]')
    loop.after.append("return groups")
    if draw.chance(0.5):
        loop.inside += [
            f"if {label} not in groups:",
            f"    groups[{label}] = []",
            f"groups[{label}].append({value})",
        ]
        return f"Map each {label} to a list of the {named} of its {loop.plural}."
    loop.inside.append(f"groups[{label}] = groups.get({label}, 0) + {value}")
    return f"Map each {label} to the total {named} of its {loop.plural}."


def _best(draw: Draw, loop: _Loop, value: str, named: str) -> str:
    word, operator = draw.choice([("largest", ">"), ("smallest", "<")])
    loop.before += ["best = None", f"best_{loop.item} = None"]
    loop.inside += [f"if best is None or {value} {operator} best:", f"    best = {value}"]
    loop.inside.append(f"    best_{loop.item} = {loop.item}")
    loop.after.append(f"return best_{loop.item}")
    return f"Return the {loop.item} with the {word} {named}."


_COLLECTORS = {"total": _sum, "list": _list, "map": _mapping, "best": _best}


def _records(draw: Draw) -> Function:
    loop = _Loop(*draw.choice(RECORDS))
    category = draw.choice(tuple(_COLLECTORS))
    _guard(draw, loop)
    _conditions(draw, loop)
    value, named = _value(draw, loop)
    summary = _COLLECTORS[category](draw, loop, value, named)
    verb = draw.choice(
        {"total": ("sum", "measure"), "list": ("list", "select")}.get(category, ("find", "get"))
    )
    name = f"{verb}_{draw.choice(QUALIFIERS)}_{loop.plural}_{named.split()[0]}"
    body = [
        *loop.before,
        f"for {loop.item} in {loop.plural}:",
        *("    " + line for line in loop.inside),
        *loop.after,
    ]
    return Function(category, name, ", ".join([loop.plural, *loop.parameters]), [summary, *loop.doc], body)


def exchange(draw: Draw) -> Exchange:
    """One function to complete; the function's name belongs to the split."""
    while True:
        function = _records(draw) if draw.chance(0.7) else draw.choice(FAMILIES)(draw)
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
