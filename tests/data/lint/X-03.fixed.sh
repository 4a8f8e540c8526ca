#!/bin/bash
set -euo pipefail
printf %s "$HF_TOKEN" | kubectl create secret generic hf-secret -n "$NAMESPACE" \
  --from-file=hf_api_token=/dev/stdin --dry-run=client -o yaml | kubectl apply -n "$NAMESPACE" -f -
