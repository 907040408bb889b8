#!/bin/sh
# Does each adapter do its own task, and only that? PSNR of eight Euler steps against the true picture, for the base model and every adapter on
# every task's held-out samples, mean +- standard error.
#
#   scripts/example/score.sh [SAMPLES]      default 24; QUAD and SCENES name the programs
set -eu
cd "$(dirname "$0")/../.."
quad=${QUAD:-build/quad}
scenes=${SCENES:-$(dirname "$quad")/scenes}
samples=${1:-24}
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

report=""
for task in removal sketch night sticker; do
	"$scenes" --task $task --count "$samples" --seed 99 -o "$work/$task.safetensors"
	report="$report --task $task --reference $work/$task.safetensors --input $work/$task.safetensors"
	for who in base removal sketch night sticker; do
		adapter=""
		[ $who = base ] || adapter="--adapter $who=scripts/example/adapters/$who.safetensors"
		# shellcheck disable=SC2086 # a list of options
		"$quad" run --base scripts/example/model $adapter --inputs "$work/$task.safetensors" --steps 8 --seed 5 --batch 12 \
			-o "$work/$task-$who.safetensors" >/dev/null
		report="$report --column $who=$work/$task-$who.safetensors"
	done
done
# shellcheck disable=SC2086
"$quad" report $report --pack 2
