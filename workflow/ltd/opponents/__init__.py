"""Strong opponents of the learned policies: the observations, networks and actions of the chain `default`,
the same traces and prompts, other methods. The study tunes `ltd` alone.
"""

NAMES = ("best_constant", "marginal_rule", "supervised", "optimal_stopping")
