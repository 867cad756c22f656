#!/usr/bin/env bash
# demo.sh KVCORE: makes two small traces and replays them through the cache, a few capacities and
# policies each.
set -euo pipefail
cd "$(dirname "$0")/.."
kvcore=$1
mkdir -p build/demo
for kind in agent chat; do
  "$kvcore" workload --kind $kind --seed 1 --output build/demo/$kind.jsonl
done
"$kvcore" replay build/demo/agent.jsonl build/demo/chat.jsonl \
  --policy lru,auto,opt --capacity 1%,2%,5%,10% --json build/demo/replay.json
