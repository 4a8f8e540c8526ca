"""The three hops over one data plane: copy, pull, stream. Each is a plan, which is pure, and a thin run."""
