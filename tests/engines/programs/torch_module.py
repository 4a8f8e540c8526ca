"""Run by test_torch_module.py with the Python that has torch and transformers: everything about penstock.load_into.

python torch_module.py FOLDER, in which `llama` is a model of two shards
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

import penstock
from penstock.engines.torch_module import meta_parameters
from penstock.errors import PenstockError, UsageError

ROOM = Path(sys.argv[1])
LLAMA = ROOM / "llama"


class Small(nn.Module):
    """Of everything one: a parameter, a tied one, a buffer that is saved, and one that is computed."""

    def __init__(self, *, tied: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 8, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.register_buffer("table", torch.arange(4.0), persistent=False)


def save(name: str, tensors: dict[str, torch.Tensor]) -> Path:
    (ROOM / name).mkdir()
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, ROOM / name / "model.safetensors")
    return ROOM / name


def small_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    module = Small()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    module.norm.num_batches_tracked.fill_(5)
    return {name: tensor for name, tensor in module.state_dict().items() if name != "head.weight"}


def refused(said: str, act: Callable[[], object], kind: type[PenstockError] = UsageError) -> None:
    try:
        act()
    except kind as error:
        found = str(error)
    else:
        found = "nothing"
    assert said in found, found


def same_state(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    mine = module.state_dict()
    for name, tensor in state.items():
        assert mine[name].equal(tensor), name


def test_transformers_model_without_memory() -> None:
    config = AutoConfig.from_pretrained(LLAMA)
    plain = AutoModelForCausalLM.from_pretrained(LLAMA, dtype="auto")
    with meta_parameters():
        model = AutoModelForCausalLM.from_config(config, dtype=plain.dtype)
    assert all(parameter.is_meta for parameter in model.parameters())
    report = penstock.load_into(model, LLAMA)
    assert not report.missing
    assert not any(parameter.is_meta for parameter in model.parameters())
    tokens = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        assert model.eval()(tokens).logits.equal(plain.eval()(tokens).logits)


def test_module_with_memory_is_filled_in_place() -> None:
    state = small_state()
    ref, module = save("in-place", state), Small()
    addresses = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    report = penstock.load_into(module, ref)
    assert {name: tensor.data_ptr() for name, tensor in module.state_dict().items()} == addresses
    same_state(module, state)
    assert set(report.loaded) == set(module.state_dict())
    assert module.head.weight is module.embed.weight
    assert report.tensor_bytes == sum(tensor.nbytes for tensor in state.values())


def test_meta_module_gets_memory_and_keeps_ties() -> None:
    state = small_state()
    with meta_parameters():
        module = Small()
    module.embed.weight.requires_grad_(False)
    penstock.load_into(module, ROOM / "in-place")
    same_state(module, state)
    assert module.head.weight is module.embed.weight
    assert isinstance(module.norm.weight, nn.Parameter)
    assert module.norm.weight.requires_grad
    assert not module.embed.weight.requires_grad
    assert module.table.equal(torch.arange(4.0))


def test_tie_is_found_under_its_other_name() -> None:
    state = small_state()
    other = {("head.weight" if name == "embed.weight" else name): tensor for name, tensor in state.items()}
    with meta_parameters():
        module = Small()
    penstock.load_into(module, save("other-name", other))
    assert module.embed.weight.equal(state["embed.weight"])


def test_computed_buffers_on_meta_are_refused() -> None:
    with torch.device("meta"):
        module = Small()
    refused("table", lambda: penstock.load_into(module, ROOM / "in-place"))
    assert module.embed.weight.is_meta


def test_types() -> None:
    state = small_state()
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    ref = save("half", half)
    module = Small()
    penstock.load_into(module, ref)
    assert module.embed.weight.dtype == torch.float32
    assert module.embed.weight.equal(half["embed.weight"].float())
    with meta_parameters():
        module = Small()
    penstock.load_into(module, ref)
    assert module.embed.weight.equal(half["embed.weight"].float())
    with meta_parameters():
        module = Small()
    penstock.load_into(module, ref, dtype="bfloat16")
    assert module.embed.weight.equal(half["embed.weight"].bfloat16())
    assert module.norm.num_batches_tracked.dtype == torch.int64
    with meta_parameters():
        module = Small()
    penstock.load_into(module, ref, dtype=torch.float16)
    same_state(module, {name: tensor for name, tensor in half.items() if "running" not in name})


def test_type_that_means_something_is_not_cast() -> None:
    state = small_state() | {"embed.weight": torch.zeros(8, 4, dtype=torch.int8)}
    refused("int8", lambda: penstock.load_into(Small(), save("quantised", state)))


def test_not_contiguous_parameter() -> None:
    linear = nn.Linear(6, 4, bias=False)
    linear.weight = nn.Parameter(torch.zeros(6, 4).t())
    weight = torch.arange(24.0).reshape(4, 6)
    penstock.load_into(linear, save("transposed", {"weight": weight}))
    assert linear.weight.equal(weight)
    assert not linear.weight.is_contiguous()


def test_prefix_takes_a_part() -> None:
    state = small_state()
    ref = save("prefixed", {f"inner.{name}": tensor for name, tensor in state.items()} | {"other": torch.zeros(1)})
    module = Small()
    report = penstock.load_into(module, ref, prefix="inner.")
    same_state(module, state)
    assert not report.unexpected
    refused("lacks", lambda: penstock.load_into(Small(), ref))


def test_strictness() -> None:
    state = small_state()
    short = {name: tensor for name, tensor in state.items() if name != "norm.bias"}
    ref = save("short", short | {"extra.weight": torch.zeros(3)})
    module = Small()
    before = module.embed.weight.clone()
    refused("the model lacks norm.bias; the module lacks extra.weight", lambda: penstock.load_into(module, ref))
    assert module.embed.weight.equal(before)
    report = penstock.load_into(module, ref, strict=False)
    assert (report.missing, report.unexpected) == (("norm.bias",), ("extra.weight",))
    same_state(module, short)


def test_shape_is_refused_even_if_not_strict() -> None:
    ref = save("wide", small_state() | {"embed.weight": torch.zeros(8, 5)})
    refused("[8, 5]", lambda: penstock.load_into(Small(), ref, strict=False))


def test_damage_leaves_a_meta_module_empty() -> None:
    shutil.copytree(ROOM / "in-place", ROOM / "damaged")
    penstock.write_manifest(str(ROOM / "damaged"), env={})
    path = ROOM / "damaged/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with meta_parameters():
        module = Small()
    refused("model.safetensors", lambda: penstock.load_into(module, ROOM / "damaged"), PenstockError)
    assert all(parameter.is_meta for parameter in module.parameters())


def test_on_cuda() -> None:
    if not torch.cuda.is_available():
        return
    state = small_state()
    with meta_parameters():
        module = Small()
    penstock.load_into(module, ROOM / "in-place", device="cuda")
    assert module.embed.weight.device.type == "cuda"
    same_state(module, {name: tensor.cuda() for name, tensor in state.items()})
    module = Small().cuda()
    penstock.load_into(module, ROOM / "half")
    assert module.embed.weight.cpu().equal(state["embed.weight"].half().float())


def test_registration_is_as_before() -> None:
    assert not nn.Linear(2, 2).weight.is_meta
    assert load_file(ROOM / "in-place/model.safetensors").keys() == small_state().keys()


for test_name, test in [item for item in globals().items() if item[0].startswith("test_")]:
    test()
    print(test_name)
print("all of them")
