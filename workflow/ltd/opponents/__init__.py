"""Strong opponents of the learned policies: same observations, traces, prompts and actions, other methods."""

NAMES = ("best_constant", "marginal_rule", "supervised", "optimal_stopping")
