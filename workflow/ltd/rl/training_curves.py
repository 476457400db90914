"""The training curves of a policy: reward and validation speedup against steps (the paper's figure 3)."""

from matplotlib.figure import Figure

from ltd.rl.training_state import Training


def curves_figure(kind: str, training: Training) -> Figure:
    """Draw mean reward and validation speedup; the chosen checkpoint is marked."""
    steps = [row["steps"] for row in training.curves]
    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps[1:], [row["reward"] for row in training.curves[1:]])
    left.set(xlabel="environment steps", ylabel="mean reward a step", title=f"{kind} policy, training")
    right.plot(steps, [row["speedup"] for row in training.curves])
    right.axvline(training.best_steps, linestyle=":", color="grey", label="chosen checkpoint")
    right.set(xlabel="environment steps", ylabel="speedup over plain decoding", title="validation in replay")
    right.legend()
    return figure
