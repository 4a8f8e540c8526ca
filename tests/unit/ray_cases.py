"""Configurations that Ray takes, and such that it does not: our checks and Ray's own are held to the same list."""

from __future__ import annotations

from typing import Any

BASE: dict[str, Any] = {"model_loading_config": {"model_id": "llama", "model_source": "org/name"}}


def config(**more: Any) -> dict[str, Any]:
    return BASE | more


def source(value: Any) -> dict[str, Any]:
    return {"model_loading_config": {"model_id": "llama", "model_source": value}}


def autoscaling(**more: Any) -> dict[str, Any]:
    return config(deployment_config={"autoscaling_config": more})


TAKEN = {
    "a Hub name": BASE,
    "no source": {"model_loading_config": {"model_id": "org/name"}},
    "s3": source({"bucket_uri": "s3://bucket/model"}),
    "s3 without account": source({"bucket_uri": "s3://anonymous@bucket/model"}),
    "gs": source({"bucket_uri": "gs://bucket/model"}),
    "azure": source({"bucket_uri": "azure://models@account.blob.core.windows.net/llama"}),
    "abfss": source({"bucket_uri": "abfss://models@account.dfs.core.windows.net/llama"}),
    "pyarrow": source({"bucket_uri": "pyarrow-s3://bucket/model"}),
    "a place that Ray does not know": source("az://models/llama"),
    "extra files": source({"extra_files": [{"bucket_uri": "s3://bucket/x", "destination_path": "/tmp/x"}]}),
    "L4": config(accelerator_type="L4"),
    "A10 for A10G": config(accelerator_type="A10"),
    "to zero": autoscaling(min_replicas=0, max_replicas=2),
    "first more": autoscaling(min_replicas=0, initial_replicas=1, max_replicas=2, target_ongoing_requests=1.5),
    "auto": config(deployment_config={"num_replicas": "auto"}),
    "options": config(deployment_config={"max_ongoing_requests": 64, "ray_actor_options": {"num_cpus": 1}}),
    "engine arguments": config(
        engine_kwargs={"max_model_len": 8192, "tensor_parallel_size": 2, "load_format": "penstock"}
    ),
    "lora": config(lora_config={"dynamic_lora_loading_path": "s3://bucket/lora", "max_num_adapters_per_replica": 4}),
    "cpu": config(placement_group_config={"bundles": [{"CPU": 1, "GPU": 0}]}),
    "gpus": config(accelerator_type="L4", placement_group_config={"bundle_per_worker": {"CPU": 1, "GPU": 1}}),
    "environment": config(runtime_env={"env_vars": {"HF_XET_HIGH_PERFORMANCE": "1"}}),
}

# What is wrong, and a word that our message must have.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "accelerator": (config(accelerator_type="A10OG"), "A10G"),
    "accelerator in lower case": (config(accelerator_type="l4"), "did you mean L4"),
    "lora on disk": (config(lora_config={"dynamic_lora_loading_path": "/adapters"}), "'/adapters' is not in a bucket"),
    "lora on the Hub": (config(lora_config={"dynamic_lora_loading_path": "org/lora"}), "s3://"),
    "lora key": (config(lora_config={"path": "s3://bucket/lora"}), "dynamic_lora_loading_path"),
    "adapters": (config(lora_config={"max_num_adapters_per_replica": 0}), "max_num_adapters_per_replica"),
    "mirror on disk": (source({"bucket_uri": "/model"}), "'/model' is not in a bucket"),
    "mirror key": (source({"bucket": "s3://bucket/model"}), "did you mean bucket_uri"),
    "no model": ({"model_loading_config": {}}, "model_id"),
    "key": (config(accelerator="L4"), "accelerator_type"),
    "engine argument": (config(engine_kwargs={"max_modl_len": 1}), "max_model_len"),
    "engine": (config(llm_engine="SGLang"), "SGLang"),
    "order of replicas": (autoscaling(min_replicas=2, max_replicas=1), "min_replicas 2 is more than max_replicas 1"),
    "no replicas ever": (autoscaling(min_replicas=0, max_replicas=0), "max_replicas"),
    "negative replicas": (autoscaling(min_replicas=-1), "min_replicas"),
    "first replicas": (autoscaling(min_replicas=1, initial_replicas=5, max_replicas=2), "initial_replicas 5"),
    "requests": (config(deployment_config={"max_ongoing_requests": 0}), "max_ongoing_requests"),
    "hardware": (config(accelerator_type="L4", placement_group_config={"bundles": [{"CPU": 1}]}), "no GPU"),
    "bundles twice": (
        config(placement_group_config={"bundles": [{"CPU": 1}], "bundle_per_worker": {"CPU": 1}}),
        "either",
    ),
}

# What Ray takes in silence, or refuses only when it serves.
STRICTER: dict[str, tuple[dict[str, Any], str]] = {
    "a key of autoscaling that has no effect": (autoscaling(min_replica=0), "did you mean min_replicas"),
    "a key of the deployment that ends the start": (config(deployment_config={"replicas": 1}), "replicas"),
    "two numbers of replicas": (
        config(deployment_config={"num_replicas": 2, "autoscaling_config": {"max_replicas": 3}}),
        "num_replicas",
    ),
    "the model twice": (config(engine_kwargs={"model": "org/name"}), "model_loading_config"),
}
