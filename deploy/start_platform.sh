#!/usr/bin/env bash
# Start the platform in the background on the Ray of this machine and wait until it is ready. Safe to repeat.
#   MANTA_HOME         where it keeps its data (default ~/.manta)
#   MANTA_CONFIG       its settings (default deploy/manta.cluster.yaml)
#   MANTA_RAY_ADDRESS  the Ray to attach to (default: the one found here)
#   MANTA_START_S      seconds to wait (default 600)
set -euo pipefail

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
home="${MANTA_HOME:-$HOME/.manta}"
config="${MANTA_CONFIG:-$checkout/deploy/manta.cluster.yaml}"
log="$home/logs/supervisor.log"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

cd "$checkout"
umask 077
mkdir -p "$home/logs"
if python - "$home" <<'PYTHON'
import sys
from pathlib import Path

from manta.platform_process import running

sys.exit(running(Path(sys.argv[1])) is None)
PYTHON
then
    echo "The platform is running already: $home/platform.json"
    exit 0
fi

# What a killed platform left would look like a ready one.
rm -f "$home/platform.json"
setsid nohup python -m serve_app up --address "${MANTA_RAY_ADDRESS:-auto}" --config "$config" --home "$home" \
    >>"$log" 2>&1 </dev/null &
supervisor=$!

deadline=$((SECONDS + ${MANTA_START_S:-600}))
until [ -e "$home/platform.json" ]; do
    if ! kill -0 "$supervisor" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
        echo "The platform did not start. The end of $log:" >&2
        tail -n 30 "$log" >&2
        kill "$supervisor" 2>/dev/null || true
        exit 1
    fi
    sleep 1
done
echo "The platform is ready: $(cat "$home/platform.json")"
