"""The files of a finished experiment, as another one that reuses it finds them."""

import numpy as np
from safetensors.numpy import save_file

from ltd.files import write_json, write_jsonl
from pipeline import ROOT
from test_experiments import merged

TAUGHT = ["code", "chat"]


def finished(folder, beam=4, max_depth=4, tasks=TAUGHT, prompts=2):
    """The files of a finished experiment, empty where only their names count."""
    chains = [f"policies/{chain}" for chain in ("default", "paper", "ltd")]
    parts = ("best", "initial/size", "initial/depth", "iteration-0", "iteration-1")
    for name in ("target", "draft", *(f"{chain}/{part}" for chain in chains for part in parts)):
        (folder / name).mkdir(parents=True)
        (folder / name / "weights").write_text(name)
    for name in ("tuning/best.json", "tuning/trials.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    write_json(folder / "benchmark/grid.json", {"grids": [{"temperature": 0.0}]})
    for split in ("draft", "train", "validation", "test"):
        for file in (f"traces/{split}-t0-w{beam}", f"responses/{split}-t0"):
            (folder / file).parent.mkdir(exist_ok=True)
            save_file({"entropy": np.zeros(1), "features": np.zeros(1)}, folder / f"{file}.safetensors")
        write_json(folder / f"responses/{split}-t0.json", [split])
        for task in tasks:
            write_jsonl(folder / f"prompts/{split}/{task}.jsonl", [{"turns": ["Where?"]}] * prompts)
    write_json(folder / "latency/profile.json", {"beam": beam, "max_depth": max_depth})
    return folder


def finished_default(folder):
    """The same of the embedded default."""
    config = merged(ROOT / "config.yaml")
    prompts = config["prompts"]
    return finished(folder, **config["tree"], tasks=prompts["tasks"], prompts=prompts["test"])
