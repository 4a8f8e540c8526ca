#!/bin/bash
set -euo pipefail
PROJECT_NUMBER=$(gcloud projects describe "$PROJECT_ID" --format='value(projectNumber)')
GCE_SA="${PROJECT_NUMBER}-compute@developer.gserviceaccount.com"
kubectl annotate serviceaccount "$NAMESPACE" --namespace "$NAMESPACE" \
    iam.gke.io/gcp-service-account=$GCE_SA
# finds-in: default-account-used 6
