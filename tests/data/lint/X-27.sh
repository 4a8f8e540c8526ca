#!/bin/bash
set -euo pipefail
gcloud compute disks create vllm-model-source-disk \
    --size=50GB \
    --type=pd-standard \
    --zone=us-central1-a
# finds-in: disk-slow 5
gcloud compute instances create model-loader-vm --machine-type=e2-micro --zone=us-central1-a  # finds: loader-small loader-without-account
gcloud compute instances attach-disk model-loader-vm --disk=vllm-model-source-disk --zone=us-central1-a
sudo mkfs.ext4 -m 0 -E lazy_itable_init=0,lazy_journal_init=0,discard /dev/sdb  # finds: device-assumed formats-unseen
sudo mount -o discard,defaults /dev/sdb /mnt/disks/model-cache  # finds: device-assumed
gcloud compute instances detach-disk model-loader-vm --disk=vllm-model-source-disk --zone=us-central1-a  # finds: detached-while-mounted
gcloud compute instances delete model-loader-vm --zone=us-central1-a --quiet
