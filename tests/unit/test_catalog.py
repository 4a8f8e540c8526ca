"""GPUs, machines and prices: what comes with Penstock is whole, and what a user lays over it is checked."""

from __future__ import annotations

import datetime as dt

import pytest

from penstock.deploy.catalog import Catalog, load_catalog
from penstock.errors import UsageError
from penstock.units import GiB

PLATFORMS = ("gke-autopilot", "gke-standard", "eks", "kubernetes")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def test_every_machine_has_a_gpu_that_is_known_and_every_gpu_a_machine(catalog: Catalog) -> None:
    assert {machine.gpu for machine in catalog.machines.values()} == set(catalog.gpus)


def test_every_price_has_a_date_and_a_source_that_is_explained(catalog: Catalog) -> None:
    for machine in catalog.machines.values():
        for region, price in machine.prices.items():
            assert price.source in catalog.sources, (machine.name, region)
            assert price.date is not None
            assert dt.date(2025, 6, 1) < price.date < dt.date(2027, 1, 1)
            assert price.on_demand is not None or price.spot is not None
            assert price.spot is None or price.on_demand is None or price.spot < price.on_demand


def test_what_is_sold_as_spot_only_has_no_other_price(catalog: Catalog) -> None:
    for machine in catalog.machines.values():
        assert not machine.spot_only or all(price.on_demand is None for price in machine.prices.values())


# Labels of GKE, memory as it is sold, and whether it computes in bfloat16 and fp8.
@pytest.mark.parametrize(
    ("name", "memory_gb", "bf16", "fp8"),
    [
        ("nvidia-tesla-t4", 16, False, False),
        ("nvidia-l4", 24, True, True),
        ("nvidia-tesla-a100", 40, True, False),
        ("nvidia-a100-80gb", 80, True, False),
        ("nvidia-h100-80gb", 80, True, True),
        ("nvidia-h100-mega-80gb", 80, True, True),
        ("nvidia-h200-141gb", 141, True, True),
        ("nvidia-b200", 180, True, True),
        ("nvidia-gb200", 186, True, True),
        ("nvidia-rtx-pro-6000", 96, True, True),
    ],
)
def test_gpus_of_gke_are_what_their_labels_say(
    catalog: Catalog, name: str, memory_gb: int, bf16: bool, fp8: bool
) -> None:
    gpu = catalog.gpus[name]
    assert (gpu.memory_gb, gpu.bf16, gpu.fp8) == (memory_gb, bf16, fp8)
    assert 0.9 < gpu.usable_bytes / (memory_gb * 10**9) < 1.08


def test_gpus_are_found_by_label_and_by_what_people_call_them(catalog: Catalog) -> None:
    assert catalog.find_gpu("nvidia-l4") is catalog.find_gpu("L4")
    assert catalog.find_gpu("h100").name == "nvidia-h100-80gb"
    with pytest.raises(UsageError, match=r"there is no GPU 'nvidia-14'; did you mean nvidia-l4\?"):
        catalog.find_gpu("nvidia-14")


def test_t4_is_on_n1_machines_only_in_google_cloud(catalog: Catalog) -> None:
    """Other families take none: a pool of n2d with a T4 is refused by the API."""
    found = catalog.machines_on("gke-standard", catalog.find_gpu("t4"))
    assert {machine.type.partition("-")[0] for machine in found if machine.type} == {"n1"}


def test_platform_without_the_gpu_says_what_it_has(catalog: Catalog) -> None:
    with pytest.raises(UsageError, match="eks has no machine with nvidia-rtx-pro-6000") as error:
        catalog.machines_on("eks", catalog.find_gpu("rtx-pro-6000"))
    assert "nvidia-l40s" in str(error.value.hint)
    with pytest.raises(UsageError, match="gke-autopilot has no machine with nvidia-gb200"):
        catalog.machines_on("gke-autopilot", catalog.find_gpu("gb200"))


def test_nodes_of_a_plain_cluster_are_any_until_somebody_names_them(catalog: Catalog) -> None:
    assert all(machine.any_node for machine in catalog.machines_on("kubernetes"))
    mine = '[machines.rack-3]\ncloud = "other"\ngpu = "nvidia-l40s"\ngpus = 4\ncpus = 64\nmemory_gib = 512'
    found = load_catalog(("mine.toml", mine)).machines_on("kubernetes")
    assert [(machine.name, machine.gpus) for machine in found] == [("rack-3", 4)]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_platform_has_machines(catalog: Catalog, platform: str) -> None:
    assert catalog.machines_on(platform)


# https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes has these examples' rule.
def test_nodes_keep_a_part_of_themselves(catalog: Catalog) -> None:
    machine = catalog.find_machine("g2-standard-8")
    reserved_gib = 0.25 * 4 + 0.20 * 4 + 0.10 * 8 + 0.06 * 16 + 100 / 1024
    assert machine.pod_memory_bytes == pytest.approx((32 - reserved_gib) * GiB, abs=2**20)
    assert machine.pod_cpus == pytest.approx(8 - 0.06 - 0.01 - 0.01 - 0.01 - 0.2, abs=0.05)
    assert all((m.pod_memory_bytes or 1) > 0 and (m.pod_cpus or 1) > 0 for m in catalog.machines.values())


def test_cheapest_region_is_chosen_unless_one_is_named(catalog: Catalog) -> None:
    dear = "[prices.g2-standard-8]\nus-east4 = { on_demand = 0.5, spot = 0.2 }"
    machine = load_catalog(("mine.toml", dear)).find_machine("g2-standard-8")
    assert machine.cheapest() == ("us-east4", 0.5, machine.prices["us-east4"])
    assert machine.cheapest(region="us-central1") == ("us-central1", 0.854, machine.prices["us-central1"])
    assert machine.cheapest(region="mars-north1") is None
    assert catalog.find_machine("g2-standard-8").cheapest(spot=True) is None


def test_a_file_is_laid_over_ours_key_by_key(catalog: Catalog) -> None:
    found = load_catalog(("a.toml", "[gpus.nvidia-l4]\nusable_gib = 20.5"), ("b.toml", "[gpus.nvidia-l4]\nray = 'X'"))
    l4 = found.gpus["nvidia-l4"]
    assert (l4.usable_gib, l4.ray, l4.title) == (20.5, "X", catalog.gpus["nvidia-l4"].title)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gpu.x]", r"mine.toml: there is no table \[gpu\]; did you mean gpus\?"),
        (
            "[gpus.nvidia-l4]\nmemory = 3",
            r"nvidia-l4.memory: there is no such key; did you mean memory_gb\?",
        ),
        ("[gpus.nvidia-l4]\nname = 'x'", r"mine.toml: gpus.nvidia-l4.name: there is no such key"),
        ("[gpus.mine]\ntitle = 'x'", r"mine.toml: gpus.mine.memory_gb is missing"),
        ("[gpus.nvidia-l4]\nusable_gib = inf", r"usable_gib: input should be a finite number"),
        ("[gpus.nvidia-l4]\nusable_gib = -1", r"usable_gib: input should be greater than 0"),
        (
            "[machines.x]\ncloud = 'gcp'\ngpu = 'nvidia-l5'\ngpus = 1",
            r"there is no gpu nvidia-l5; did you mean nvidia-l4\?",
        ),
        (
            "[machines.x]\ncloud = 'moon'\ngpu = 'nvidia-l4'\ngpus = 1",
            r"x.cloud: input should be 'gcp', 'aws'",
        ),
        ("[machines.x]\ncloud = 'aws'\ngpu = 'nvidia-l4'\ngpus = 1\nautopilot = true", r"cloud aws has no Autopilot"),
        ("[prices.g2-standard-9]\nus = { spot = 1 }", r"there is no such machine; did you mean g2-standard-"),
        ("[prices.g2-standard-8]\nus = { spott = 1 }", r"us.spott: there is no such key; did you mean spot\?"),
        ("[prices.g2-standard-8]\nus = 3", r"prices.us"),
        ("machines = 3", r"machines is a table"),
        ("[machines]\nx = 3", r"machines.x"),
        ("a = ", r"mine.toml: not readable as TOML"),
        ("a = " + "[" * 5000, r"mine.toml: not readable as TOML"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_key(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_catalog(("mine.toml", text))
