"""Train an Eagle3 draft head on the target's own answers and write it in the published layout.

The head learns the target's distribution from one teacher-forced pass over those answers, unrolled over as
many draft steps as decoding will take (training-time test). After every epoch it is validated on answers it
has not seen: top-1 acceptance per draft step and the simulated acceptance length of a chain; the best epoch
is kept.
"""

import shutil
from collections.abc import Sequence as Arguments
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from ltd import effort
from ltd.bfloat16 import computes_in, held_in_float32, in_bfloat16, round_linear_inputs, saved_type
from ltd.devices import multiplies_bfloat16, resolve_device
from ltd.draft_head.eagle3 import Eagle3Head
from ltd.draft_head.features import cache_bytes, cached_source, online_source
from ltd.draft_head.head_config import Eagle3Config, target_like
from ltd.draft_head.processes import Processes
from ltd.draft_head.target_output import TargetOutput, norm_gain, output_of
from ltd.draft_head.trainer import (
    VALIDATION_ROWS,
    Corpus,
    Recipe,
    Trainer,
    chain_count,
    epoch_batches,
)
from ltd.draft_head.training import choose_draft_vocabulary
from ltd.draft_head.training_memory import (
    FLOAT,
    BatchShape,
    batch_bytes,
    described,
    head_bytes,
    largest_batch,
    pass_bytes,
    step_bytes,
)
from ltd.engine.memory import GIB, plan_memory, weight_limits
from ltd.engine.model_loading import free_memory, load_model, number_type, read_config
from ltd.errors import InputError
from ltd.files import atomic_path, discard, file_hash, write_json
from ltd.hub import identity
from ltd.option_checks import check_draft, check_draft_of_target
from ltd.options import ModelOptions, StageOptions, option, run_stage
from ltd.texts.responses import Responses, Sequence
from ltd.tracking import StageRun, config_hash

FORWARD_ROWS = 4096  # padded rows of a forward pass of the target


@dataclass(frozen=True, kw_only=True)
class TrainDraftOptions(StageOptions, ModelOptions):
    """Options of this stage."""

    target: str = option(help="Hugging Face folder or hub id of the target")
    responses: Path = option(help="the target's answers to the training prompts (.safetensors)")
    validation: Path = option(help="the target's answers to the validation prompts (.safetensors)")
    output: Path = option(help="folder to write the head to")
    state: Path = option(help="folder for checkpoints and cached features, removed at the end")
    draft_vocab_size: int = option(1024, "tokens that the head can propose: the most frequent of the answers")
    tap_layers: tuple[int, ...] = option(
        (), "three hidden states of the target that the head reads; none: the published 2, L//2, L-3"
    )
    unroll_steps: int = option(
        10, "draft steps of the training-time test; at least the largest depth used later"
    )
    step_weight: float = option(
        0.8, "weight of a draft step relative to the one before it: the share of chains that go on, up to 1"
    )
    epochs: int = option(8, "passes over the training answers")
    batch_rows: int = option(384, "answer tokens of an optimiser step")
    matrix_learning_rate: float = option(0.04, "peak learning rate of Muon, for the layer's matrices")
    learning_rate: float = option(2e-3, "peak learning rate of AdamW, for the output head and the norms")
    warmup: float = option(0.05, "share of the training over which the learning rates rise")
    max_length: int = option(2048, "longest sequence in tokens; what is longer is cut at the end")
    gradient_checkpointing: bool = option(
        False, "recompute the inside of each draft step in the backward pass: less memory, more time"
    )
    feature_cache_gib: float = option(3.0, "largest file of cached target features in GiB; beyond, recompute")


def train_draft(options: TrainDraftOptions, run: StageRun) -> None:
    """Train, validate, write the best epoch. Raises InputError for options that cannot work."""
    check_draft(options)
    processes = Processes.join(options.device)
    config = read_config(options.target)
    shape = head_config(config, options)
    train = load_sequences(options.responses, shape.vocab_size, options.max_length)
    validation = load_sequences(options.validation, shape.vocab_size, options.max_length)
    beside = check_training(config, shape, train, validation, options, processes)
    model = load_target(options, processes, beside)
    ids = choose_draft_vocabulary([s.answer for s in train], shape.vocab_size, shape.draft_vocab_size)
    torch.manual_seed(options.seed)
    output = output_of(model, ids)
    head = initial_head(shape, model, ids, output)
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    key = _input_key(options)
    saved = saved_type(computes_in(model))
    trainer = Trainer(recipe, head, output, options.state, key, run, saved, processes)
    named = (("train", train), ("validation", validation))
    corpora = processes.main_first(
        lambda: [_corpus(name, sequences, model, shape, options, key) for name, sequences in named]
    )
    history = trainer.train(*corpora)
    processes.part()
    if not processes.main:
        return
    best = trainer.best_epoch()
    _write(
        options,
        trainer.best_folder,
        {"best": best, "epochs": history, "coverage": coverage(validation, head)},
    )
    run.artifact(options.output / "training.json")
    if run.active:  # without tracking there may be no matplotlib either
        run.figure(acceptance_figure(history, best), "acceptance.png")
    print(f"acceptance per step {[round(value, 3) for value in best['acceptance']]}, ", end="")
    print(f"simulated acceptance length {best['acceptance_length']:.2f} (epoch {best['epoch']})")


def load_target(options: TrainDraftOptions, processes: Processes, beside: int):
    """The target as a transformers model without gradients; float32 on a CPU, its own type on a GPU.

    Where it does not fit beside the training, which takes `beside` bytes of this process's first GPU, it is
    spread over all GPUs of this process.
    """
    return load_model(
        options.target,
        device=options.device,
        dtype=options.dtype,
        quantisation=options.quantisation,
        gpus=processes.gpus,
        reserve=beside,
    )


def head_config(config: PretrainedConfig, options: TrainDraftOptions) -> Eagle3Config:
    """Shapes of a head for a target of this configuration: one layer like the target's own."""
    target = config.get_text_config()
    check_draft_of_target(options, target.vocab_size, target.num_hidden_layers)
    shape = target_like(target, options.draft_vocab_size)
    return replace(shape, tap_layers=options.tap_layers) if options.tap_layers else shape


def load_sequences(path: Path, vocab_size: int, max_length: int) -> list[Sequence]:
    """Responses with at least one draft chain each, cut to `max_length` tokens."""
    sequences = [replace(s, tokens=s.tokens[:max_length]) for s in Responses.load(path).sequences()]
    sequences = [sequence for sequence in sequences if chain_count(sequence)]
    if not sequences:
        raise InputError(f"{path}: no answer of two tokens or more within draft.max_length {max_length}")
    largest = max(int(sequence.tokens.max()) for sequence in sequences)
    if largest >= vocab_size:
        raise InputError(
            f"{path}: token {largest} is not in the target's vocabulary of {vocab_size}; make it anew"
        )
    return sequences


def check_training(
    config: PretrainedConfig,
    shape: Eagle3Config,
    train: list[Sequence],
    validation: list[Sequence],
    options: TrainDraftOptions,
    processes: Processes,
) -> int:
    """Say what memory the training will take, before the target is loaded; returns the bytes beside it.

    Raises InputError when that is more than there is, and when batches are too small to be shared.
    """
    batches = epoch_batches(train, options.batch_rows, options.seed, 0)
    largest = max(map(len, batches))
    if largest < processes.count:
        raise InputError(
            f"draft.batch_rows: {options.batch_rows} gives batches of at most {largest} answers, too few "
            f"for {processes.count} processes; raise it, or lower draft.processes"
        )
    device = resolve_device(options.device)
    dtype = number_type(options.dtype, config, device)
    if held_in_float32(dtype, device):
        dtype = torch.float32
    plan = plan_memory(config, dtype=dtype, quantisation=options.quantisation, context=0, tree=0)
    shared = _largest(train, [processes.share(members) or members for members in batches])
    head, work = head_bytes(shape), _work_bytes(config, shape, shared, validation, options, dtype)
    parts = {"target": plan.weights, "head and optimisers": head, "work": work}
    free = free_memory(device, processes.gpus)
    found = " + ".join(f"{size / GIB:.2f}" for size in free.values())
    if processes.main:
        print(f"memory: about {described(parts)}; {found} GiB are free")
    if plan.weights > sum(weight_limits(plan, free, head + work).values()):
        checkpointing = "" if options.gradient_checkpointing else "draft.gradient_checkpointing, "
        raise InputError(
            f"memory: training needs about {described(parts)} and room for libraries, {found} GiB are free; "
            f"use {checkpointing}less draft.batch_rows, draft.max_length or draft.unroll_steps, or more GPUs"
        )
    return head + work


def _largest(sequences: list[Sequence], batches: list[list[int]]) -> BatchShape:
    return largest_batch([len(s.tokens) for s in sequences], [chain_count(s) for s in sequences], batches)


def _work_bytes(
    config: PretrainedConfig,
    shape: Eagle3Config,
    batch: BatchShape,
    validation: list[Sequence],
    options: TrainDraftOptions,
    dtype: torch.dtype,
) -> int:
    """The largest of what follows each other: a batch, its validation, an optimiser step, a target's pass."""
    kept = 2 if multiplies_bfloat16(resolve_device(options.device)) else FLOAT
    steps, checkpointing = options.unroll_steps, options.gradient_checkpointing
    # Without a gradient nothing but streams, keys and values outlives a step, in float32 and unthinned.
    validated = _largest(validation, epoch_batches(validation, VALIDATION_ROWS, 0, 0))
    rows = max(FORWARD_ROWS, batch.tokens, validated.tokens)
    return max(
        batch_bytes(shape, batch, steps, options.step_weight, kept=kept, checkpointing=checkpointing),
        batch_bytes(shape, validated, steps, 1.0, checkpointing=True),
        step_bytes(shape),
        pass_bytes(config.get_text_config(), rows, batch.longest, dtype.itemsize),
    )


def initial_head(config: Eagle3Config, model, ids: Tensor, output: TargetOutput) -> Eagle3Head:
    """A head that starts as a reader of the target's high tap: its final norm and its output rows, for the
    tokens `ids`, are the target's.
    """
    embedding = model.get_input_embeddings().weight.float()
    # A target over several GPUs may begin on another than this process's first.
    device = torch.device("cuda", torch.cuda.current_device()) if embedding.is_cuda else embedding.device
    head = Eagle3Head(config, embedding).to(device)
    head.set_draft_vocabulary(ids)
    with torch.no_grad():
        head.lm_head.weight.copy_(output.weight * output.scale)
        final_norm = getattr(model.base_model, "norm", None)
        if final_norm is not None:
            head.norm.weight.copy_(norm_gain(final_norm, config.hidden_size))
        head.fc.weight[:, -config.target_hidden_size :].add_(torch.eye(config.hidden_size, device=device))
    return round_linear_inputs(head) if in_bfloat16(model) else head


def _corpus(
    name: str, sequences: list[Sequence], model, shape: Eagle3Config, options: TrainDraftOptions, key: str
) -> Corpus:
    size = cache_bytes(sequences, shape.target_hidden_size)
    if size > options.feature_cache_gib * 2**30:
        return Corpus(sequences, online_source(model, shape.tap_layers, sequences))
    path = options.state / f"features-{name}-{key}"
    return Corpus(sequences, cached_source(model, shape.tap_layers, sequences, path, FORWARD_ROWS))


def _input_key(options: TrainDraftOptions) -> str:
    """Identifies what the weights depend on, so that a checkpoint of other inputs is not continued."""
    target = identity(options.target)
    inputs = target + file_hash(options.responses, options.validation)
    skipped = ("experiment", "threads", "target", "responses", "validation", "output", "state")
    # These change weights by rounding alone: whoever runs out of memory may go on with less.
    skipped += effort.OPTIONS["draft"]
    return config_hash({k: v for k, v in asdict(options).items() if k not in skipped} | {"inputs": inputs})


def coverage(sequences: list[Sequence], head: Eagle3Head) -> float:
    """Share of the answers' tokens that the head can propose at all."""
    return head.t2d.cpu()[torch.cat([sequence.answer for sequence in sequences])].float().mean().item()


def _write(options: TrainDraftOptions, best: Path, report: dict[str, Any]) -> None:
    with atomic_path(options.output) as folder:
        shutil.copytree(best, folder)
        write_json(folder / "training.json", report)
    discard(options.state)


def acceptance_figure(history: list[dict[str, Any]], best: dict[str, Any]):
    """Top-1 acceptance against the draft step: every task in the kept epoch, and the mean of every epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    tasks, epochs = figure.subplots(1, 2, sharey=True)
    for task, values in best["tasks"].items():
        tasks.plot(range(1, len(values["acceptance"]) + 1), values["acceptance"], marker=".", label=task)
    for row in history:
        shade = 0.25 + 0.75 * row["epoch"] / len(history)
        steps = range(1, len(row["acceptance"]) + 1)
        epochs.plot(steps, row["acceptance"], color="C0", alpha=shade, label=f"epoch {row['epoch']}")
    for axes, title in ((tasks, f"epoch {best['epoch']}, per task"), (epochs, "mean over tasks, per epoch")):
        axes.set(xlabel="draft step", ylabel="top-1 acceptance", title=title, ylim=(0, 1))
        axes.legend()
    return figure


def main(argv: Arguments[str] | None = None) -> None:
    """Command line of the stage."""
    run_stage("train_draft", TrainDraftOptions, train_draft, __doc__, argv)


if __name__ == "__main__":
    main()
