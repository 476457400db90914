"""Form and faithfulness of an answer: is it shaped like one of its task, and does it copy the prompt right?

The two are asked apart. Form needs fluency alone; faithfulness needs a model that looks back and repeats
names and numbers it has never seen in training. Whether an answer is true is asked by neither.
"""

import ast
import builtins
import re
import warnings
from collections.abc import Sequence

from ltd.world.conversation import Conversation
from ltd.world.names import names_in

_ARITHMETIC = re.compile(r"(?<![\d.])(\d+(?: [-+*/] \d+)+) = (\d+)(?![\d.]*\d)")
_NUMBER = re.compile(r"\d+")
_FRACTIONS = {"half": "2", "third": "3", "quarter": "4"}
_LIST_ITEM = re.compile(r"^(\d+)\. ", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
_LOOP_COPIES = 4
_LONGEST_PIECE = 24
_SHORTEST_LOOP = 12


def well_formed(task: str, conversation: Conversation | Sequence[str], answer: str, turn: int = 0) -> bool:
    """Whether `answer` to turn `turn` has the form of its task.

    `code` and `stdlib`: signature, docstring and body compile. `maths`: worked lines with `a * b = c`, each
    `=` part of one, and a last line `#### c` that repeats the last result. `qa`, `chat` and `instructions`:
    it ends as a sentence does, every sentence and line begins with a capital or a digit, none occurs twice,
    numbered lines count from 1 without gaps. Any other task: the answer is not empty. In no task does it end
    in a loop.

    Args:
        conversation: the conversation, or the user's turns alone.
    """
    # An answer that was cut off may end in the middle of a word of its loop.
    if not answer.strip() or ends_in_loop(answer) or ends_in_loop(answer.rpartition(" ")[0]):
        return False
    check = _FORMS.get(task)
    return check is None or check(_prompt(conversation, turn), answer.rstrip())


def faithful(task: str, conversation: Conversation | Sequence[str], answer: str, turn: int = 0) -> bool:
    """Whether `answer` repeats what the prompt gave it to repeat.

    `code`: it compiles and reads only parameters, its own variables and builtins. `stdlib`: it compiles and
    uses a parameter, if there is one. `maths`: every operand stands in the prompt (in digits or as a word for
    a fraction) or is an earlier result. There and in `qa`, `chat` and `instructions`: every name in it stands
    in the prompt, and it has one of the prompt's names if there are any (for `qa`, one that the question asks
    about). Any other task: always.

    Args:
        conversation: the conversation, or the user's turns alone.
    """
    check = _COPIES.get(task)
    return check is None or check(_prompt(conversation, turn), answer.rstrip())


def ends_in_loop(answer: str | Sequence) -> bool:
    """Whether the answer (text, taken as its words; or tokens) ends in at least four copies of one piece.

    A piece is 1 to 24 items long, and the copies together are at least 12 items.
    """
    items = answer.split() if isinstance(answer, str) else list(answer)
    for period in range(1, _LONGEST_PIECE + 1):
        span = max(period * _LOOP_COPIES, _SHORTEST_LOOP)
        if len(items) < span:
            return False
        tail = items[-span:]
        if tail[period:] == tail[:-period]:
            return True
    return False


def _prompt(conversation: Conversation | Sequence[str], turn: int) -> str:
    turns = conversation.turns if isinstance(conversation, Conversation) else conversation
    return "\n".join(turns[: turn + 1])


def _function(prompt: str, answer: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The completed function, or None where it does not compile, does nothing, or is not all there is."""
    signature = prompt[prompt.find("def ") :].rstrip("\n")
    # A tokenizer may have taken the first line's indentation away.
    body = answer if answer.startswith((" ", "\n")) else "    " + answer
    source = f"{signature}\n{body}\n"
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(source, "answer", "exec")
            function, *more = ast.parse(source).body
    except (SyntaxError, ValueError):
        return None
    only_told = len(function.body) == 1 and ast.get_docstring(function) is not None
    return None if more or only_told else function


def _compiles(prompt: str, answer: str) -> bool:
    return _function(prompt, answer) is not None


def _worked(prompt: str, answer: str) -> bool:
    *worked, last = answer.splitlines()
    final = re.fullmatch(r"#### (\d+)", last)
    text = "\n".join(worked)
    results = [result for _, result in _ARITHMETIC.findall(text)]
    return bool(final and results) and text.count("=") == len(results) and results[-1] == final[1]


def _prose(prompt: str, answer: str) -> bool:
    if not answer.endswith((".", "!", "?")):
        return False
    sentences = [part for part in _SENTENCE_END.split(answer) if part]
    numbers = [int(number) for number in _LIST_ITEM.findall(answer)]
    return (
        all(part[0].isupper() or part[0].isdigit() for part in sentences)
        and len(set(sentences)) == len(sentences)
        and numbers == list(range(1, len(numbers) + 1))
    )


def _defined(prompt: str, answer: str) -> bool:
    function = _function(prompt, answer)
    if function is None:
        return False
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    known = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)} | set(dir(builtins))
    known |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    known |= {node.name for node in ast.walk(function) if isinstance(node, ast.ExceptHandler)}
    return all(node.id in known for node in names)


def _uses_parameters(prompt: str, answer: str) -> bool:
    function = _function(prompt, answer)
    if function is None:
        return False
    parameters = {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    return not parameters or bool(parameters & used)


def _operands(prompt: str, answer: str) -> bool:
    known = set(_NUMBER.findall(prompt)) | {number for word, number in _FRACTIONS.items() if word in prompt}
    for operands, result in _ARITHMETIC.findall(answer):
        if not known.issuperset(_NUMBER.findall(operands)):
            return False
        known.add(result)
    return _names(prompt, answer)


def _names(prompt: str, answer: str) -> bool:
    given, used = names_in(prompt), names_in(answer)
    return used <= given and (not given or bool(used))


def _asked_names(prompt: str, answer: str) -> bool:
    asked, used = names_in(prompt.rsplit("Question:", 1)[-1]), names_in(answer)
    return used <= names_in(prompt) and (not asked or bool(asked & used))


_FORMS = {
    "code": _compiles,
    "stdlib": _compiles,
    "maths": _worked,
    "qa": _prose,
    "chat": _prose,
    "instructions": _prose,
}
_COPIES = {
    "code": _defined,
    "stdlib": _uses_parameters,
    "maths": _operands,
    "qa": _asked_names,
    "chat": _names,
    "instructions": _names,
}
