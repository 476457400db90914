"""Which GPUs a training process has, and how a target is spread over them: decided without a GPU."""

import json

import pytest
import torch
from torch import nn

from ltd import train_draft as stage
from ltd.draft_head import processes as module
from ltd.draft_head.processes import Processes, gpus_of
from ltd.engine import model_loading
from ltd.engine.memory import MemoryPlan, check_spread, weight_limits
from ltd.errors import InputError
from ltd.tracking import StageRun
from test_train_draft import inputs, options  # noqa: F401 (a fixture)

GIB = 1 << 30
PLAN = MemoryPlan(weights=60, cache=8, draft=3, work=2)


def test_every_gpu_belongs_to_one_process():
    assert [list(gpus_of(rank, 2, 4)) for rank in range(2)] == [[0, 1], [2, 3]]
    assert [list(gpus_of(rank, 4, 4)) for rank in range(4)] == [[0], [1], [2], [3]]
    for processes, gpus in ((1, 3), (2, 8), (3, 6)):
        groups = [list(gpus_of(rank, processes, gpus)) for rank in range(processes)]
        assert [gpu for group in groups for gpu in group] == list(range(gpus))


@pytest.mark.parametrize(("processes", "gpus"), [(2, 3), (3, 4), (4, 2), (2, 0)])
def test_gpus_that_cannot_be_shared_evenly_are_refused(processes, gpus):
    with pytest.raises(InputError, match=rf"^draft\.processes: {processes} processes cannot share {gpus}"):
        gpus_of(0, processes, gpus)


def test_one_gpu_where_it_is_enough():
    assert weight_limits(PLAN, {2: 73, 3: 100}) == {2: 60}
    assert weight_limits(PLAN, {2: 93, 3: 100}, reserve=20) == {2: 60}


def test_the_first_gpu_keeps_room_for_training_and_every_one_for_its_passes():
    # 2 for passes and 4 of the cache on each; head and training on the first.
    assert weight_limits(PLAN, {2: 72, 3: 72}) == {2: 72 - 6 - 3, 3: 72 - 6}
    assert weight_limits(PLAN, {2: 72, 3: 72}, reserve=30) == {2: 72 - 6 - 33, 3: 72 - 6}
    assert weight_limits(PLAN, {0: 10, 1: 80}, reserve=30) == {0: 0, 1: 80 - 6}


def test_weights_that_fit_nowhere_are_refused_in_one_line():
    assert sum(check_spread(PLAN, {0: 40, 1: 35}, "big").values()) == 60
    with pytest.raises(InputError, match=r"^memory: big needs about .* GiB are free on GPU 0 ") as refusal:
        check_spread(PLAN, {0: 40, 1: 34}, "big")
    assert "\n" not in str(refusal.value)
    with pytest.raises(InputError, match=r"big and 0\.0 GiB for training needs"):
        check_spread(PLAN, {0: 40, 1: 35}, "big", reserve=1)


@pytest.fixture
def four_gpus(monkeypatch):
    """A machine that seems to have four GPUs of 24 GiB; says which one was made the current one."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1].index if chosen else 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (24 * GIB, 24 * GIB))
    return chosen


@pytest.fixture
def second_of_two(four_gpus, monkeypatch):
    """The environment of the second of two processes on that machine, as torchrun makes it."""
    told = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 1}
    for name, value in (told | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}).items():
        monkeypatch.setenv(name, str(value))
    groups = []
    monkeypatch.setattr(module.dist, "is_initialized", lambda: False)
    monkeypatch.setattr(
        module.dist, "init_process_group", lambda name, timeout, device_id: groups.append((name, device_id))
    )
    monkeypatch.setattr(module.dist, "get_rank", lambda: 1)
    return groups


def test_a_process_takes_its_group_and_the_first_of_it(four_gpus, second_of_two):
    processes = Processes.join("auto")
    assert (processes.rank, processes.count, list(processes.gpus)) == (1, 2, [2, 3])
    third = torch.device("cuda", 2)
    assert four_gpus == [third] and second_of_two == [("nccl", third)]


def test_groups_are_those_of_the_machine_not_of_all_machines(four_gpus, second_of_two, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")  # four machines of two processes
    assert list(Processes.join("cuda").gpus) == [2, 3]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_processes_without_a_launcher_are_refused(device, four_gpus, second_of_two, monkeypatch):
    for name in ("LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.delenv(name)
    with pytest.raises(
        InputError, match=r"2 processes, but LOCAL_RANK, MASTER_PORT not set; start .* torchrun"
    ):
        Processes.join(device)
    assert second_of_two == []


def test_uneven_groups_end_before_the_processes_meet(four_gpus, second_of_two, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(InputError, match="2 processes cannot share 3 GPUs"):
        Processes.join("auto")
    assert second_of_two == []


class Loaded(nn.Module):
    """What transformers would have loaded."""

    def __init__(self, device_map):
        super().__init__()
        self.hf_device_map = device_map


@pytest.fixture
def loader(four_gpus, monkeypatch):
    """Stands in for transformers: keeps the settings of a call and answers with `device_map`."""
    calls, device_map = [], {"model.layers.0": 2, "lm_head": 3}

    def from_pretrained(name, **settings):
        calls.append(settings)
        return Loaded(device_map)

    monkeypatch.setattr(model_loading.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(model_loading, "find_spec", lambda package: package)
    calls.append(device_map)
    return calls


@pytest.fixture
def large(tmp_path):
    """The configuration of a model of about 30 GiB in bfloat16."""
    shapes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 64, "vocab_size": 64000}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "model_type": "llama", "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(shapes | heads))
    return tmp_path


def test_a_target_is_spread_over_the_group_alone(large, loader):
    model_loading.load_model(large, device="cuda", gpus=[2, 3], reserve=5 * GIB)
    settings = loader[-1]
    assert settings["device_map"] == "sequential" and list(settings["max_memory"]) == [2, 3]
    assert settings["max_memory"][3] - settings["max_memory"][2] == 5 * GIB
    assert 20 * GIB < settings["max_memory"][3] < 23 * GIB


def test_without_a_group_it_is_spread_over_all(large, loader):
    model_loading.load_model(large, device="cuda")
    assert list(loader[-1]["max_memory"]) == [0, 1, 2, 3]


def test_a_group_too_small_is_refused_before_loading(large, loader):
    with pytest.raises(InputError, match=r"GiB are free on GPU 2 24\.0, 3 24\.0"):
        model_loading.load_model(large, device="cuda", gpus=[2, 3], reserve=20 * GIB)
    assert len(loader) == 1


def test_layers_left_for_the_cpu_are_refused(large, loader):
    loader[0]["lm_head"] = "disk"
    with pytest.raises(InputError, match="does not fit the GPUs layer by layer"):
        model_loading.load_model(large, device="cuda", gpus=[2, 3])


def test_the_stage_loads_over_its_group_with_room_for_the_head(
    inputs,  # noqa: F811
    tmp_path,
    second_of_two,
    monkeypatch,
    capsys,
):
    asked = {}

    def load(name, **settings):
        asked.update(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "load_model", load)
    with pytest.raises(KeyboardInterrupt):
        stage.train_draft(options(inputs, tmp_path, device="cuda", batch_rows=80), StageRun())
    assert list(asked["gpus"]) == [2, 3] and 0 < asked["reserve"] < GIB
    assert capsys.readouterr().out == ""  # the first process speaks


def test_the_stage_says_what_is_free_on_its_group(
    inputs,  # noqa: F811
    tmp_path,
    second_of_two,
    monkeypatch,
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GIB >> 1 + device.index, 0))
    with pytest.raises(InputError, match=r"training needs about .*, 0\.12 \+ 0\.06 GiB are free; use draft"):
        stage.train_draft(options(inputs, tmp_path, device="cuda", batch_rows=80), StageRun())
