"""Train the embedded default's target: a tokenizer and a small Llama model, from scratch, on generated texts.

A shallow model, wired to copy from its prompt (`copying`), is trained for a short while; then silent blocks
are put between its blocks (`growth`) and the deep model is trained on. The weights are rounded to 16
bits before the last evaluation (to bfloat16 where the model will be used in it, else to half precision), so
that kernels with packed weights compute with the same model.
"""

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ltd import effort
from ltd.bfloat16 import saved_type
from ltd.devices import multiplies_bfloat16, resolve_device
from ltd.errors import InputError
from ltd.files import atomic_path, discard, file_hash, write_json
from ltd.option_checks import check_target
from ltd.options import DTYPES, DeviceOptions, StageOptions, option, run_stage
from ltd.target_training import MAX_POSITIONS
from ltd.target_training.copying import wire_copying
from ltd.target_training.growth import silence, without_blocks
from ltd.target_training.packing import (
    Conversations,
    Document,
    Rows,
    batches,
    encode_conversations,
    pack,
    read_conversations,
)
from ltd.target_training.tokenizer import train_tokenizer
from ltd.target_training.training import Trainer, held_out_loss
from ltd.texts.batched_generation import answer_conversations
from ltd.tracking import StageRun
from ltd.world import ends_in_loop, faithful, well_formed

EMBEDDING_SCALE = 0.5
HELD_OUT_ROW = 512
SAMPLE_TOKENS = 192


@dataclass(frozen=True, kw_only=True)
class Options(StageOptions, DeviceOptions):
    """What `train_target` takes."""

    prompts: Path = option(help="folder with the splits `corpus` (to train on) and `validation`")
    output: Path = option(help="Hugging Face folder to write")
    state: Path = option(help="folder for checkpoints of a killed run; removed at the end")
    dtype: str = option("auto", "number type that weights are rounded to; auto: 16 bits", choices=DTYPES)
    vocab_size: int = option(2048, "entries of the BPE tokenizer")
    hidden_size: int = option(384, "width; a multiple of 64, the size of an attention head")
    intermediate_size: int = option(1152, "width of the feed-forward layers")
    start_layers: int = option(3, "blocks of the model that is trained first")
    layers: int = option(12, "blocks of the final model; a multiple of start_layers")
    steps: int = option(350, "optimiser steps in all")
    grow_step: int = option(120, "step after which the model grows to all its blocks at once")
    batch_rows: int = option(8, "packed rows per optimiser step")
    row_tokens: int = option(256, "tokens per packed row; longer conversations are cut")
    matrix_learning_rate: float = option(0.02, "peak learning rate of Muon, for the matrices of the blocks")
    embedding_learning_rate: float = option(0.05, "peak learning rate of AdamW for the token embeddings")
    head_learning_rate: float = option(0.003, "peak learning rate of AdamW for the output head and the norms")
    warmup_steps: int = option(15, "steps of linear warm-up, at the start and after growing")
    decay_share: float = option(0.5, "last share of the steps in which the learning rates fall to zero")
    evaluate_every: int = option(100, "steps between evaluations on held-out conversations")
    held_out_count: int = option(24, "held-out conversations per task for the loss")
    sample_count: int = option(12, "held-out conversations per task that are answered to measure form")
    checkpoint_every: int = option(50, "steps between checkpoints")


def build_model(options: Options, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make the shallow model: heads of 64, two query heads to a key-value head.

    Every block starts silent but for the attention layers that copy, so the first steps are not spent on
    undoing noise; embeddings start large enough for the high learning rate they get.
    """
    heads = options.hidden_size // 64
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden_size,
        intermediate_size=options.intermediate_size,
        num_hidden_layers=options.start_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads if heads % 2 else heads // 2,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(options.seed)
    model = LlamaForCausalLM(config)
    nn.init.normal_(model.model.embed_tokens.weight, std=EMBEDDING_SCALE)
    for block in model.model.layers:
        silence(block)
    wire_copying(model, torch.Generator().manual_seed(options.seed))
    return model


def train(
    trainer: Trainer, options: Options, documents: list[Document], held_out: dict[str, Rows], run: StageRun
) -> None:
    """Run the loop to the last step, with evaluations and checkpoints on the way."""
    stream = batches(documents, options.row_tokens, options.batch_rows, options.seed, trainer.step)
    with tqdm(total=options.steps, initial=trainer.step, desc="train_target", unit="step") as progress:
        while trainer.step < options.steps:
            loss = trainer.train_step(next(stream).to(trainer.model.device))
            entry: dict[str, float] = {"step": trainer.step, "loss": loss}
            if trainer.step % options.evaluate_every == 0 or trainer.step == options.steps:
                losses = held_out_loss(trainer.model, held_out)
                entry |= {f"held_out_loss.{task}": value for task, value in losses.items()}
                progress.set_postfix(held_out=f"{losses['mean']:.3f}")
            trainer.history.append(entry)
            run.metrics({key: value for key, value in entry.items() if key != "step"}, step=trainer.step)
            if trainer.step % options.checkpoint_every == 0:
                trainer.save(options.state)
            progress.update()
    trainer.save(options.state)


def ablations(options: Options) -> dict[str, list[int]]:
    """Blocks to leave out, by name, to see that they are needed: the grown ones, and each third of all."""
    factor, layers = options.layers // options.start_layers, options.layers
    sets = {"grown_blocks": [index for index in range(layers) if index % factor]}
    for third in range(3):
        if blocks := list(range(layers * third // 3, layers * (third + 1) // 3)):
            sets[f"blocks_{blocks[0]}_to_{blocks[-1]}"] = blocks
    return sets


def rounded_type(dtype: str, device: torch.device) -> torch.dtype:
    """What the weights are rounded to and saved in; `auto` is bfloat16 where the device multiplies it."""
    if dtype == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float16
    return saved_type(getattr(torch, dtype))


def round_weights(model: LlamaForCausalLM, kind: torch.dtype) -> None:
    """Round all weights, in place, to values that `kind` represents; raises InputError on overflow."""
    for name, parameter in model.named_parameters():
        rounded = parameter.data.to(kind).float()
        if not rounded.isfinite().all():
            raise InputError(f"target: weights of {name} overflow 16 bits; lower the learning rates")
        parameter.data = rounded


def quality(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    conversations: Conversations,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Answer conversations greedily; return the rates of form and the answers themselves.

    Rates, by task and averaged over tasks (`mean`), shares of the answers: `well_formed`, `faithful`, `loop`.
    """
    asked = [(task, row) for task, rows in conversations.items() for row in rows]
    # In one batch: on a GPU a step of many answers takes as long as a step of one.
    replies = answer_conversations(
        model,
        tokenizer,
        [row.turns for _, row in asked],
        eos_ids=[tokenizer.eos_token_id],
        max_new_tokens=SAMPLE_TOKENS,
        batch_size=len(asked),
    )
    samples = [
        {
            "task": task,
            "turn": turn,
            "prompt": row.turns[turn],
            "answer": answer.text,
            "reference": row.reference[turn],
            "well_formed": well_formed(task, row, answer.text, turn),
            "faithful": faithful(task, row, answer.text, turn),
            "loop": ends_in_loop(answer.tokens),
        }
        for (task, row), answers in zip(asked, replies, strict=True)
        for turn, answer in enumerate(answers)
    ]
    rates: dict[str, float] = {}
    for measure in ("well_formed", "faithful", "loop"):
        shares = defaultdict(list)
        for sample in samples:
            shares[sample["task"]].append(sample[measure])
        means = {task: sum(values) / len(values) for task, values in shares.items()}
        means["mean"] = sum(means.values()) / len(means)
        rates |= {f"{measure}.{task}": value for task, value in means.items()}
    return rates, samples


def train_target(options: Options, run: StageRun) -> None:
    """The stage: tokenizer, training, rounding, evaluation, files."""
    check_target(options)
    corpus, others = (
        read_conversations(options.prompts / "corpus"),
        read_conversations(options.prompts / "validation"),
    )
    tokenizer = train_tokenizer(_texts(corpus), options.vocab_size)
    documents = encode_conversations(corpus, tokenizer)
    device = resolve_device(options.device)
    held_out = {
        task: pack(encode_conversations({task: rows[: options.held_out_count]}, tokenizer), HELD_OUT_ROW)
        for task, rows in others.items()
    }
    held_out = {task: rows.to(device) for task, rows in held_out.items()}
    trainer = Trainer(options, build_model(options, tokenizer).to(device), _fingerprint(options))
    if trainer.restore(options.state):
        tqdm.write(f"train_target: continuing at step {trainer.step}")
    train(trainer, options, documents, held_out, run)

    model = trainer.model.eval()
    kind = rounded_type(options.dtype, device)
    round_weights(model, kind)
    final = {f"final_loss.{task}": value for task, value in held_out_loss(model, held_out).items()}
    for name, removed in ablations(options).items():
        losses = held_out_loss(without_blocks(model, removed), held_out)
        final |= {f"final_loss_without_{name}.{task}": value for task, value in losses.items()}
    rates, samples = quality(
        model, tokenizer, {task: rows[: options.sample_count] for task, rows in others.items()}
    )
    summary = final | rates | {"parameters": sum(p.numel() for p in model.parameters())}
    run.metrics(summary)
    with atomic_path(options.output) as folder:
        model.to(kind).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(
            folder / "training.json", {"summary": summary, "samples": samples, "history": trainer.history}
        )
        run.artifact(folder / "training.json")
    # Who asks for the target again wants it trained again.
    discard(options.state)
    tqdm.write("\n".join(f"{key}: {value:.3f}" for key, value in summary.items()))


def _texts(conversations: Conversations) -> list[str]:
    return [text for rows in conversations.values() for row in rows for text in (*row.turns, *row.reference)]


def _fingerprint(options: Options) -> str:
    """What a checkpoint must have in common with this run: every option but places and effort, and texts."""
    ignored = {"experiment", "prompts", "output", "state", "threads", "device", *effort.OPTIONS["target"]}
    values = {key: value for key, value in asdict(options).items() if key not in ignored}
    return f"{file_hash(options.prompts / 'corpus')} {values}"


def main(argv: list[str] | None = None) -> None:
    run_stage("train_target", Options, train_target, __doc__, argv)


if __name__ == "__main__":
    main()
