"""Let the target answer all prompts of one split, in batches: the draft head learns from its own text.

Every turn of a conversation is answered, earlier turns with the target's own answers before it. At
temperature 0 the most likely token is taken; above, a draw whose noise is keyed by the sequence's `seed_key`
and the output position, so that speculative decoding with the same key emits the same tokens.

A conversation that outgrows the target's context (`ltd.engine.context_limits`) when all of its answers are as
long as they may be is left out, and counted.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ltd.bfloat16 import without_rounding
from ltd.devices import multiplies_bfloat16
from ltd.engine.context_limits import longest_context
from ltd.engine.memory import GIB, batch_bytes
from ltd.engine.model_loading import free_memory
from ltd.engine.sampling import SamplingOptions, sample_each
from ltd.engine.target import DEFAULT_TREE, TargetModel
from ltd.errors import InputError
from ltd.files import discard, file_hash
from ltd.hub import identity
from ltd.options import ModelOptions, StageOptions, option, run_stage
from ltd.texts.batched_generation import Answer, Choose, answer_conversations, greedy
from ltd.texts.prompts import chat_format, read_questions, render
from ltd.texts.responses import Responses, Sequence
from ltd.tracking import StageRun
from ltd.world import ends_in_loop


@dataclass(frozen=True, kw_only=True)
class Options(StageOptions, ModelOptions):
    """What `generate_responses` takes."""

    prompts: Path = option(help="folder of one split's <task>.jsonl")
    target: str = option(help="Hugging Face folder or hub id of the model that answers")
    output: Path = option(help="responses file to write (.safetensors; a .json comes beside it)")
    state: Path = option(help="folder for finished parts of a killed run; removed at the end")
    temperature: float = option(0.0, "0 for greedy answers, above for sampled ones")
    max_new_tokens: int = option(128, "longest answer in tokens; the end-of-sequence token counts")
    batch_size: int = option(64, "conversations that are answered together")
    system: str | None = option(None, "system prompt of every conversation; none: the template's own")
    chat_template: str | None = option(None, "file with a Jinja template; none: the tokenizer's own")
    thinking: str = option(
        "template", "thinking mode of templates that have one", choices=("template", "on", "off")
    )
    reduced_precision: bool = option(
        False, "in bfloat16 where the device multiplies it; for answers that no decoding is compared with"
    )


@dataclass(frozen=True)
class Question:
    """One conversation of the split: its task and the user's turns."""

    task: str
    question_id: int | str
    turns: tuple[str, ...]

    def seed_key(self, turn: int, seed: int) -> int:
        """The 63-bit seed of the sampling noise of one answer."""
        digest = hashlib.sha256(f"{seed} {self.task} {self.question_id} {turn}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


def read_split(folder: Path) -> list[Question]:
    """Read all tasks of a split, in alphabetical order; raises InputError for an empty folder."""
    paths = sorted(Path(folder).glob("*.jsonl"))
    if not paths:
        raise InputError(f"{folder}: no <task>.jsonl files; run prepare_prompts first")
    return [Question(path.stem, row.question_id, row.turns) for path in paths for row in read_questions(path)]


def fitting(questions: list[Question], target: TargetModel, options: Options) -> list[Question]:
    """The conversations that the target has room for even when all answers are at their longest.

    Raises InputError for a task that has none.
    """
    config = target.model.config.get_text_config()
    named = {"max_position_embeddings": config.max_position_embeddings}  # GPT-2 has another word for it
    room = longest_context(config.to_dict() | named, DEFAULT_TREE)
    kept = [question for question in questions if _longest(question, target, options) <= room]
    lost = {question.task for question in questions} - {question.task for question in kept}
    if lost:
        raise InputError(
            f"prompts.tasks: no prompt of {min(lost)} fits the target's context of {room} tokens with an "
            f"answer of {options.max_new_tokens}; shorten them, or lower responses.max_new_tokens"
        )
    return kept


def _longest(question: Question, target: TargetModel, options: Options) -> int:
    """Tokens of a conversation whose answers are all as long as they may be."""
    form = chat_format(options.system, options.chat_template, options.thinking)
    asked = render(target.tokenizer, question.turns, [""] * (len(question.turns) - 1), form)
    return len(asked) + len(question.turns) * options.max_new_tokens


def check_room(questions: list[Question], target: TargetModel, options: Options) -> None:
    """Refuse batches that do not fit into the memory that the target leaves, before the first is answered."""
    together = min(options.batch_size, len(questions))
    answer = options.max_new_tokens
    prompt = max(_longest(question, target, options) for question in questions) - answer
    needed = batch_bytes(target.model.config, together, prompt, answer, target.dtype)
    places = getattr(target.model, "hf_device_map", {}).values()
    gpus = sorted({place for place in places if isinstance(place, int)})
    free = sum(free_memory(target.device, gpus or [target.device.index or 0]).values())
    if needed > free:
        raise InputError(
            f"responses.batch_size: {together} conversations of up to {prompt + answer} tokens need about "
            f"{needed / GIB:.1f} GiB beside the target, {free / GIB:.1f} are free; use at most "
            f"{max(1, int(together * free / needed))}"
        )


def log_left_out(asked: list[Question], kept: list[Question], run: StageRun) -> None:
    """Print and log how many conversations of each task are left out, if any."""
    counts = Counter(question.task for question in asked)
    counts.subtract(question.task for question in kept)
    left_out = {task: count for task, count in counts.items() if count}
    if left_out:
        listed = ", ".join(f"{task} {count}" for task, count in left_out.items())
        tqdm.write(f"left out, longer than the target's context: {listed}")
        run.metrics({f"left_out.{task}": count for task, count in left_out.items()})


def answer_part(target: TargetModel, questions: list[Question], options: Options) -> Responses:
    """Answer some conversations, all their turns."""

    def choose(turn: int, members: list[int]) -> Choose:
        if options.temperature == 0:
            return greedy
        return sampled([questions[index].seed_key(turn, options.seed) for index in members], options)

    answers = answer_conversations(
        target.model,
        target.tokenizer,
        [question.turns for question in questions],
        eos_ids=target.eos_ids,
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size,
        choose=choose,
        form=chat_format(options.system, options.chat_template, options.thinking),
    )
    return Responses.from_sequences(
        _sequence(question, turn, answer, options)
        for question, replies in zip(questions, answers, strict=True)
        for turn, answer in enumerate(replies)
    )


def sampled(keys: list[int], options: Options) -> Choose:
    """Make the token choice of a batch: each row draws with the noise of its own key."""
    sampling = SamplingOptions(options.temperature)

    def choose(logits: Tensor, position: int, rows: Tensor) -> Tensor:
        return sample_each(logits, [keys[row] for row in rows.tolist()], position, sampling)

    return choose


def _sequence(question: Question, turn: int, answer: Answer, options: Options) -> Sequence:
    return Sequence(
        tokens=torch.tensor(answer.prompt + answer.tokens),
        prompt_length=len(answer.prompt),
        task=question.task,
        question_id=question.question_id,
        turn=turn,
        seed_key=question.seed_key(turn, options.seed) if options.temperature > 0 else 0,
    )


def parts(questions: list[Question], size: int) -> Iterator[list[int]]:
    """Yield the numbers of the conversations of each part.

    A batch decodes as long as its longest answer: conversations of as many turns and of one task, whose
    answers end at similar places, are answered together; among these, prompts of similar length.
    """

    def alike(index: int) -> tuple[int, str, int]:
        question = questions[index]
        return len(question.turns), question.task, len(question.turns[0])

    order = sorted(range(len(questions)), key=alike)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def summarise(responses: Responses, eos_ids: tuple[int, ...]) -> dict[str, float]:
    """Per task: answers, mean tokens of an answer, share that reached the end, share that ends in a loop."""
    tasks: dict[str, list[tuple[int, bool, bool]]] = defaultdict(list)
    for sequence in responses.sequences():
        tokens = sequence.answer.tolist()
        tasks[sequence.task].append((len(tokens), tokens[-1] in eos_ids, ends_in_loop(tokens)))
    summary: dict[str, float] = {}
    for task, rows in tasks.items():
        lengths, finished, loops = zip(*rows, strict=True)
        summary |= {
            f"answers.{task}": len(rows),
            f"mean_tokens.{task}": sum(lengths) / len(rows),
            f"finished.{task}": sum(finished) / len(rows),
            f"loop.{task}": sum(loops) / len(rows),
        }
    return summary


def generate_responses(options: Options, run: StageRun) -> None:
    """The stage: part by part, then everything in the order of the prompts."""
    if options.max_new_tokens < 1 or options.batch_size < 1:
        raise InputError("responses.max_new_tokens, responses.batch_size: at least 1")
    SamplingOptions(options.temperature)  # refuses impossible temperatures
    chat_format(options.system, options.chat_template, options.thinking)  # refuses a missing file
    asked = read_split(options.prompts)
    target = TargetModel.load(
        options.target,
        device=options.device,
        dtype=options.dtype,
        quantisation=options.quantisation,
        max_context=1,  # transformers' own forward answers; how long a conversation may be, `fitting` says
        packed=False,
    )
    questions = fitting(asked, target, options)
    log_left_out(asked, questions, run)
    check_room(questions, target, options)
    if options.reduced_precision:
        reduce_precision(target)
    folder = options.state / _fingerprint(options)
    found: dict[tuple[str, int | str], list[Sequence]] = defaultdict(list)
    with tqdm(total=len(questions), desc="generate_responses", unit="conversation") as progress:
        for number, members in enumerate(parts(questions, options.batch_size)):
            path = folder / f"part-{number:05d}.safetensors"
            if not path.is_file():
                answer_part(target, [questions[index] for index in members], options).save(path)
            for sequence in Responses.load(path).sequences():
                found[sequence.task, sequence.question_id].append(sequence)
            progress.update(len(members))
    responses = Responses.from_sequences(
        sequence for question in questions for sequence in found[question.task, question.question_id]
    )
    summary = summarise(responses, target.eos_ids)
    run.metrics(summary)
    run.json(summary, "summary.json")
    tqdm.write("\n".join(f"{key}: {value:.3f}" for key, value in summary.items()))
    responses.save(options.output)
    # Who asks for answers again wants them made again.
    discard(options.state)


def reduce_precision(target: TargetModel) -> None:
    """Hold a model of float32 tensors in bfloat16 where the device multiplies it; others stay as they are.

    Its parameters alone: the frequencies of its positions are no weights, and rounding them moves words.
    """
    if target.dtype == torch.float32 and multiplies_bfloat16(target.device):
        target.model = without_rounding(target.model)  # PyTorch's own bfloat16 rounds what it reads
        for weight in target.model.parameters():
            weight.data = weight.data.to(torch.bfloat16)


def _fingerprint(options: Options) -> str:
    """Name the folder of parts by all that decides what is in them."""
    target = identity(options.target)
    ignored = {"experiment", "prompts", "target", "output", "state", "threads", "device"}
    values = {key: value for key, value in asdict(options).items() if key not in ignored}
    if options.chat_template is not None:
        values["chat_template"] = file_hash(options.chat_template)
    return hashlib.sha256(f"{target} {file_hash(options.prompts)} {values}".encode()).hexdigest()[:16]


def main(argv: list[str] | None = None) -> None:
    run_stage("generate_responses", Options, generate_responses, __doc__, argv)


if __name__ == "__main__":
    main()
