"""A PyTorch module of your own, filled from a bucket: no file on disk, and of the bucket only what the module needs.

    python examples/pytorch_from_bucket.py gs://my-bucket/llama-3-8b --layer 0 --device cuda:0

The module is made without memory, and gets what was read as its parameters. `refill` is the other way: parameters that
are there already, and whose memory must stay theirs, as in a server that takes new weights while it runs.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import penstock


class Mlp(nn.Module):
    """The feed-forward part of one layer of a Llama."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Swish-gated."""
        down: torch.Tensor = self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return down


def load_mlp(ref: str, layer: int, device: str = "cpu") -> Mlp:
    """The module of one layer, sized by what the headers say."""
    prefix = f"model.layers.{layer}.mlp."
    with penstock.open_tensors(ref, framework="torch") as tensors:
        intermediate, hidden = tensors[f"{prefix}up_proj.weight"].shape
    with torch.device("meta"):
        mlp = Mlp(hidden, intermediate)
    state = penstock.load(ref, names=f"{prefix}*", framework="torch", device=device)
    mlp.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in state.items()}, assign=True)
    return mlp


def refill(module: nn.Module, ref: str, prefix: str = "") -> None:
    """Copy what the model holds under `prefix` into the module's parameters, wherever and of whatever type they are."""
    parameters = {prefix + name: parameter for name, parameter in module.named_parameters()}
    with (
        torch.no_grad(),
        penstock.stream(
            ref, names=list(parameters), framework="torch", device=next(module.parameters()).device
        ) as stream,
    ):
        for name, tensor in stream:
            parameters[name].copy_(tensor)


def main() -> None:
    """Load one layer, and run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("ref")
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    mlp = load_mlp(args.ref, args.layer, args.device)
    weight = mlp.up_proj.weight
    x = torch.ones(1, weight.shape[1], dtype=weight.dtype, device=args.device)
    with torch.no_grad():
        print(f"{list(weight.shape)} {weight.dtype} on {weight.device}: {mlp(x).float().norm().item():.6g}")


if __name__ == "__main__":
    main()
