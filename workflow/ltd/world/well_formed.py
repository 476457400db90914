"""Form, not truth, of an answer: does it look like an answer of its task, and does it loop at its end."""

import re
import warnings
from collections.abc import Sequence

from ltd.world.conversation import Conversation
from ltd.world.names import names_in

_ARITHMETIC = re.compile(r"(?<![\d.])\d+(?: [-+*/] \d+)+ = (\d+)(?![\d.]*\d)")
_LOOP_COPIES = 4
_LONGEST_PIECE = 24
_SHORTEST_LOOP = 12


def well_formed(task: str, conversation: Conversation | Sequence[str], answer: str, turn: int = 0) -> bool:
    """Whether `answer` to turn `turn` has the form of its task; whether it is true is not asked.

    `code` and `stdlib`: signature, docstring and body compile. `maths`: worked lines with `a * b = c`, each
    `=` part of one, and a last line `#### c` that repeats the last result. `qa`: ends in a full stop and has
    a name the question asks about. `chat` and `instructions`: ends as a sentence does and uses a name of the
    prompt. Any other task: the answer is not empty. In no task does it end in a loop.

    Args:
        conversation: the conversation, or the user's turns alone.
    """
    turns = conversation.turns if isinstance(conversation, Conversation) else conversation
    if not answer.strip() or ends_in_loop(answer):
        return False
    check = _CHECKS.get(task)
    return check is None or check("\n".join(turns[: turn + 1]), answer.rstrip())


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


def _code(prompt: str, answer: str) -> bool:
    signature = prompt[prompt.find("def ") :].rstrip("\n")
    # A tokenizer may have taken the first line's indentation away.
    body = answer if answer.startswith((" ", "\n")) else "    " + answer
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(f"{signature}\n{body}\n", "answer", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _maths(prompt: str, answer: str) -> bool:
    *worked, last = answer.splitlines()
    final = re.fullmatch(r"#### (\d+)", last)
    text = "\n".join(worked)
    results = _ARITHMETIC.findall(text)
    return bool(final and results) and text.count("=") == len(results) and results[-1] == final[1]


def _qa(prompt: str, answer: str) -> bool:
    asked = names_in(prompt.rsplit("Question:", 1)[-1])
    return answer.endswith(".") and (not asked or bool(asked & names_in(answer)))


def _prose(prompt: str, answer: str) -> bool:
    named = names_in(prompt)
    return answer.endswith((".", "!", "?")) and (not named or bool(named & names_in(answer)))


_CHECKS = {"code": _code, "stdlib": _code, "maths": _maths, "qa": _qa, "chat": _prose, "instructions": _prose}
