#!/bin/bash
set -euo pipefail
pip3 install huggingface_hub
pip3 install vllm[runai]  # finds: brackets-unquoted
