#!/bin/bash
set -euo pipefail
gcloud container clusters create "$CLUSTER_NAME" \
  --location "$REGION" \
  --workload-pool "${PROJECT_ID}.svc.id.goog" \
  --enable-ip-alias \
  --node-locations="$ZONE_1" \
  --workload-pool="${PROJECT_ID}.svc.id.goog" \
  --machine-type n2d-standard-4 \
  --enable-ip-alias
# finds-in: flag-twice 8
# finds-in: flag-twice 10
gcloud container node-pools create g2-standard-24 --cluster "$CLUSTER_NAME" \
  --accelerator type=nvidia-l4,count=1,gpu-driver-version=latest \
  --machine-type g2-standard-8 \
  --node-locations "$ZONE_1" --region "$REGION" --spot
# finds-in: pool-misnamed 13
