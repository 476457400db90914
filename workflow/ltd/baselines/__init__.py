"""Published rules that adapt depth or size, on this project's engine: the paper's baselines (section 5.1).

One file an algorithm. Each says what the rule decides and how it was carried over from chains to trees
where the literature leaves that open. A rule's constants are found by a search on the validation traces
that the static grid is chosen on, too; like their papers' they always draft. `<name>:published` has the
constants of the papers instead, cut to `tree.max_depth`, the largest depth of the traces: the papers draft up
to 12 levels, c2t 8.

Replay charges their networks what networks of that size were timed at. That of specdecpp is larger than any
timed, by 2.6 times in the default, and charged by the slope between the largest two: 107 microseconds a
decision, where decoding took 46 with other work running. Comparing a few numbers with a threshold is free on
a CPU, where it takes a thousandth of the time, and so is what gammatune keeps between cycles, 0.4% of it. On
a GPU every look at a draft waits for its scores, and is charged as a decision of the smallest network timed.
"""

NAMES = ("ddd", "svip", "gammatune", "disco", "specdecpp", "c2t")
# Those with a network of their own, which `<name>_hidden` and `<name>_epochs` shape.
CLASSIFIERS = ("disco", "specdecpp", "c2t")
FITTED, PUBLISHED = "fitted", "published"
# Every baseline, and with the constants of its paper.
METHODS = tuple(name + suffix for name in NAMES for suffix in ("", f":{PUBLISHED}"))
