"""A transformers model from a bucket: the small files on disk, the weights straight into the model.

    python examples/transformers_from_bucket.py gs://my-bucket/llama-3-8b "The penstock carries" --device cuda:0

transformers takes weights as a `state_dict`; on the CPU its parameters are then the memory that the bytes arrived in.
"""

from __future__ import annotations

import argparse

import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import penstock


def load_model(ref: str, device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model at `ref`, in the types it was published in, and its tokenizer."""
    folder = penstock.pull(ref, exclude=["*.safetensors"])  # configuration and tokenizer, cached, some megabytes
    config = AutoConfig.from_pretrained(folder)
    model_class = getattr(transformers, config.architectures[0])
    model = model_class.from_pretrained(
        None,
        config=config,
        state_dict=penstock.load(ref, framework="torch", device=device),
        dtype="auto",
        device_map=None if device == "cpu" else device,  # needs accelerate
    )
    return model, AutoTokenizer.from_pretrained(folder)


def main() -> None:
    """Load, and go on with a text."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("ref")
    parser.add_argument("text")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    model, tokenizer = load_model(args.ref, args.device)
    tokens = tokenizer(args.text, return_tensors="pt").to(args.device)
    answer = model.generate(**tokens, max_new_tokens=16, do_sample=False)
    print(tokenizer.decode(answer[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()
