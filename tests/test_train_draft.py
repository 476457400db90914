"""The stage: it learns, resumes after a kill with the same weights, and refuses input that cannot work."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ltd import train_draft as stage
from ltd.bfloat16 import in_bfloat16
from ltd.draft_head import trainer as trainer_module
from ltd.draft_head.eagle3 import load_head
from ltd.draft_head.features import cached_source, online_source, target_features
from ltd.draft_head.target_output import output_of
from ltd.draft_head.trainer import Trainer, epoch_batches
from ltd.draft_head.training import plan_chains, unroll, unroll_hits
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import decode
from ltd.engine.drafting import Drafter
from ltd.engine.model_loading import load_model
from ltd.engine.target import TargetModel
from ltd.errors import InputError
from ltd.texts.responses import Responses, Sequence
from ltd.tracking import StageRun

VOCAB = 48


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A target that has learnt to walk along a permutation of its tokens, and such walks as its answers."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    shapes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "vocab_size": VOCAB}
    target = LlamaForCausalLM(LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **shapes))
    successor = torch.randperm(VOCAB)
    optimiser = torch.optim.AdamW(target.parameters(), lr=1e-2)
    for _ in range(60):
        tokens = walk(successor, torch.randint(VOCAB, (16,)), 20)
        optimiser.zero_grad()
        target(tokens, labels=tokens).loss.backward()
        optimiser.step()
    target.save_pretrained(folder / "target")
    for name, count in (("train", 24), ("validation", 6)):
        walks = walk(successor, torch.randint(VOCAB, (count,)), 22)
        sequences = [
            Sequence(tokens[: 17 + index % 6], 3 + index % 4, f"task{index % 2}", index, 0)
            for index, tokens in enumerate(walks)
        ]
        Responses.from_sequences(sequences).save(folder / f"{name}.safetensors")
    return folder


def walk(successor, start, length):
    tokens = [start]
    while len(tokens) < length:
        tokens.append(successor[tokens[-1]])
    return torch.stack(tokens, dim=1)


def options(inputs, tmp_path, **changes):
    values = {
        "experiment": tmp_path,
        "target": str(inputs / "target"),
        "responses": inputs / "train.safetensors",
        "validation": inputs / "validation.safetensors",
        "output": tmp_path / "draft",
        "state": tmp_path / "state",
        "device": "cpu",
        "draft_vocab_size": 40,
        "unroll_steps": 4,
        "epochs": 6,
        "batch_rows": 40,
        "learning_rate": 1e-2,
    }
    return stage.TrainDraftOptions(**(values | changes))


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_it_learns_and_writes_a_loadable_head(inputs, tmp_path):
    stage.train_draft(options(inputs, tmp_path), StageRun())
    report = json.loads((tmp_path / "draft/training.json").read_text())
    assert [row["epoch"] for row in report["epochs"]] == [1, 2, 3, 4, 5, 6]
    assert set(report["best"]["tasks"]) == {"task0", "task1"} and len(report["best"]["acceptance"]) == 4
    assert report["best"]["acceptance_length"] == max(r["acceptance_length"] for r in report["epochs"])
    assert report["best"]["acceptance_length"] > report["epochs"][0]["acceptance_length"]
    assert report["best"]["acceptance"][0] > 0.75
    head = load_head(tmp_path / "draft", AutoModelForCausalLM.from_pretrained(inputs / "target"))
    assert head.config.tap_layers == (1, 2, 3) and int(head.t2d.sum()) == 40
    assert not (tmp_path / "state").exists()


def test_a_head_for_bfloat16_is_validated_and_saved_in_it(inputs, tmp_path):
    stage.train_draft(options(inputs, tmp_path, epochs=1, dtype="bfloat16"), StageRun())
    saved = [tensor for tensor in weights(tmp_path / "draft").values() if tensor.is_floating_point()]
    assert len(saved) > 10 and all(tensor.dtype == torch.bfloat16 for tensor in saved)
    model = load_model(inputs / "target", device="cpu", dtype="bfloat16")
    shape = stage.head_config(model.config, options(inputs, tmp_path))
    ids = torch.arange(40)
    assert in_bfloat16(stage.initial_head(shape, model, ids, output_of(model, ids)))


def test_decoding_accepts_what_validation_counts(inputs, tmp_path):
    """Chains of the engine and of the training-time test agree wherever decoding drafts."""
    stage.train_draft(options(inputs, tmp_path, epochs=3), StageRun())
    target = TargetModel(AutoModelForCausalLM.from_pretrained(inputs / "target"), packed=False)
    head = load_head(tmp_path / "draft", target)
    compared = []
    for sequence in stage.load_sequences(inputs / "validation.safetensors", VOCAB, 2048):
        prompt = sequence.tokens[: sequence.prompt_length]
        drafter = Drafter(head, beam=1, max_depth=4)
        answer = decode(target, drafter, StaticController(4, 4), prompt, max_new_tokens=20, eos_ids=[])
        tokens = torch.cat([prompt, torch.tensor(answer.tokens)])[None]
        lengths = torch.tensor([tokens.shape[1]])
        features = target_features(target.model, head.config.tap_layers, tokens, lengths)
        chains = plan_chains(torch.tensor([len(prompt)]), lengths, 4)
        with torch.no_grad():
            outputs = unroll(head, head.fuse(features.taps), tokens, chains)
        hits, _ = unroll_hits(head, outputs, chains, tokens, 4)
        accepted = dict(zip(chains.rows[0].tolist(), hits[0].int().cumprod(-1).sum(-1).tolist(), strict=True))
        for cycle in answer.cycles[:-1]:  # the last may be cut by the limit
            compared.append((cycle.accepted, accepted[cycle.context_length - 1]))
    assert all(live == counted for live, counted in compared)
    assert len(compared) > 10 and len(set(compared)) > 1


def test_a_killed_run_continues_to_the_same_weights(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("ltd.draft_head.trainer.CHECKPOINT_EVERY", 2)
    settings = {"epochs": 2}
    stage.train_draft(options(inputs, tmp_path / "whole", **settings), StageRun())
    step, calls = Trainer._step, []

    def interrupted(self, batch, position):
        calls.append(position)
        if len(calls) == 14:
            raise KeyboardInterrupt
        return step(self, batch, position)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stage.train_draft(options(inputs, tmp_path / "killed", **settings), StageRun())
    assert not (tmp_path / "killed/draft").exists()
    stage.train_draft(options(inputs, tmp_path / "killed", **settings), StageRun())
    total = len(calls)
    assert same(weights(tmp_path / "whole/draft"), weights(tmp_path / "killed/draft"))
    steps = 2 * len(epoch_batches(stage.load_sequences(inputs / "train.safetensors", VOCAB, 2048), 40, 0, 0))
    assert total < steps + 14  # it did not begin again


@pytest.fixture
def trained(inputs, tmp_path, monkeypatch):
    """One epoch: the trainer, and the batches of its steps."""
    trainers, batches, step = [], [], Trainer._step

    def noted(self, batch, position):
        trainers.append(self)
        batches.append(batch)
        return step(self, batch, position)

    monkeypatch.setattr(Trainer, "_step", noted)
    stage.train_draft(options(inputs, tmp_path, epochs=1, draft_vocab_size=30), StageRun())
    return trainers[0], batches


def test_the_teacher_tells_the_answer_within_the_draft_vocabulary(trained):
    trainer, batches = trained
    outside = 0
    for batch in batches:
        teacher, rows = trainer._teacher(batch)
        torch.testing.assert_close(teacher.sum(-1), torch.ones(len(teacher)))
        position = torch.arange(batch.tokens.shape[1])
        inside = (position >= batch.prompt_lengths[:, None]) & (position < batch.lengths[:, None])
        known = trainer.head.t2d[batch.best]
        assert torch.equal(rows >= 0, inside & known)
        outside += int((inside & ~known).sum())
    assert outside > 0


def test_learning_rate_warms_up_and_decays_to_zero(trained):
    trainer, warm_up = trained[0], trained[0].recipe.warmup
    progress = (0, warm_up / 2, warm_up, (1 + warm_up) / 2, 1)
    assert 0 < warm_up < 1
    assert [trainer._rate(each) for each in progress] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_every_step_draws_chains_of_its_own(inputs, tmp_path, monkeypatch):
    seeds = []

    def noted(*arguments):
        seeds.extend(each.initial_seed() for each in arguments if isinstance(each, torch.Generator))
        return plan_chains(*arguments)

    monkeypatch.setattr("ltd.draft_head.trainer.plan_chains", noted)
    stage.train_draft(options(inputs, tmp_path, epochs=1), StageRun())
    assert len(seeds) > 3 and len(set(seeds)) == len(seeds)


def test_a_head_is_kept_where_it_does_better_than_before(inputs, tmp_path, monkeypatch):
    lengths, kept = iter([1.0, 3.0, 2.0]), []
    save = trainer_module.save_head

    def noted(head, *arguments):
        kept.append(head.fc.weight.clone())
        save(head, *arguments)

    monkeypatch.setattr(trainer_module, "save_head", noted)
    monkeypatch.setattr(
        Trainer, "validate", lambda *_: {"acceptance": [], "acceptance_length": next(lengths), "tasks": {}}
    )
    stage.train_draft(options(inputs, tmp_path, epochs=3), StageRun())
    assert len(kept) == 2
    saved = weights(tmp_path / "draft")["fc.weight"]
    assert torch.equal(saved, kept[1].to(saved.dtype)) and not torch.equal(saved, kept[0].to(saved.dtype))


def test_checkpoint_of_other_settings_is_not_continued(inputs, tmp_path, monkeypatch):
    stage.train_draft(options(inputs, tmp_path / "fresh", epochs=1, seed=1), StageRun())
    monkeypatch.setattr(stage, "_write", lambda *_: None)
    settings = options(inputs, tmp_path / "other", epochs=1, seed=0)
    monkeypatch.setattr(StageRun, "artifact", lambda *_: None)
    stage.train_draft(settings, StageRun())
    assert (tmp_path / "other/state/checkpoint.pt").is_file()
    monkeypatch.undo()
    stage.train_draft(options(inputs, tmp_path / "other", epochs=1, seed=1), StageRun())
    assert same(weights(tmp_path / "fresh/draft"), weights(tmp_path / "other/draft"))


def test_cached_features_equal_recomputed_ones(inputs, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(inputs / "target")
    sequences = stage.load_sequences(inputs / "train.safetensors", VOCAB, 2048)
    online = online_source(model, (1, 2, 3), sequences)
    members = [3, 7, 11]
    cached = cached_source(model, (1, 2, 3), sequences, tmp_path / "features", batch_rows=50)(members)
    again = cached_source(model, (1, 2, 3), sequences, tmp_path / "features", batch_rows=50)(members)
    fresh = online(members)
    for row, index in enumerate(members):
        length = len(sequences[index].tokens)
        torch.testing.assert_close(cached.taps[row, :length], fresh.taps[row, :length], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(
            cached.final[row, :length], fresh.final[row, :length], rtol=1e-3, atol=1e-3
        )
        assert torch.equal(cached.best[row, :length], fresh.best[row, :length])
    assert torch.equal(cached.taps, again.taps)


def test_bfloat16_features_keep_their_range_on_disk(inputs, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(inputs / "target", dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[5] *= 1e6  # one wide channel, as large models have them
    sequences = stage.load_sequences(inputs / "train.safetensors", VOCAB, 2048)
    fresh = online_source(model, (1, 2, 3), sequences)([3])
    cached = cached_source(model, (1, 2, 3), sequences, tmp_path / "features", batch_rows=50)([3])
    assert cached.taps.dtype == torch.bfloat16 and fresh.taps.abs().max() > torch.finfo(torch.float16).max
    assert torch.allclose(cached.taps, fresh.taps, rtol=2e-2, atol=1e-2)
    with pytest.raises(InputError, match=r"features of the target leave the range .* use 0"):
        cached_source(model.float(), (1, 2, 3), sequences, tmp_path / "half", batch_rows=50)
    assert not list(tmp_path.glob("*half*"))


def test_a_full_disk_is_refused_before_features_are_computed(inputs, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("ltd.draft_head.features.shutil.disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"draft\.feature_cache_gib: .* features take .* smaller number"):
        stage.train_draft(options(inputs, tmp_path), StageRun())


def test_recomputed_features_train_the_same_head(inputs, tmp_path, monkeypatch):
    """And gradient checkpointing does: the two that make real targets fit."""
    monkeypatch.setattr(stage, "_write", lambda options, *_: None)
    monkeypatch.setattr(StageRun, "artifact", lambda *_: None)
    changes = {"kept": {}, "small": {"feature_cache_gib": 0.0, "gradient_checkpointing": True}}
    for name, change in changes.items():
        stage.train_draft(options(inputs, tmp_path / name, epochs=2, **change), StageRun())
    assert list((tmp_path / "kept/state").glob("features-train-*"))
    assert not list((tmp_path / "small/state").glob("features-*"))
    kept, small = (weights(tmp_path / name / "state/best") for name in changes)
    for name, weight in kept.items():
        torch.testing.assert_close(small[name].float(), weight.float(), rtol=0, atol=1e-2)


def test_who_runs_out_of_memory_may_go_on_with_checkpointing(inputs, tmp_path):
    plain = options(inputs, tmp_path)
    for change in ({"gradient_checkpointing": True}, {"feature_cache_gib": 0.0}):
        assert stage._input_key(plain) == stage._input_key(options(inputs, tmp_path, **change))
    assert stage._input_key(plain) != stage._input_key(options(inputs, tmp_path, unroll_steps=3))


def test_features_are_the_named_hidden_states(inputs):
    model = AutoModelForCausalLM.from_pretrained(inputs / "target")
    sequences = stage.load_sequences(inputs / "train.safetensors", VOCAB, 2048)
    features = online_source(model, (1, 2, 3), sequences)([5, 0])
    for row, index in enumerate([5, 0]):
        tokens = sequences[index].tokens
        output = model(tokens[None], output_hidden_states=True)
        taps = torch.cat(output.hidden_states[1:4], dim=-1)[0]
        torch.testing.assert_close(features.taps[row, : len(tokens)], taps, rtol=1e-4, atol=1e-5)
        assert torch.equal(features.best[row, : len(tokens)], output.logits[0].argmax(-1))


def test_batches_cover_every_sequence_once_and_change_by_epoch(inputs):
    sequences = stage.load_sequences(inputs / "train.safetensors", VOCAB, 2048)
    first, second = (epoch_batches(sequences, 40, seed=0, epoch=epoch) for epoch in (0, 1))
    for batches in (first, second):
        assert sorted(index for batch in batches for index in batch) == list(range(len(sequences)))
    assert first != second and first == epoch_batches(sequences, 40, seed=0, epoch=0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"unroll_steps": 0}, "draft.unroll_steps: 0 is too small"),
        ({"step_weight": 1.5}, "draft.step_weight: 1.5"),
        ({"learning_rate": 0.0}, "draft.learning_rate: 0.0"),
        ({"warmup": 1.0}, "draft.warmup: 1.0"),
        ({"draft_vocab_size": 49}, "draft.draft_vocab_size: 49 is more than the target's 48"),
        ({"tap_layers": (1, 2)}, "draft.tap_layers: tapped hidden states"),
        ({"tap_layers": (1, 2, 4)}, "between 0 and 3"),
        ({"max_length": 2}, "no answer of two tokens or more"),
        ({"target": "no/such/folder"}, "target: no/such/folder is neither a folder"),
        ({"responses": Path("nowhere.safetensors")}, "nowhere.safetensors: no such file"),
    ],
)
def test_wrong_input_is_named_before_any_work(changes, message, inputs, tmp_path):
    with pytest.raises(InputError, match=message):
        stage.train_draft(options(inputs, tmp_path, **changes), StageRun())
    assert not (tmp_path / "state").exists()


def test_answers_of_another_target_are_refused(inputs, tmp_path):
    Responses.from_sequences([Sequence(torch.full((9,), VOCAB), 3, "a", 0, 0)]).save(
        tmp_path / "r.safetensors"
    )
    with pytest.raises(InputError, match="token 48 is not in the target's vocabulary"):
        stage.train_draft(options(inputs, tmp_path, responses=tmp_path / "r.safetensors"), StageRun())


WORKER = """
from pathlib import Path
from test_train_draft import options, stage
from ltd.engine.target import TargetModel
from ltd.tracking import StageRun
stage.train_draft(options(Path({inputs!r}), Path({folder!r})), StageRun())
"""


def test_sigkill_leaves_nothing_that_is_taken_for_whole(inputs, tmp_path):
    """The stage in a process of its own, killed after its first checkpoint; then run again to the end."""
    code = WORKER.format(inputs=str(inputs), folder=str(tmp_path / "killed"))
    folders = [str(Path(stage.__file__).parents[1]), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    settings = options(inputs, tmp_path / "killed")
    while process.poll() is None and not (settings.state / "checkpoint.pt").is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (settings.state / "checkpoint.pt").is_file() and not settings.output.exists()
    stage.train_draft(settings, StageRun())
    assert (settings.output / "model.safetensors").is_file() and not settings.state.exists()
