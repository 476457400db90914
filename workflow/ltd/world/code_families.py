"""Families of small functions over numbers and text."""

from ltd.world.code_parts import LABELS, LISTS, QUALIFIERS, RECORDS, TESTS, TEXTS, Function
from ltd.world.conversation import Draw


def _count(draw: Draw) -> Function:
    plural, item, attributes = draw.choice(RECORDS)
    first, second = draw.sample(attributes, 2)
    words, operator = draw.choice(TESTS)
    limit = draw.number(1, 99)
    doc = [f"Count the {plural} whose {first} is {words} {limit} or larger than their {second}."]
    body = ["count = 0", f"for {item} in {plural}:"]
    body += [f'    if {item}["{first}"] {operator} {limit} or {item}["{first}"] > {item}["{second}"]:']
    body += ["        count += 1", "return count"]
    return Function("count", f"count_{draw.choice(QUALIFIERS)}_{plural}_{first}", plural, doc, body)


def _scale(draw: Draw) -> Function:
    plural, item = draw.choice(LISTS)
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
    return Function("scale", f"scale_{draw.choice(QUALIFIERS)}_{plural}_{factor}", plural, doc, body)


def _running(draw: Draw) -> Function:
    plural, item = draw.choice(LISTS)
    start, low = draw.number(0, 50), draw.number(1, 50)
    name, verb = draw.choice(QUALIFIERS), draw.choice(["sums", "products", "maxima"])
    step = {"sums": f"total + {item}", "products": f"total * {item}", "maxima": f"max(total, {item})"}[verb]
    doc = [
        f"Return the running {verb} of the {plural}, starting from {start}.",
        f"Stop at the first {item} below {low}.",
    ]
    body = [
        "result = []",
        f"total = {start}",
        f"for {item} in {plural}:",
        f"    if {item} < {low}:",
        "        break",
    ]
    body += [f"    total = {step}", "    result.append(total)", "return result"]
    return Function("running", f"running_{verb}_of_{name}_{plural}_{start}", plural, doc, body)


def _average(draw: Draw) -> Function:
    plural, item = draw.choice(LISTS)
    words, operator = draw.choice(TESTS[:4])
    limit, fallback = draw.number(1, 99), draw.choice(["0", "None", "-1"])
    doc = [
        f"Return the average of the {plural} that are {words} {limit}.",
        f"Return {fallback} if there are none.",
    ]
    body = ["total = 0", "count = 0", f"for {item} in {plural}:", f"    if {item} {operator} {limit}:"]
    body += [f"        total += {item}", "        count += 1", "if count == 0:", f"    return {fallback}"]
    body.append("return total / count")
    return Function("average", f"average_of_{draw.choice(QUALIFIERS)}_{plural}_{limit}", plural, doc, body)


def _text(draw: Draw) -> Function:
    plural, item = draw.choice(TEXTS)
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
    return Function("text", f"join_{draw.choice(QUALIFIERS)}_{plural}_{call}", plural, doc, body)


def _tally(draw: Draw) -> Function:
    plural, item = draw.choice(TEXTS)
    least, change = draw.number(2, 9), draw.choice(["lower", "upper"])
    doc = [
        f"Count how often each of the {plural} appears in {change} case.",
        f"Keep those that appear {least} times.",
    ]
    body = ["counts = {}", f"for {item} in {plural}:", f"    {item} = {item}.{change}()"]
    body += [f"    counts[{item}] = counts.get({item}, 0) + 1"]
    body.append(f"return {{{item}: count for {item}, count in counts.items() if count >= {least}}}")
    return Function("tally", f"tally_{draw.choice(QUALIFIERS)}_{plural}_{least}", plural, doc, body)


def _find(draw: Draw) -> Function:
    plural, item, attributes = draw.choice(RECORDS)
    attribute, label = draw.choice(attributes), draw.choice(LABELS)
    words, operator = draw.choice(TESTS)
    missing = draw.choice(["-1", "None"])
    doc = [f"Return the index of the first {item} of the {label} whose {attribute} is {words} limit."]
    doc.append(f"Return {missing} if there is none.")
    body = [
        f"for index, {item} in enumerate({plural}):",
        f'    if {item}["{label}"] != {label}:',
        "        continue",
    ]
    body += [f'    if {item}["{attribute}"] {operator} limit:', "        return index", f"return {missing}"]
    name = f"find_{draw.choice(QUALIFIERS)}_{item}_{attribute}"
    return Function("find", name, f"{plural}, {label}, limit", doc, body)


def _parse(draw: Draw) -> Function:
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
    subject = draw.choice(["settings", "options", "limits", "sizes", "labels"])
    return Function("parse", f"parse_{draw.choice(QUALIFIERS)}_{subject}", "lines", doc, body)


def _divide(draw: Draw) -> Function:
    item, divisor, limit = draw.choice(LISTS)[1], draw.number(2, 9), draw.number(1, 50)
    doc = [
        f"Divide {item} by {divisor} until it is at most {limit}.",
        f"Return how many steps it takes and the last {item}.",
    ]
    body = [f"if {item} < 0:", f'    raise ValueError("{item} must not be negative")', "steps = 0"]
    body += [
        f"while {item} > {limit}:",
        f"    {item} = {item} // {divisor}",
        "    steps += 1",
        f"return steps, {item}",
    ]
    return Function("while", f"{draw.choice(QUALIFIERS)}_{item}_steps_{divisor}", item, doc, body)


FAMILIES = (_count, _scale, _running, _average, _text, _tally, _find, _parse, _divide)
