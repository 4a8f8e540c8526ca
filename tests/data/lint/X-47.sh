#!/bin/bash
set -euo pipefail
gcloud container node-pools create default-pool \
  --cluster=seans-local-model \
  --region=us-central1 \
  --machine-type=e2-medium
# finds-in: foreign-name 4
gcloud storage rsync -r gs://ai-llm-models/hf/gemma-3-1b-it /mnt/disks/model-cache/  # finds: foreign-name
