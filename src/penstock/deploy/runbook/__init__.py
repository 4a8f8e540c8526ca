"""The runbook: what makes everything around the manifests, and takes it away again. Pure: steps in, scripts out."""
