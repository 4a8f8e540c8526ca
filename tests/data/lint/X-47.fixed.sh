#!/bin/bash
set -euo pipefail
gcloud container node-pools create default-pool --cluster="$CLUSTER_NAME" --region=us-central1 --machine-type=e2-medium
gcloud storage rsync -r "gs://$BUCKET/hf/gemma-3-1b-it" /mnt/disks/model-cache/
