#!/bin/bash
set -euo pipefail
gcloud container node-pools update gpu-pool --cluster="$CLUSTER_NAME" --region=us-central1 \
  --enable-autoscaling \
  --min-nodes=0 \
  --max-nodes=5 \
  --node-taints=nvidia.com/gpu=present:NoSchedule
# finds-in: nodes-per-zone 6
# finds-in: autoscaling-with-taints 7
