#!/bin/bash
# Opening a full-size model and attaching ten adapters: the graph at its native size, every adapter read, slots attached. Limits: one
# second and 300 MiB resident. Prints time and peak memory for SD1.5 and SDXL, and the largest ratio to a limit last.
#
#   MODELS=DIR     keeps the stand-ins of random weights (DIR/sd15, DIR/sdxl: 1.7 and 5.1 GB) and uses them again; else a folder
#                  below TMPDIR that is removed at the end
#   ADAPTERS=DIR   adapters of SD1.5 to take (*.safetensors, each as often as needed, with other strengths); else random ones of
#                  rank 4 for the layers of the transformers, as for SDXL
set -u
: "${QUAD:=build/quad}"
limit_seconds=1 limit_mib=300 runs=5
work=$(mktemp -d)
models=${MODELS:-$work}
trap 'rm -rf "$work"' EXIT
mkdir -p "$models"

# measure NAME ADAPTER...: the best of some runs, in seconds, and the highest memory
measure()
{
	local name=$1 i best=99 peak=0 seconds kib adapters=()
	shift
	for i in 0 1 2 3 4 5 6 7 8 9; do
		local file=$((i % $# + 1))
		adapters+=(--adapter "a$i=${!file}@0.$((9 - i))")
	done
	for i in $(seq $runs); do
		/usr/bin/time -o "$work/time" -f '%e %M' "$QUAD" inspect "$models/$name" "${adapters[@]}" >"$work/out" || exit 3
		read -r seconds kib <"$work/time"
		best=$(echo "$best $seconds" | awk '{ print ($2 < $1 ? $2 : $1) }')
		peak=$(echo "$peak $kib" | awk '{ print ($2 > $1 ? $2 : $1) }')
	done
	grep '^  slots' "$work/out"
	echo "$name $best $peak" | awk -v s=$limit_seconds -v m=$limit_mib '{
		printf "%s: %.2f s (limit %g), %.0f MiB (limit %g)\n", $1, $2, s, $3 / 1024, m
		print $2 / s, $3 / 1024 / m >>"'"$work/ratios"'" }'
}

for name in sd15 sdxl; do
	[ -d "$models/$name" ] || "$QUAD" init --arch $name --dtype f16 -o "$models/$name" || exit 3
	files=()
	[ $name = sd15 ] && [ -n "${ADAPTERS:-}" ] && files=("$ADAPTERS"/*.safetensors)
	if [ ${#files[@]} -eq 0 ]; then
		"$QUAD" init --arch $name --lora 4 --dtype f16 -o "$work/$name.safetensors" || exit 3
		files=("$work/$name.safetensors")
	fi
	measure $name "${files[@]}"
done
awk '{ r = $1 > r ? $1 : r; r = $2 > r ? $2 : r } END { printf "ratio %.2f\n", r; exit r > 1 }' "$work/ratios"
