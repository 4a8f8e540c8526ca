"""How many of which GPUs: the arithmetic, against settings that are known to work, and what must hold of any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.deploy.catalog import load_catalog
from penstock.deploy.fit import Option, Request, fit
from penstock.deploy.size import describe, runs_on, size, splits
from penstock.errors import UsageError
from penstock.model.memory import Memory, measure
from penstock.units import GiB

CONFIGS = Path(__file__).parent.parent / "data" / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.json"))
CATALOG = load_catalog()


def memory_of(name: str, **changes: Any) -> Memory:
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    return measure(config={**config, **changes}, tensors_by_file={}, file_bytes={})


def best(name: str, **asked: Any) -> Option:
    return size(memory_of(name), CATALOG, Request(**asked))[0]


def fit_on(name: str, gpu: str, gpus: int, **asked: Any) -> Option | None:
    found = CATALOG.find_gpu(gpu)
    machine = next(each for each in CATALOG.machines.values() if each.gpu == found.name)
    return fit(memory_of(name), found, machine, Request(**asked), gpus=gpus)


# -- what is known to work


def test_llama_3_8b_on_one_l4_has_room_for_two_to_three_requests_of_8192_tokens() -> None:
    """15.0 GiB of weights, 20.3 of budget, 2 to 3 of activations and graphs: 19 to 27 thousand tokens."""
    option = best("llama-3-8b", gpu="nvidia-l4", largest_file_bytes=4_976_698_672)
    terms = {line.what: line.size_bytes / GiB for line in option.lines}
    assert option.budget_bytes / GiB == pytest.approx(20.3, abs=0.05)
    assert terms["weights"] == pytest.approx(14.96, abs=0.01)
    assert 2 <= terms["activations"] + terms["CUDA graphs"] + terms["CUDA's own"] <= 3
    assert option.cache_tokens is not None
    assert 19_000 <= option.cache_tokens <= 27_000
    assert (option.machine.name, option.gpus, option.max_model_len) == ("g2-standard-8", 1, 8192)


# Settings of GoogleCloudPlatform/accelerated-platforms, each tried there: model, GPU, tensor parallel, share, length.
GOLDEN = [
    ("gemma-3-1b-it", "l4", 1, 0.89, 1024),
    ("gemma-3-4b-it", "l4", 1, 0.89, 2048),
    ("gemma-3-27b-it", "l4", 8, 0.80, 131_072),
    ("gpt-oss-20b", "l4", 8, 0.92, 32_768),
    ("qwen3-32b", "l4", 8, 0.92, 32_768),
    ("gemma-3-27b-it", "h100", 1, 0.92, 131_072),
    ("gpt-oss-20b", "h100", 1, 0.95, 32_768),
    ("qwen3-32b", "h100", 1, 0.95, 32_768),
    ("llama-3.1-70b", "h100", 4, 0.95, 131_072),
    ("llama-4-scout", "h100", 8, 0.95, 1_000_000),
    ("gemma-3-27b-it", "h200", 1, 0.92, 131_072),
    ("llama-3.1-70b", "h200", 4, 0.95, 131_072),
    ("llama-4-scout", "h200", 8, 0.95, 3_600_000),
    ("gemma-3-27b-it", "rtx-pro-6000", 1, 0.92, 51_200),
    ("llama-3.1-70b", "rtx-pro-6000", 2, 0.92, 48_128),
]


@pytest.mark.parametrize(("name", "gpu", "gpus", "share", "tokens"), GOLDEN)
def test_settings_that_are_known_to_work_fit(name: str, gpu: str, gpus: int, share: float, tokens: int) -> None:
    assert splits(memory_of(name), gpus)
    option = fit_on(name, gpu, gpus, utilization=share, context=tokens)
    assert option is not None
    assert option.max_model_len is not None
    assert option.max_model_len >= tokens


@pytest.mark.parametrize(
    ("name", "gpu", "gpus"),
    [("gemma-3-27b-it", "l4", 1), ("llama-3.1-70b", "h100", 1), ("llama-3-8b", "t4", 1), ("gpt-oss-120b", "l4", 2)],
)
def test_what_is_known_not_to_work_does_not_fit(name: str, gpu: str, gpus: int) -> None:
    assert fit_on(name, gpu, gpus) is None


def test_the_rules_of_thumb_of_the_guides_hold() -> None:
    """Two bytes a parameter; a 7B leaves an L4 some 10 GB; 70B at 4 bit takes two L4 without graphs; a 7B two T4."""
    seven = memory_of("llama-2-7b")
    assert (seven.weight_bytes or 0) / 1e9 == pytest.approx(2 * 6.74, rel=0.01)
    option = fit_on("llama-2-7b", "l4", 1, context=4096)
    assert option is not None
    assert 22.05 * GiB - option.lines[0].size_bytes == pytest.approx(10 * 1e9, rel=0.1)
    seventy = memory_of("llama-2-70b", quantization_config={"quant_method": "awq", "bits": 4, "group_size": 128})
    assert (seventy.weight_bytes or 0) / 1e9 == pytest.approx(35, rel=0.08)
    found = size(seventy, CATALOG, Request(platform="gke-standard", gpu="l4", context=4096, eager=True))
    assert (found[0].machine.name, found[0].gpus) == ("g2-standard-24", 2)
    assert best("llama-2-7b", gpu="t4").gpus == 2


def test_models_that_a_guide_gave_four_to_eight_a100_need_less() -> None:
    """And an option never asks one node for more GPUs than it has, as one of those did."""
    needs = {
        name: best(name, platform="gke-standard", largest_file_bytes=5 * 10**9)
        for name in ("gemma-3-1b-it", "gemma-3-27b-it", "gpt-oss-20b", "gpt-oss-120b")
    }
    assert {name: describe(option) for name, option in needs.items()} == {
        "gemma-3-1b-it": "g2-standard-8 (1 x nvidia-l4)",
        "gemma-3-27b-it": "g2-standard-48 (4 x nvidia-l4)",
        "gpt-oss-20b": "g2-standard-8 (1 x nvidia-l4)",
        "gpt-oss-120b": "g2-standard-48 (4 x nvidia-l4)",
    }
    assert best("gpt-oss-120b", gpu="a100-80gb").gpus == 1
    assert all(option.gpus <= option.machine.gpus for option in needs.values())


# -- rules


def test_tensor_parallelism_divides_heads_and_what_quantisation_keeps_together() -> None:
    assert [n for n in (1, 2, 4, 8) if splits(memory_of("falcon-7b"), n)] == [1]  # 71 heads
    assert [n for n in (1, 2, 4, 8, 16) if splits(memory_of("llama-3-8b"), n)] == [1, 2, 4, 8, 16]
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    experts = memory_of("qwen3-235b-a22b", quantization_config=fp8)  # 1536 wide: 8 GPUs would cut blocks of 128
    assert [n for n in (1, 2, 4, 8) if splits(experts, n)] == [1, 2, 4]
    assert splits(memory_of("deepseek-v3"), 16)


def test_old_gpus_take_half_and_refuse_what_they_cannot_compute() -> None:
    t4 = CATALOG.find_gpu("t4")
    assert best("llama-3-8b", gpu="t4").dtype == "half"
    assert best("llama-2-7b", gpu="t4").dtype == "auto"
    assert not runs_on(memory_of("deepseek-v3"), t4)
    assert not runs_on(memory_of("gemma-3-1b-it"), t4)  # overflows in float16
    with pytest.raises(UsageError, match="do not fit nvidia-tesla-t4"):
        size(memory_of("gpt-oss-20b"), CATALOG, Request(gpu="t4"))


def test_several_machines_only_where_one_is_never_enough() -> None:
    assert all(option.nodes == 1 for option in size(memory_of("llama-3.1-405b"), CATALOG, Request()))
    both = best("llama-3.1-405b", platform="gke-standard", gpu="h100")
    assert (describe(both), both.gpus, both.nodes) == ("2 x a3-highgpu-8g (16 x nvidia-h100-80gb)", 8, 2)
    assert both.dollars_per_hour == pytest.approx(2 * 87.80)


def test_several_machines_are_the_largest_that_have_what_was_asked() -> None:
    """With one GPU in a pod those with one, though there are larger ones."""
    option = best("llama-3-8b", gpu="t4", gpus=1)
    assert describe(option) == "2 x n1-standard-8-t4 (2 x nvidia-tesla-t4)"


def test_autopilot_gets_whole_machines_and_others_may_leave_gpus_over() -> None:
    assert best("llama-3-8b", gpu="h200").gpus == 8
    assert best("llama-3-8b", gpu="h200", platform="gke-standard").gpus == 1


def test_machines_that_are_sold_as_spot_only_are_for_those_who_ask() -> None:
    assert best("llama-3-8b", gpu="h100", spot=True).machine.name == "a3-highgpu-1g"
    with pytest.raises(UsageError, match="sold as spot only"):
        size(memory_of("llama-3-8b"), CATALOG, Request(machine="a3-highgpu-1g"))


def test_one_kind_of_gpu_is_shown_in_all_numbers_and_all_kinds_in_their_cheapest() -> None:
    asked = size(memory_of("llama-3-8b"), CATALOG, Request(gpu="l4"))
    assert [option.gpus for option in asked] == [1, 2, 4, 8]
    kinds = [option.gpu.name for option in size(memory_of("llama-3-8b"), CATALOG, Request())]
    assert len(kinds) == len(set(kinds)) > 4


def test_options_are_ranked_by_price_and_unknown_prices_come_last() -> None:
    prices = [option.dollars_per_hour for option in size(memory_of("llama-3-8b"), CATALOG, Request())]
    known = [price for price in prices if price is not None]
    assert known == sorted(known)
    assert prices == known + [None] * (len(prices) - len(known))


def test_the_host_holds_the_engine_and_a_file_on_its_way() -> None:
    assert best("gemma-3-1b-it", gpu="l4", gpus=1).machine.name == "g2-standard-4"
    assert best("gemma-3-1b-it", gpu="l4", gpus=1, largest_file_bytes=30 * GiB).machine.name == "g2-standard-12"


def test_a_model_whose_shape_is_unknown_is_sized_openly_by_its_bytes() -> None:
    strange = measure(config={}, tensors_by_file={}, file_bytes={"a.safetensors": 10 * GiB})
    option = size(strange, CATALOG, Request(gpu="l4"))[0]
    assert (option.max_model_len, option.concurrency, option.cache_tokens) == (None, None, None)
    assert "a fifth of the weights" in option.lines[1].how
    assert option.lines[1].size_bytes == 3 * GiB
    with pytest.raises(UsageError, match="nothing says how large the model is"):
        size(measure(config={}, tensors_by_file={}, file_bytes={}), CATALOG, Request())


# -- what cannot be


def test_a_model_that_fits_nowhere_is_told_the_smallest_thing_that_would() -> None:
    with pytest.raises(UsageError, match=r"756 GiB of weights .* do not fit nvidia-l4 on one node") as error:
        size(memory_of("llama-3.1-405b"), CATALOG, Request(gpu="l4", nodes=1))
    assert (
        error.value.hint == "the smallest that does: a3-ultragpu-8g (8 x nvidia-h200-141gb) (--platform gke-autopilot)"
    )
    huge = memory_of("llama-3.1-405b", num_hidden_layers=2000)
    with pytest.raises(UsageError, match="on 8 nodes") as error:
        size(huge, CATALOG, Request())
    assert error.value.hint is not None
    assert error.value.hint.startswith("the smallest that does: ")
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"context": 9000}, "--context 9000: the model was made for 8192 tokens"),
        ({"utilization": 1.5}, "--utilization 1.5"),
        ({"gpu": "l5"}, "there is no GPU 'l5'"),
        ({"machine": "g2-standard-9"}, "there is no machine 'g2-standard-9'"),
        ({"machine": "g2-standard-8", "gpu": "h100"}, "g2-standard-8 has nvidia-l4, not nvidia-h100-80gb"),
        ({"machine": "p5.48xlarge"}, "gke-autopilot has no p5.48xlarge"),
        ({"gpu": "l4", "gpus": 3}, "3 of nvidia-l4"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        size(memory_of("llama-3-8b"), CATALOG, Request(**asked))


# -- what must hold of any

PLATFORMS = st.sampled_from(["gke-autopilot", "gke-standard", "eks", "kubernetes"])


def options_or_none(memory: Memory, request: Request) -> tuple[Option, ...]:
    try:
        return size(memory, CATALOG, request)
    except UsageError:
        return ()


@given(
    name=st.sampled_from(NAMES),
    platform=PLATFORMS,
    concurrency=st.integers(1, 64),
    spot=st.booleans(),
    share=st.sampled_from([0.5, 0.8, 0.92]),
    eager=st.booleans(),
)
def test_every_option_adds_up_fits_and_can_be_scheduled(
    name: str, platform: str, concurrency: int, spot: bool, share: float, eager: bool
) -> None:
    memory = memory_of(name)
    asked = Request(platform=platform, concurrency=concurrency, spot=spot, utilization=share, eager=eager)
    for option in options_or_none(memory, asked):
        assert sum(line.size_bytes for line in option.lines) == option.budget_bytes <= share * option.gpu.usable_bytes
        assert option.cache_bytes >= 0
        assert option.gpus <= option.machine.gpus
        assert splits(memory, option.gpus)
        assert option.max_model_len is None or option.max_model_len >= option.context
        assert option.concurrency is None or option.concurrency >= concurrency
        assert json.dumps(option.as_json(), allow_nan=False)


@given(
    name=st.sampled_from(NAMES),
    gpu=st.sampled_from(sorted(CATALOG.gpus)),
    gpus=st.sampled_from([1, 2, 4, 8]),
    context=st.integers(1, 8192),
    more=st.integers(0, 8192),
    concurrency=st.integers(1, 16),
)
def test_more_is_never_had_for_less(name: str, gpu: str, gpus: int, context: int, more: int, concurrency: int) -> None:
    """Longer or more requests need at least as much; an fp8 cache and more GPUs leave at least as much."""
    little = fit_on(name, gpu, gpus, context=context, concurrency=concurrency)
    assert little is not None or fit_on(name, gpu, gpus, context=context + more, concurrency=concurrency) is None
    assert little is not None or fit_on(name, gpu, gpus, context=context, concurrency=concurrency + 1) is None
    if little is None or little.cache_tokens is None:
        return
    packed = fit_on(name, gpu, gpus, context=context, concurrency=concurrency, cache_element_bytes=1)
    eager = fit_on(name, gpu, gpus, context=context, concurrency=concurrency, eager=True)
    assert packed is not None
    assert eager is not None
    assert (packed.max_model_len or 0) >= (little.max_model_len or 0) <= (eager.max_model_len or 0)
    if gpus > 1:
        wider = fit_on(name, gpu, 2 * gpus, context=context, concurrency=concurrency)
        assert wider is not None
        assert wider.cache_bytes >= little.cache_bytes
