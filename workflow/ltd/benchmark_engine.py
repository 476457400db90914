"""How fast the engine is on this machine, phase by phase, beside plain transformers.

    python -m ltd.benchmark_engine --target results/default/target --draft results/default/draft
    python -m ltd.benchmark_engine --shape llama31-8b --device cuda

Everything is measured round by round in one process, so that drift of the machine meets all phases alike;
the table shows medians, and minima for a machine that is not quiet. Steps and verification are the passes
that decoding makes (`ltd.engine.verification`), each tree drafted just before. Where a CPU holds the
weights in 16 bits, steps over a float32 copy are timed, too; transformers computes in float32 there, without
the roundings of `ltd.bfloat16`. Whole cycles, plain ones too, and transformers are greedy unless a
temperature is given, which shows what sampling costs. Random weights serve as well for timing: give a shape,
one of `workflow/experiments/shapes/`, instead of folders.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ltd.bfloat16 import in_bfloat16, without_rounding
from ltd.devices import device_name, resolve_device, set_threads, synchronise
from ltd.engine.controllers import StaticController
from ltd.engine.decoding import Generation, decode, decode_autoregressive
from ltd.engine.drafting import Drafter
from ltd.engine.loading import load_engine, within_limits
from ltd.engine.model_loading import read_config
from ltd.engine.sampling import SamplingOptions
from ltd.engine.target import DEFAULT_CONTEXT, TargetModel
from ltd.engine.verification import Verification, make_verification
from ltd.errors import InputError
from ltd.options import ModelOptions, option, parse_options

# Configurations without weights: a folder with config.json for a target, in it draft/ for its head.
SHAPES = Path(__file__).parents[1] / "experiments" / "shapes"
LARGEST_COPY = 1 << 30
SHORT_CYCLES = ((1, 1), (2, 3))  # depth and size, as policies choose them where drafts are seldom accepted
BASELINE = "transformers generate"
REST = "rest of "


@dataclass(frozen=True, kw_only=True)
class EngineBenchmarkOptions(ModelOptions):
    """Options of the command."""

    target: str | None = option(None, "target model, folder or hub id")
    draft: str | None = option(None, "its Eagle3 head, folder or hub id")
    shape: str | None = option(
        None,
        "in the place of both, random weights of this shape",
        choices=tuple(sorted(folder.name for folder in SHAPES.glob("*"))),
    )
    context: int = option(200, "tokens in the cache")
    rounds: int = option(10, "rounds over all phases")
    repetitions: int = option(8, "calls a phase and round")
    sizes: tuple[int, ...] = option((1, 2, 4, 8, 16, 32, 64, 128), "verification sizes")
    beam: int = option(10, "beam of the draft")
    depth: int = option(5, "draft depth of the whole cycles")
    size: int = option(16, "verification size of the whole cycles")
    temperature: float = option(0.0, "of the whole cycles and of transformers; 0 is greedy")
    top_k: int | None = option(None, "sample among the k most probable tokens")
    top_p: float | None = option(None, "sample among the most probable tokens of this total probability")
    seed: int = option(0, "seed of random weights, of what is decoded and of sampling")
    threads: int = option(0, "threads of the CPU kernels; 0 takes all cores")

    def sampling(self) -> SamplingOptions:
        """Raises InputError for what cannot be."""
        return SamplingOptions(self.temperature, self.top_k, self.top_p, self.seed)


class EngineBenchmark:
    """Phases of decoding as calls to repeat; `milliseconds` holds what every call took, by phase."""

    def __init__(self, target: TargetModel, drafter: Drafter, options: EngineBenchmarkOptions) -> None:
        self.drafter, self.target, self.options = drafter, target, options
        rounds = in_bfloat16(target.model)
        self.baseline = without_rounding(target.model) if rounds else target.model
        self.plain = None
        if target.packed_layers:
            self.plain = TargetModel(
                self.baseline,
                tap_layers=target.tap_layers,
                max_context=target.max_context,
                max_tree=target.max_tree,
                packed=False,
            )
        generator = torch.Generator().manual_seed(options.seed)
        self.prompt = torch.randint(target.vocab_size, (options.context,), generator=generator).to(
            target.device
        )
        self.milliseconds: dict[str, list[float]] = defaultdict(list)

    def run(self) -> None:
        """Warm up for a round, then measure."""
        for number in tqdm(range(self.options.rounds + 1), desc="benchmark_engine", unit="round"):
            self._round()
            if number == 0:
                self.milliseconds.clear()

    @torch.inference_mode()
    def _round(self) -> None:
        self._generate()
        self._steps("autoregressive step", self.target)
        if self.plain is not None:
            self._steps("autoregressive step, float32 layers", self.plain)
        self._draft()
        self._verify()
        self._cycles()

    def _time(self, phase: str, call: Callable[[], object]) -> None:
        synchronise(self.target.device)
        started = time.perf_counter()
        call()
        synchronise(self.target.device)
        self.milliseconds[phase].append((time.perf_counter() - started) * 1e3)

    def _generate(self) -> None:
        """Prefill and first token measured apart: what remains is the cost of a token."""
        tokens, ids, options = self.options.repetitions, self.prompt[None], self.options
        choice = {"do_sample": options.temperature > 0, "pad_token_id": 0}
        if options.temperature > 0:
            choice |= {
                "temperature": options.temperature,
                "top_k": options.top_k or 0,
                "top_p": options.top_p,
            }
        took = []
        for count in (1, tokens + 1):
            synchronise(self.target.device)
            started = time.perf_counter()
            self.baseline.generate(ids, max_new_tokens=count, min_new_tokens=count, **choice).tolist()
            took.append(time.perf_counter() - started)
        self.milliseconds[BASELINE].append((took[1] - took[0]) * 1e3 / tokens)

    def _steps(self, phase: str, target: TargetModel) -> None:
        logits, _ = target.prefill(self.prompt)
        verification = begin_verification(target, None, logits.argmax()[None])
        for position in range(1, self.options.repetitions + 1):
            self._time(phase, verification.step)
            verification.follow(position)
            verification.keep(1)

    def _start(self) -> None:
        logits, taps = self.target.prefill(self.prompt)
        self.taps, self.token = taps, logits.argmax()[None]
        self.drafter.prefill(taps, self.prompt)
        self.drafter.defer(taps[-1:], self.token)

    def _draft(self) -> None:
        drafter = self.drafter
        self._start()
        for _ in range(self.options.repetitions):
            self._time("draft prefix pass, 1 row", drafter.extend)
            for _ in range(drafter.max_depth - 1):
                self._time("draft step", drafter.expand)
            drafter.defer(self.taps[-1:], self.token)

    def _verify(self) -> None:
        """Whole cycles that keep one token each, so that all sizes meet the same contexts."""
        drafter = self.drafter
        for size in self.options.sizes:
            self._start()
            verification = begin_verification(self.target, drafter, self.token)
            for position in range(1, self.options.repetitions + 1):
                drafter.extend()
                for _ in range(drafter.max_depth - 1):
                    drafter.expand()
                selected = verification.select(size)
                self._time(f"verification of {selected}", verification.verify)
                verification.follow(position)
                verification.keep(1)

    def _cycles(self) -> None:
        limits = {"max_new_tokens": 2 * self.options.repetitions, "eos_ids": ()}
        limits |= asdict(self.options.sampling())
        plain = decode_autoregressive(self.target, self.prompt, **limits)
        self._record("autoregressive cycle", plain)
        for depth, size in cycle_shapes(self.options):
            controller = StaticController(depth, size)
            drafted = decode(self.target, self.drafter, controller, self.prompt, **limits)
            self._record(f"cycle of depth {depth}, size {size}", drafted)

    def _record(self, kind: str, generation: Generation) -> None:
        for cycle in generation.cycles:
            total = cycle.draft_ms + cycle.verify_ms + cycle.policy_ms + cycle.rest_ms
            self.milliseconds[kind].append(total)
            self.milliseconds[REST + kind].append(cycle.rest_ms)


def begin_verification(target: TargetModel, drafter: Drafter | None, token: Tensor) -> Verification:
    """What greedy decoding verifies with, behind a prefill whose newest token is `token` [1]."""
    verification = make_verification(target, drafter, SamplingOptions())
    verification.begin(token)
    return verification


def cycle_shapes(options: EngineBenchmarkOptions) -> tuple[tuple[int, int], ...]:
    """Depths and sizes of the whole cycles."""
    return tuple(dict.fromkeys((*SHORT_CYCLES, (options.depth, options.size))))


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Bytes a second that a copy of `size` bytes moves, reads and writes counted; best of ten.

    As much as the weights, so that they profit from caches alike.
    """
    size = min(size, LARGEST_COPY)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    sink = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        synchronise(device)
        started = time.perf_counter()
        sink.copy_(source)
        synchronise(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size / best


def weight_bytes(target: TargetModel) -> int:
    """Bytes of weights that an autoregressive step reads: all but the embedding table, packed ones halved."""
    model = target.model
    weights = {
        id(w): w for layer in model.modules() if isinstance(layer, nn.Linear) for w in layer.parameters()
    }
    size = sum(weight.numel() * weight.element_size() for weight in weights.values())
    return size // 2 if target.packed_layers else size


def table(benchmark: EngineBenchmark, bandwidth: float) -> str:
    """Markdown table of all phases, in milliseconds and relative to the autoregressive step."""
    target, times = benchmark.target, benchmark.milliseconds
    bound = weight_bytes(target) / bandwidth * 1e3
    step = median(times["autoregressive step"])
    lines = [
        f"{device_name(target.device)}, {torch.get_num_threads()} threads, {target.number_type}, "
        f"{target.packed_layers} packed layers, context {benchmark.options.context}, "
        f"{sampling_name(benchmark.options.sampling())}",
        f"weights {weight_bytes(target) / 1e6:.1f} MB, copy bandwidth {bandwidth / 1e9:.1f} GB/s: at least "
        f"{bound:.2f} ms a step",
        "",
        "| phase | median ms | minimum ms | of a step | tokens/s |",
        "|---|---|---|---|---|",
    ]
    for phase, values in times.items():
        middle = median(values)
        speed = f"{1e3 / middle:.0f}" if phase == BASELINE or phase.startswith("autoregressive") else ""
        lines.append(f"| {phase} | {middle:.3f} | {min(values):.3f} | {middle / step:.2f} | {speed} |")
    rests = [phase for phase in times if phase.startswith(REST)]
    shares = (f"{median(times[rest]) / median(times[rest.removeprefix(REST)]):.1%}" for rest in rests)
    lines += [
        "",
        f"autoregressive step: {median(times[BASELINE]) / step:.2f}x faster than transformers, "
        f"{step / bound:.2f}x the bandwidth bound",
        "; ".join(f"{rest}: {share}" for rest, share in zip(rests, shares, strict=True)),
    ]
    return "\n".join(lines)


def sampling_name(options: SamplingOptions) -> str:
    """How tokens of whole cycles are chosen, in words."""
    if options.temperature == 0:
        return "greedy"
    limits = [f"{name} {value:g}" for name in ("top_k", "top_p") if (value := getattr(options, name))]
    return ", ".join([f"temperature {options.temperature:g}", *limits])


def tokens_needed(options: EngineBenchmarkOptions) -> int:
    """Tokens in the cache at most: every phase of a round begins with a prompt anew."""
    return options.context + 4 * options.repetitions


def largest_tree(options: EngineBenchmarkOptions) -> int:
    """Nodes of the largest tree that is verified."""
    return max(*options.sizes, *(size for _, size in cycle_shapes(options)))


def check(options: EngineBenchmarkOptions) -> None:
    """Refuse options that cannot work, before anything is read."""
    options.sampling()
    for name in ("context", "rounds", "repetitions", "beam", "depth", "size"):
        if (value := getattr(options, name)) < 1:
            raise InputError(f"{name}: {value} is not at least 1")
    if min(options.sizes, default=0) < 1:
        raise InputError(f"sizes: {list(options.sizes)} are not one or more numbers of nodes of at least 1")
    if (options.target is None) == (options.shape is None):
        raise InputError("target: name a model, or in its place the shape of one with random weights")
    if options.shape is not None and options.draft is not None:
        raise InputError("draft: a shape brings its own; leave it out, or name a target, not a shape")
    if options.shape is None and options.draft is None:
        raise InputError("draft: none given; name the folder or hub id of the target's Eagle3 head")


def load_engine_of(options: EngineBenchmarkOptions) -> tuple[TargetModel, Drafter]:
    """Target and drafter of the folders or of the shape.

    Raises InputError as `load_engine` does, and before models are read for a context beyond the target's.
    """
    folder = None if options.shape is None else SHAPES / options.shape
    target = options.target if folder is None else folder
    needed, max_tree = tokens_needed(options), largest_tree(options)
    max_context = within_limits(read_config(target), max(DEFAULT_CONTEXT, needed), max_tree)
    if needed > max_context:
        raise InputError(f"context: {options.context} and the steps after it exceed {max_context} tokens")
    return load_engine(
        target,
        options.draft if folder is None else folder / "draft",
        beam=options.beam,
        max_depth=max(options.depth, 2),
        device=options.device,
        dtype=options.dtype,
        quantisation=options.quantisation,
        weights="checkpoint" if folder is None else "random",
        max_context=max_context,
        max_tree=max_tree,
    )


def benchmark_engine(options: EngineBenchmarkOptions) -> str:
    """Load or make the models, measure, and return the table; raises InputError for options that cannot work
    and for models that do not fit.
    """
    check(options)
    device = resolve_device(options.device)
    torch.manual_seed(options.seed)
    target, drafter = load_engine_of(options)
    benchmark = EngineBenchmark(target, drafter, options)
    benchmark.run()
    return table(benchmark, copy_bandwidth(device, weight_bytes(target)))


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the options and print the table; wrong input is one line and exit status 2."""
    options = parse_options(EngineBenchmarkOptions, __doc__, argv)
    try:
        set_threads(options.threads)
        print(benchmark_engine(options))
    except InputError as error:
        print(f"benchmark_engine: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
