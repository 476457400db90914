"""Strong opponents of the learned policies: the same observations, networks, actions, traces and prompts,
other methods. Those that are fitted networks are tuned in about the time of the study that tunes `ltd`.
"""

NAMES = ("best_constant", "marginal_rule", "supervised", "optimal_stopping")
