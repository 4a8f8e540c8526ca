"""Findings in manifests and scripts, ours and others': text in, findings out; nothing is run and no tag is loaded."""
