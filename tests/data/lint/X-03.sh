#!/bin/bash
set -euo pipefail
kubectl create secret generic hf-secret \
  --from-literal=hf_api_token=${HF_TOKEN} \
  --dry-run=client -o yaml | kubectl apply -f -
# finds-in: secret-in-arguments 4
kubectl create secret generic huggingface --from-literal="HF_TOKEN=$HF_TOKEN" -n "$NAMESPACE"  # finds: secret-in-arguments
kubectl create secret generic gcp-token --from-literal=gcp_api_token=xyz  # finds: secret-in-arguments
