#!/usr/bin/env bash
# How fast an SD1.5 UNet runs in float32 at 64 x 64 latents, batch 1: next to the machine's rate of matrix products, measured in
# between, next to libtorch's operators, and with how much memory. Makes a model of random weights (3.4 GB) in a temporary folder.
# --model DIR measures that one instead, --runs N takes the median of N (5).
set -eu
model='' runs=5
while [ $# -gt 0 ]; do
	case $1 in
	--model) model=${2:?--model needs a folder}; shift 2 ;;
	--runs) runs=${2:?--runs needs a number}; shift 2 ;;
	*) echo "bench.sh forward: unknown option '$1'" >&2; exit 2 ;;
	esac
done
build=$(dirname "${QUAD:-build/quad}")
make --no-print-directory BUILD="$build" -j"$(nproc)" "$build/quad" "$build/bench-forward" >&2

if [ -z "$model" ]; then
	folder=$(mktemp -d)
	trap 'rm -rf "$folder"' EXIT
	model=$folder/sd15
	"$build/quad" init --arch sd15 -o "$model" >&2
fi
export OMP_WAIT_POLICY=passive
ours=$("$build/bench-forward" "$model" "$runs")
theirs=$("$build/bench-forward" "$model" 1 libtorch)

printf '%s\n%s\n' "$ours" "$theirs" | awk '
	!($1 in ours) { ours[$1] = $2; next }
	{ theirs[$1] = $2 }
	END {
		best = ours["best"] > theirs["best"] ? ours["best"] : theirs["best"]
		limit = ours["gflop"] / best
		printf "products      float32 %.0f GFLOP/s (OpenBLAS %.0f, oneDNN %.0f), bfloat16 %.0f / 3 = %.0f, %d threads\n", \
			(ours["openblas"] > ours["onednn"] ? ours["openblas"] : ours["onednn"]), ours["openblas"], ours["onednn"], \
			ours["bfloat16"], ours["bfloat16"] / 3, ours["threads"]
		printf "limit         %.3f s for %.1f GFLOP\n", limit, ours["gflop"]
		printf "libtorch      %.3f s, %.2f times the limit, %d MiB at most\n", theirs["fastest"], theirs["fastest"] / limit, theirs["peak"]
		printf "first run     %.3f s, weights packed\n", ours["first"]
		printf "forward       %.3f s (median %.3f s, %.2f times the limit)\n", ours["fastest"], ours["median"], ours["median"] / limit
		printf "peak memory   %d MiB, weights %d MiB and %d\n", ours["peak"], ours["weights"], ours["peak"] - ours["weights"]
		printf "ratio         %.2f\n", ours["fastest"] / limit
	}'
