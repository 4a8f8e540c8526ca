#!/bin/bash
set -euo pipefail
export SERVICE_ACCOUNT=hf-sa
kubectl create serviceaccount "$SERVICE_ACCOUNT" --namespace "$NAMESPACE"
export SERVICE_ACCOUNT=model-vllm-deployment-service-account  # finds: variable-means-two-things
kubectl create serviceaccount "$SERVICE_ACCOUNT" --namespace "$NAMESPACE"
kubectl delete serviceaccount ${SERVICE_ACCOUNT} --namespace ${NAMESPACE}
