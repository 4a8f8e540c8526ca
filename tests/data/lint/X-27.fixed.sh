#!/bin/bash
set -euo pipefail
gcloud compute disks create vllm-model-source-disk --size=50GB --type=hyperdisk-ml --zone=us-central1-a
trap 'gcloud compute instances delete model-loader-vm --zone=us-central1-a --quiet' EXIT
gcloud compute instances create model-loader-vm --machine-type=c3-standard-8 --zone=us-central1-a \
  --service-account="model-loader@$PROJECT_ID.iam.gserviceaccount.com" --scopes=cloud-platform
gcloud compute instances attach-disk model-loader-vm --disk=vllm-model-source-disk --device-name=model \
  --zone=us-central1-a
sudo blkid /dev/disk/by-id/google-model || sudo mkfs.ext4 -m 0 /dev/disk/by-id/google-model
sudo mount -o discard,defaults /dev/disk/by-id/google-model /mnt/disks/model-cache
gcloud storage rsync -r "gs://$BUCKET/hf/gemma-3-1b-it" /mnt/disks/model-cache/gemma-3-1b-it
sudo umount /mnt/disks/model-cache
gcloud compute instances detach-disk model-loader-vm --disk=vllm-model-source-disk --zone=us-central1-a
