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
# The same, and what it prints is kept in FILE too. (A pipe into tee would hide a failure.)
keep() { # FILE COMMAND...
	file=$1
	shift
	"$@" >"$file"
	cat "$file"
}
# Runs the lines of standard input as commands, as many at a time as there are processors, one thread each: a network this small
# does not fill two with one run.
side_by_side() {
	xargs -d '\n' -n 1 -P "$(nproc)" sh -c
}

began=$(date +%s)
rm -rf "$out"
mkdir -p "$out/data" "$out/distilled" "$out/profiles" "$out/exports" "$out/samples"
if ort=$(scripts/get-onnxruntime.sh); then
	engine="ort --ort-lib $ort"
	executed_by="ONNX Runtime"
else
	echo "the exported graphs are executed by the program itself"
	engine=torch
	executed_by="the program itself"
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
keep "$out/anchor.txt" run "$quad" qss --base "$model" $all --calib "$out/data/calib.safetensors" --align none --method anchor \
	-o "$out/profiles/anchor.json"
for t in $tasks; do
	echo "$quad qss --base $model --adapter $t=$given/$t.safetensors --calib $out/data/calib.safetensors --align none --method anchor" \
		"--threads 1 -o $out/profiles/own-$t.json >/dev/null"
done | side_by_side
worst=$(awk -v tasks="$tasks" 'index(" " tasks " ", " " $1 " ") && (best == "" || $(NF - 1) + 0 < best) { best = $(NF - 1) + 0; name = $1 }
	END { print name }' "$out/anchor.txt")

say "4. Distillation against the fixed scales and zero points"
distill() { # PROFILE TASK STEPS OUTPUT
	echo "$quad distill --base $model --profile $out/profiles/$1.json --adapter $2=$given/$2.safetensors" \
		"--data $out/data/learn-$2.safetensors --trajectory euler:8 --steps $3 --eval-every 15 --batch 8 --threads 1 -o $4"
}
{
	distill anchor "$worst" 80 "$out/distilled/anchor-$worst.safetensors"
	for t in $tasks; do
		distill aligned "$t" 30 "$out/distilled/$t.safetensors"
	done
} >"$out/distill.txt"
sed 's/^/$ /' "$out/distill.txt"
side_by_side <"$out/distill.txt"

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
	echo "$quad export --base $model --profile $out/profiles/own-$t.json --adapter $t=$given/$t.safetensors --batch $batch --tokens 8" \
		"-o $out/exports/own-$t >/dev/null"
done | side_by_side

say "6. Eight Euler steps for $samples held-out samples per adapter: in float, from the exported files, and simulated"
sample() { # TASK COLUMN OPTIONS...
	task=$1 column=$2
	shift 2
	echo "$quad run $* --inputs $out/data/test-$task.safetensors --scheduler euler --steps 8 --seed 5 --batch $batch --threads 1" \
		"-o $out/samples/$task-$column.safetensors >/dev/null"
}
# A column twice: the exported file, and the model under the profile that was exported.
both_ways() { # TASK COLUMN EXPORT PROFILE ADAPTER FILE
	sample "$1" "$2" --base "$3" --adapter "$5" --engine "$engine"
	sample "$1" "$2-simulated" --base "$model" --profile "$out/profiles/$4.json" --adapter "$1=$6" \
		--trace "$out/samples/trace-$1-$2.safetensors"
}
columns_of() { # TASK
	t=$1
	sample "$t" float --base "$model" --adapter "$t=$given/$t.safetensors"
	both_ways "$t" own-PTQ "$out/exports/own-$t" "own-$t" "$t" "$given/$t.safetensors"
	both_ways "$t" anchor "$out/exports/anchor" anchor "$t" "$given/$t.safetensors"
	[ "$t" != "$worst" ] ||
		both_ways "$t" anchor+distilled "$out/exports/anchor" anchor "$t-distilled" "$out/distilled/anchor-$t.safetensors"
	both_ways "$t" aligned "$out/export" aligned "$t-given" "$given/$t.safetensors"
	both_ways "$t" aligned+distilled "$out/export" aligned "$t" "$out/distilled/$t.safetensors"
}
for t in $tasks; do
	columns_of "$t"
done | side_by_side

say "7. The exported file against the simulator, every step"
for t in $tasks; do
	echo "$quad run --base $out/export --adapter $t --engine $engine --inputs $out/data/test-$t.safetensors --threads 1" \
		"--check-trace $out/samples/trace-$t-aligned+distilled.safetensors --check 1e-3 >$out/samples/trace-$t.txt"
done >"$out/traces.txt"
agrees=yes
side_by_side <"$out/traces.txt" || agrees=no
for t in $tasks; do
	echo "$t:"
	cat "$out/samples/trace-$t.txt"
done

report_of() { # SUFFIX OPTIONS...: the table of the columns whose files end in SUFFIX
	suffix=$1
	shift
	for t in $tasks; do
		set -- "$@" --task "$t" --reference "$out/samples/$t-float.safetensors" --input "$out/data/test-$t.safetensors"
		for column in own-PTQ anchor anchor+distilled aligned aligned+distilled; do
			made=$out/samples/$t-$column$suffix.safetensors
			[ ! -f "$made" ] || set -- "$@" --column "$column=$made"
		done
	done
	"$quad" report "$@"
}
say "8. PSNR against float, mean +- standard error over $samples samples"
echo "The exported files, executed by $executed_by:"
keep "$out/table.txt" report_of "" --pack 2 --show 3 --sheet "$out/contact-sheet.png"
echo
echo "The same from the simulator:"
keep "$out/table-simulated.txt" report_of -simulated --pack 2
echo
echo "done in $(($(date +%s) - began)) s: look at $out/contact-sheet.png"
[ $agrees = yes ] || {
	echo "the exported file and the simulator differ by more than 1e-3 of the output's range" >&2
	exit 1
}
