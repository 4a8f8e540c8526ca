#!/bin/bash
set -euo pipefail
export COPY_ACCOUNT=hf-sa
export SERVER_ACCOUNT=model-vllm-deployment-service-account
kubectl create serviceaccount "$COPY_ACCOUNT" --namespace "$NAMESPACE"
kubectl create serviceaccount "$SERVER_ACCOUNT" --namespace "$NAMESPACE"
kubectl delete serviceaccount "$COPY_ACCOUNT" "$SERVER_ACCOUNT" --namespace "$NAMESPACE"
