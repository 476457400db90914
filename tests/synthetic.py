"""Made-up traces and latency profiles for tests: small, seeded, with something to adapt to."""

import numpy as np

from ltd.replay.latency import LatencyProfile, LatencyTable
from ltd.replay.traces import Traces, level_starts, pool_size, true_path_ranks

TASKS = ("chat", "code")


def synthetic_traces(
    seed=0,
    sequences=8,
    answer_tokens=(20, 60),
    prompt_tokens=(10, 40),
    beam=4,
    max_depth=6,
    with_optional=False,
    tasks=TASKS,
):
    """Traces whose draft is calibrated: the continuation takes children by probability.

    How certain the draft is drifts slowly along an answer and differs by task, so that a policy that reads
    the scores gains over any constant choice; so does one that knows what drafts after a root bring.
    """
    rng = np.random.default_rng(seed)
    prompts = rng.integers(*prompt_tokens, sequences, endpoint=True)
    answers = rng.integers(*answer_tokens, sequences, endpoint=True)
    sequence = np.repeat(np.arange(sequences, dtype=np.int32), answers)
    place = np.arange(len(sequence)) - np.repeat(np.cumsum(answers) - answers, answers)
    drift = np.sin(place / 5 + np.repeat(rng.uniform(0, 6, sequences), answers))
    sharpness = np.exp(0.8 * drift + 0.7 * (sequence % len(tasks)) - 0.3)
    scores, true_node, beams, entropy = _draft(rng, sharpness, beam, max_depth)
    tokens_left = (np.repeat(answers, answers) - place).astype(np.int32)
    true_node[np.arange(max_depth) >= tokens_left[:, None]] = -1
    return Traces(
        scores=scores,
        true_node=true_node,
        ranks=true_path_ranks(scores, true_node, beam),
        beams=beams,
        root=(8 * np.log(sharpness) + 20).astype(np.int32),
        context_length=(np.repeat(prompts, answers) + place).astype(np.int32),
        sequence=sequence,
        tokens_left=tokens_left,
        beam=beam,
        max_depth=max_depth,
        temperature=0.0,
        target_hash="target",
        draft_hash="draft",
        sequences=[
            {"task": tasks[i % len(tasks)], "question_id": i // len(tasks), "turn": 0}
            for i in range(sequences)
        ],
        entropy=entropy if with_optional else None,
        features=rng.normal(size=(len(sequence), max_depth, 8)).astype(np.float16) if with_optional else None,
    )


def save_inputs(folder, training, validation, profile=None):
    """Write traces of two splits and a profile; their paths by the options of stages that read them."""
    splits = {"traces": folder / "train.safetensors", "validation_traces": folder / "validation.safetensors"}
    paths = splits | {"profile": folder / "profile.json"}
    contents = training, validation, profile or synthetic_profile()
    for path, content in zip(paths.values(), contents, strict=True):
        content.save(path)
    return paths


def with_free_decisions(profile):
    """The same machine, on which the policies take no time."""
    for name in ("depth_policy", "size_policy"):
        table = profile.tables[name]
        profile = profile.replace_table(name, LatencyTable(table.axis, (0 * np.array(table.ms)).tolist()))
    return profile


def _draft(rng, sharpness, beam, max_depth):
    n = len(sharpness)
    scores = np.empty((n, pool_size(beam, max_depth)), dtype=np.float32)
    true_node = np.full((n, max_depth), -1, dtype=np.int32)
    beams = np.empty((n, max_depth, beam), dtype=np.uint8)
    entropy = np.empty((n, max_depth), dtype=np.float32)
    parent_scores = np.zeros((n, 1), dtype=np.float32)
    on_path = np.zeros(n, dtype=np.int64)  # place in the beam of the node on the continuation, -1: lost
    for level, start in enumerate(level_starts(beam, max_depth)):
        logits = np.sort(rng.normal(size=(n, parent_scores.shape[1], 4 * beam)), axis=-1)[..., ::-1]
        logits = logits * 2 * sharpness[:, None, None]
        log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        entropy[:, level] = -(np.exp(log_probabilities[:, 0]) * log_probabilities[:, 0]).sum(-1)
        children = log_probabilities[..., :beam].astype(np.float32)
        level_scores = (parent_scores[..., None] + children).reshape(n, -1)
        scores[:, start : start + level_scores.shape[1]] = level_scores
        # The token that follows: rank r of the parent's children, drawn from the drafted distribution.
        drafted = np.exp(log_probabilities[np.arange(n), np.maximum(on_path, 0)])
        rank = (drafted.cumsum(-1) < rng.random(n)[:, None]).sum(-1)
        inside = (on_path >= 0) & (rank < beam)
        node = np.maximum(on_path, 0) * beam + rank
        true_node[inside, level] = start + node[inside]
        beams[:, level] = np.argsort(-level_scores, axis=1, kind="stable")[:, :beam]
        found = (beams[:, level] == node[:, None]) & inside[:, None]
        on_path = np.where(found.any(1), found.argmax(1), -1)
        parent_scores = np.take_along_axis(level_scores, beams[:, level].astype(np.int64), axis=1)
    return scores, true_node, beams, entropy


def synthetic_profile(
    beam=4, max_depth=6, max_size=60, verify_slope=0.12, target_hash="target", draft_hash="draft"
):
    """A CPU-like machine: an autoregressive step of 1 ms, verification that grows with every node."""
    contexts = [16, 64, 256]
    longer = np.array([1.0, 1.05, 1.3])

    def table(axis, ms):
        return LatencyTable(
            [int(point) for point in axis], (np.array(ms)[:, None] * longer).tolist(), None, 20
        )

    sizes = sorted({1, 2, 4, 8, 12, 16, 24, 32, 48, max_size} & set(range(1, max_size + 1)))
    size_array = np.array(sizes)
    rows = np.array([1, 2, 4, 8, 16])
    return LatencyProfile(
        device="synthetic",
        device_type="cpu",
        dtype="float32",
        threads=1,
        versions={},
        target_hash="target",
        draft_hash="draft",
        beam=beam,
        max_depth=max_depth,
        context_lengths=contexts,
        policy_network=[32, 32],
        tables={
            "autoregressive_step": table([1], [1.0]),
            "plain_step": table([1], [1.1]),
            "draft_prefix": table(rows, 0.08 + 0.01 * rows),
            "draft_step": table(range(2, max_depth + 1), [0.1] * (max_depth - 1)),
            "verify": table(sizes, 1.0 + verify_slope * size_array + 0.1 * (size_array > 8)),
            "depth_policy": table([1], [0.004]),
            "size_policy": table([1], [0.006]),
            "rest": table(sizes, 0.02 + 0.0005 * size_array),
        },
    )
