#!/bin/bash
# Measures one thing and holds it against its limit: scripts/bench.sh MODE [argument ...], MODE one of the scripts in scripts/bench.
# The last line of each is "ratio R": what was measured over the limit that the script names. QUAD names the program (build/quad).
set -u
cd "$(dirname "$0")/.." || exit 3
if [ ! -f "scripts/bench/${1:-}.sh" ]; then
	echo "usage: scripts/bench.sh MODE, one of: $(cd scripts/bench && ls ./*.sh | sed 's|^\./||; s|\.sh$||' | tr '\n' ' ')" >&2
	exit 2
fi
mode=$1
shift
export QUAD=${QUAD:-build/quad}
exec "scripts/bench/$mode.sh" "$@"
