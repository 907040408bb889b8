#!/bin/bash
# quad qss: the table, the profile and what it fits, choices forced, and everything that is refused before or after running.
. "$(dirname "$0")/check.bash"
o=$work/o
mkdir "$o"
needs_scenes

small_config "$work/config.json"
cd "$work" || exit 1
expect 0 "" "$QUAD" init --config config.json --prediction v_prediction --seed 1 -o m
expect 0 "" "$QUAD" init --config config.json --prediction v_prediction --seed 2 -o other
expect 0 "" "$scenes" --task all --count 4 --seed 1 --schedule m -o calib.safetensors
expect 0 "" "$scenes" --task sketch --count 3 --seed 2 -o data.safetensors
expect 0 "" "$QUAD" train --base m --lora 2 --slots all --data data.safetensors --steps 2 --batch 2 --lr 0.05 --seed 1 -o a.safetensors
expect 0 "" "$QUAD" train --base m --lora 3 --slots attention --data data.safetensors --steps 2 --batch 2 --lr 0.01 --seed 2 -o b.safetensors
qss=("$QUAD" qss --base m --adapter a=a.safetensors --adapter b=b.safetensors --calib calib.safetensors)

# The table alone; nothing is written. The same with --json is one document.
expect 0 "adapter   rank slots" "${qss[@]}"
[ "$(wc -l <out)" -eq 5 ] || fault "the table of two adapters has $(wc -l <out) lines, needs 5"
expect 0 "would score 2 adapters on" "${qss[@]}" -o o/dry.json --dry-run
[ ! -e o/dry.json ] || fault "a dry run writes"
expect 0 '"schema": 1' "${qss[@]}" --json
for key in method anchor reason adapters qss standard_error output_sqnr_db update_sqnr_db own shared aligned per_sample; do
	grep -q "\"$key\":" out || fault "no '$key' in the document"
done

# Choices are obeyed and marked.
expect 0 "anchor: b (asked for)" "${qss[@]}" --anchor b
grep -q '^b  *\*' out || fault "the anchor is not marked"
expect 0 "unified encodings (asked for)" "${qss[@]}" --method unified
expect 0 "no QSS differs from the highest" "${qss[@]}" --equal-level 0
expect 0 "" "${qss[@]}" --scope model --divergence cosine --observer mse --act-bits 8 --batch 2
expect 0 "" "${qss[@]}" --lora-bits 16 --align gauge --weight-scheme per-tensor

# The profile: the same bytes again, not replaced unasked, and it fits its model and adapters.
expect 0 "" "${qss[@]}" -o o/p.json
expect 0 "" "${qss[@]}" -o o/q.json --batch 1
expect 0 "" "${qss[@]}" -o o/p.json --force
[ -s o/p.json ] || fault "no profile"
refused "'o/p.json' already exists" "${qss[@]}" -o o/p.json
expect 0 "" "${qss[@]}" -o o/again.json
cmp o/p.json o/again.json || fault "the same command gives another profile"
expect 0 "" "$QUAD" eval --base m --adapter a.safetensors --profile o/p.json --inputs calib.safetensors
refused "the profile was made for" "$QUAD" eval --base other --adapter a.safetensors --profile o/p.json --inputs calib.safetensors
sed 's/"schema": 2/"schema": 9/' o/p.json >bad.json
refused "cannot use profile 'bad.json': 'schema' is 9, needs a whole number from 1 to 2" "$QUAD" eval --base m --profile bad.json --inputs calib.safetensors
sed '0,/"scale": [0-9.e-]*/s//"scale": 0/' o/p.json >bad.json
refused "'scale' is 0, needs finite numbers above 0" "$QUAD" eval --base m --profile bad.json --inputs calib.safetensors
expect 0 "" "${qss[@]}" --slots all --rank 4 --share layer -o o/all.json
expect 0 "" "$QUAD" eval --base m --adapter b.safetensors --profile o/all.json --inputs calib.safetensors

mkdir c
# --compare in one command says what three profiles and an evaluation of each adapter under them say.
expect 2 "needs --align gauge or gain" "${qss[@]}" --compare --align none
one=("$QUAD" qss --base m --calib calib.safetensors)
anchored=(--act-bits 8 --method anchor --anchor b)
expect 0 "- simulated output, dB -" "${qss[@]}" "${anchored[@]}" --compare -o c/aligned.json
[ "$(wc -l <out)" -eq 5 ] || fault "the compared table has $(wc -l <out) lines, needs 5"
awk '$1 == "a" || $1 == "b" { print $1, $(NF - 2), $(NF - 1), $NF }' out >compared
expect 0 '"simulated_sqnr_db": {' "${qss[@]}" "${anchored[@]}" --compare --json
expect 0 "" "${qss[@]}" "${anchored[@]}" -o c/again.json
cmp c/aligned.json c/again.json || fault "--compare changes the profile"
expect 0 "" "${qss[@]}" "${anchored[@]}" --align none -o c/shared.json
for name in a b; do
	expect 0 "" "${one[@]}" --adapter $name=$name.safetensors --act-bits 8 --method anchor --align none -o c/own-$name.json
	expect 0 "" "$QUAD" eval --base m --adapter $name.safetensors --inputs calib.safetensors -o c/float-$name.safetensors
	row=$name
	for profile in own-$name shared aligned; do
		expect 0 "" "$QUAD" eval --base m --adapter $name=$name.safetensors --profile c/$profile.json --inputs c/float-$name.safetensors
		row="$row $(sed -n 's/.*SQNR \([-0-9.]*\) dB/\1/p' out)"
	done
	echo "$row"
done >evaluated
awk 'NR == FNR { for (i = 2; i <= 4; i++) want[$1, i] = $i; next }
	{ for (i = 2; i <= 4; i++) if (($1, i) in want == 0 || $i - want[$1, i] > 0.06 || want[$1, i] - $i > 0.06) exit 1; n++ }
	END { exit n != 2 }' evaluated compared || fault "--compare says
$(cat compared)
what is evaluated is
$(cat evaluated)"
awk '{ if ($3 + 1 < $2) found = 1 } END { exit !found }' compared || fault "no adapter suffers under the other's encodings: $(cat compared)"

# A strength that floats do not bear is refused, one of 0 is never the anchor.
strong() # STRENGTH
{
	qss_of=("$QUAD" qss --base m --adapter "a=a.safetensors@$1" --adapter b=b.safetensors --calib calib.safetensors)
}
strong 1e30
refused ", needs at most 1e+06: lower the strength" "${qss_of[@]}"
refused ", needs at most 1e+06: lower the strength" "$QUAD" export --base m --profile o/p.json --adapter a=a.safetensors@1e30 -o o/x
strong 1e39
refused "layer '" "${qss_of[@]}"
strong 0
expect 0 "anchor: b (the only adapter that changes anything)" "${qss_of[@]}"
[ "$(grep -c "adapter 'a' changes nothing (strength 0, or all of it is zero): it is never the anchor" err)" -eq 1 ] || fault "a strength of 0 is not said in one line"
refused "anchor 'a' changes nothing" "${qss_of[@]}" --anchor a
refused "no adapter changes anything" "$QUAD" qss --base m --adapter a.safetensors@0 --calib calib.safetensors

# Several files are one set.
expect 0 "would score 2 adapters on 8 samples" "${qss[@]}" --calib calib.safetensors --dry-run

# What is wrong is said, before anything runs.
refused "anchor 'c' is none of the 2 adapters" "${qss[@]}" --anchor c -o o/x.json
refused "does not divide the" "${qss[@]}" --batch 5 -o o/x.json
refused "cannot have 8 bits for its weight and 16" "${qss[@]}" --share layer --lora-bits 16 -o o/x.json
refused "with rank 3 where 2 fit: quad qss --rank" "${qss[@]}" --rank 2 -o o/x.json
refused "two adapters are called 'a'" "$QUAD" qss --base m --adapter a=a.safetensors --adapter a=b.safetensors --calib calib.safetensors -o o/x.json
refused "has no tensor 'sample'" "$QUAD" qss --base m --adapter a.safetensors --calib data.safetensors -o o/x.json
refused "o/none" "${qss[@]}" -o o/none/x.json
expect 2 "quad qss: needs --base" "$QUAD" qss --calib x
expect 2 "quad qss: needs --adapter" "$QUAD" qss --base m --calib x
expect 2 "quad qss: needs --calib" "$QUAD" qss --base m --adapter a.safetensors
expect 2 "--batch is '0'" "${qss[@]}" --batch 0
[ -z "$(ls o | grep -v '^\(p\|q\|again\|all\)\.json$')" ] || fault "left behind: $(ls o)"
finish
