"""Form, not truth, of an answer: does it look like an answer of its task, and does it loop at its end."""

import re
from collections.abc import Sequence

from ltd.world.conversation import Conversation

_ARITHMETIC = re.compile(r"(?<![\d.])\d+(?: [-+*/] \d+)+ = \d+")
_LOOP_REPEATS = 4
_LONGEST_PERIOD = 24
_SHORTEST_LOOP = 12


def well_formed(task: str, conversation: Conversation, answer: str, turn: int = 0) -> bool:
    """Whether `answer` to turn `turn` has the form of its task; whether it is true is not asked.

    `code` and `stdlib`: prompt and body compile. `maths`: worked lines `a * b = c` and a last line
    `#### c` that repeats the last result. `qa`: ends in a full stop and names an entity of the question.
    `chat` and `instructions`: complete sentences or list lines, and a name of the prompt comes up.
    Tasks of the user's own prompts have no form but a non-empty answer that does not loop.
    """
    answer = answer.rstrip()
    if not answer or ends_in_loop(answer.split()):
        return False
    check = _CHECKS.get(task)
    return True if check is None else check("\n".join(conversation.turns[: turn + 1]), answer)


def ends_in_loop(answer: str | Sequence) -> bool:
    """Whether the answer (text: its words; or tokens) ends in four or more copies of one piece.

    Pieces of 1 to 24 items count if the copies together are at least 12 items.
    """
    items = answer.split() if isinstance(answer, str) else list(answer)
    for period in range(1, _LONGEST_PERIOD + 1):
        span = max(period * _LOOP_REPEATS, _SHORTEST_LOOP)
        if len(items) < span:
            break
        tail = items[-span:]
        if tail[period:] == tail[:-period]:
            return True
    return False


def _code(prompt: str, answer: str) -> bool:
    signature = prompt[prompt.find("def ") :].rstrip("\n")
    body = answer if answer.startswith((" ", "\n")) else "    " + answer
    try:
        compile(f"{signature}\n{body}\n", "answer", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _maths(prompt: str, answer: str) -> bool:
    *worked, last = answer.splitlines()
    final = re.fullmatch(r"#### (\d+)", last)
    steps = _ARITHMETIC.findall("\n".join(worked))
    if not final or not steps or any(line.count("=") > 2 for line in worked):
        return False
    return steps[-1].split()[-1] == final[1]


def _capitalised(text: str) -> set[str]:
    return set(re.findall(r"\b[A-Z][a-z]{2,}\b", text))


def _qa(prompt: str, answer: str) -> bool:
    question = prompt.rsplit("Question:", 1)[-1].lower()
    words = set(re.findall(r"[a-z]{4,}", question)) - _QUESTION_WORDS
    return answer.endswith(".") and any(word in answer.lower() for word in words)


def _prose(prompt: str, answer: str) -> bool:
    complete = answer[-1] in ".!?)" or answer.splitlines()[-1].count(":") == 1
    return complete and (not _capitalised(prompt) or bool(_capitalised(prompt) & _capitalised(answer)))


_QUESTION_WORDS = set(
    "what when where which whom does about passage known tell people children festival".split()
)
_CHECKS = {"code": _code, "stdlib": _code, "maths": _maths, "qa": _qa, "chat": _prose, "instructions": _prose}
