#!/bin/bash
set -euo pipefail
gcloud container node-pools update gpu-pool --cluster="$CLUSTER_NAME" --region=us-central1 \
  --enable-autoscaling --total-min-nodes=0 --total-max-nodes=5 --location-policy=ANY
gcloud container node-pools update gpu-pool --cluster="$CLUSTER_NAME" --region=us-central1 \
  --node-taints=nvidia.com/gpu=present:NoSchedule
