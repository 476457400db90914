"""Small fits of the opponents to made-up traces."""

import dataclasses

from ltd.fit_opponents import FitOpponentsOptions
from synthetic import save_inputs, synthetic_traces

SIZES = (1, 2, 4, 8, 16, 24)


def fit_options(folder):
    traces = synthetic_traces(seed=0, sequences=48), synthetic_traces(seed=1, sequences=12)
    return FitOpponentsOptions(
        opponent="best_constant",
        **save_inputs(folder, *traces),
        output=folder / "opponents" / "best_constant",
        sizes=SIZES,
        size_network=(32,),
        depth_network=(32,),
        fit_steps=300,
        fit_minibatch=256,
        fit_trials=1,
        fit_rounds=3,
        fit_folds=2,
    )


def of(options, name):
    return dataclasses.replace(options, opponent=name, output=options.output.with_name(name))
