"""From a model and a cluster to manifests: sizing, rendering, linting. Pure: facts in, text out."""
