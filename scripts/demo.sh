#!/bin/sh
# The whole tool on the committed example: one model, four adapters, one quantized graph that serves them all.
#
#   make demo            writes demo/: contact-sheet.png, table.txt, table.json, export/ and what led there
#
# QUAD and SCENES name the programs. Where there is no ONNX Runtime to be had, the exported files are executed by the program itself.
set -eu
cd "$(dirname "$0")/.."
quad=${QUAD:-build/quad}
scenes=${SCENES:-$(dirname "$quad")/scenes}
model=scripts/example/model
given=scripts/example/adapters
tasks="removal sketch night sticker"
out=demo
samples=24 # held-out, per adapter
batch=8    # of the exported graphs
# Threads that spin while they wait cost more than they win where the cores are shared.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"

say() {
	printf '\n\033[1m%s\033[0m\n' "$*"
}
run() {
	printf '$ %s\n' "$*"
	"$@"
}

began=$(date +%s)
rm -rf "$out"
mkdir -p "$out/data" "$out/distilled" "$out/profiles" "$out/exports" "$out/samples"
if ort=$(scripts/get-onnxruntime.sh); then
	engine="ort --ort-lib $ort"
else
	echo "the exported graphs are executed by the program itself"
	engine=torch
fi

say "1. Data: held-out tasks, samples to distil from, calibration"
for t in $tasks; do
	"$scenes" --task "$t" --count "$samples" --seed 99 -o "$out/data/test-$t.safetensors"
	"$scenes" --task "$t" --count 96 --seed 3 -o "$out/data/learn-$t.safetensors"
done
"$scenes" --task all --count 32 --seed 4 --schedule "$model" -o "$out/data/calib.safetensors"

say "2. What there is"
run "$quad" inspect "$model"
all=""
for t in $tasks; do
	run "$quad" inspect "$given/$t.safetensors" --base "$model"
	all="$all --adapter $t=$given/$t.safetensors"
done

say "3. Sensitivity, and one set of encodings for all adapters"
# shellcheck disable=SC2086 # a list of options
run "$quad" qss --base "$model" $all --calib "$out/data/calib.safetensors" -o "$out/profiles/aligned.json"
echo
echo "The paper's way: the anchor's encodings as they are"
# shellcheck disable=SC2086
run "$quad" qss --base "$model" $all --calib "$out/data/calib.safetensors" --align none --method anchor -o "$out/profiles/anchor.json" |
	tee "$out/anchor.txt"
for t in $tasks; do
	"$quad" qss --base "$model" --adapter "$t=$given/$t.safetensors" --calib "$out/data/calib.safetensors" --align none --method anchor \
		-o "$out/profiles/own-$t.json" >/dev/null
done
worst=$(awk -v tasks="$tasks" 'index(" " tasks " ", " " $1 " ") && (best == "" || $(NF - 1) + 0 < best) { best = $(NF - 1) + 0; name = $1 }
	END { print name }' "$out/anchor.txt")

say "4. Distillation against the fixed scales and zero points"
distill() { # PROFILE TASK STEPS OUTPUT
	run "$quad" distill --base "$model" --profile "$out/profiles/$1.json" --adapter "$2=$given/$2.safetensors" \
		--data "$out/data/learn-$2.safetensors" --trajectory euler:8 --steps "$3" --batch 8 -o "$4"
}
for t in $tasks; do
	distill aligned "$t" 40 "$out/distilled/$t.safetensors"
done
distill anchor "$worst" 80 "$out/distilled/anchor-$worst.safetensors"

say "5. Export: one graph, the adapters are inputs"
both="" # each adapter as it was given, aligned, and distilled
for t in $tasks; do
	both="$both --adapter $t-given=$given/$t.safetensors --adapter $t=$out/distilled/$t.safetensors"
done
# shellcheck disable=SC2086
run "$quad" export --base "$model" --profile "$out/profiles/aligned.json" $both --batch $batch --tokens 8 -o "$out/export"
# shellcheck disable=SC2086
"$quad" export --base "$model" --profile "$out/profiles/anchor.json" $all --adapter "$worst-distilled=$out/distilled/anchor-$worst.safetensors" \
	--batch $batch --tokens 8 -o "$out/exports/anchor" >/dev/null
for t in $tasks; do
	"$quad" export --base "$model" --profile "$out/profiles/own-$t.json" --adapter "$t=$given/$t.safetensors" --batch $batch --tokens 8 \
		-o "$out/exports/own-$t" >/dev/null
done

say "6. Eight Euler steps for $samples held-out samples per adapter, in float and from the exported files"
sample() { # TASK COLUMN OPTIONS...
	task=$1 column=$2
	shift 2
	"$quad" run "$@" --inputs "$out/data/test-$task.safetensors" --scheduler euler --steps 8 --seed 5 --batch $batch \
		-o "$out/samples/$task-$column.safetensors" >/dev/null
}
report=""
for t in $tasks; do
	sample "$t" float --base "$model" --adapter "$t=$given/$t.safetensors"
	# shellcheck disable=SC2086 # $engine is a list of options
	{
		sample "$t" own-PTQ --base "$out/exports/own-$t" --adapter "$t" --engine $engine
		sample "$t" anchor --base "$out/exports/anchor" --adapter "$t" --engine $engine
		[ "$t" != "$worst" ] || sample "$t" anchor+distilled --base "$out/exports/anchor" --adapter "$t-distilled" --engine $engine
		sample "$t" aligned --base "$out/export" --adapter "$t-given" --engine $engine
		sample "$t" aligned+distilled --base "$out/export" --adapter "$t" --engine $engine
	}
	report="$report --task $t --reference $out/samples/$t-float.safetensors --input $out/data/test-$t.safetensors"
	for column in own-PTQ anchor anchor+distilled aligned aligned+distilled; do
		file=$out/samples/$t-$column.safetensors
		[ ! -f "$file" ] || report="$report --column $column=$file"
	done
done

say "7. The exported file against the simulator, every step"
for t in $tasks; do
	"$quad" run --base "$model" --adapter "$t=$out/distilled/$t.safetensors" --profile "$out/profiles/aligned.json" \
		--inputs "$out/data/test-$t.safetensors" --scheduler euler --steps 8 --seed 5 --limit $batch --batch $batch \
		--trace "$out/samples/trace-$t.safetensors" -o "$out/samples/$t-simulated.safetensors" >/dev/null
	# shellcheck disable=SC2086
	run "$quad" run --base "$out/export" --adapter "$t" --engine $engine --inputs "$out/data/test-$t.safetensors" \
		--check-trace "$out/samples/trace-$t.safetensors" --check 1e-3
done

say "8. PSNR against float, mean +- standard error over $samples samples"
# shellcheck disable=SC2086
run "$quad" report $report --pack 2 --show 3 --sheet "$out/contact-sheet.png" | tee "$out/table.txt"
echo
echo "done in $(($(date +%s) - began)) s: look at $out/contact-sheet.png"
