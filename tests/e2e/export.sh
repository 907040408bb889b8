#!/bin/bash
# quad export, run and report: one export serves several adapters, a later one joins it, every engine agrees, nothing is left behind.
. "$(dirname "$0")/check.bash"
o=$work/o
# Threads that spin while they wait cost more than they win here.
export OMP_WAIT_POLICY=passive
mkdir "$o"
needs_scenes

# A model too small to draw anything, conditioned like the example, with two adapters of different ranks.
small_config "$work/config.json"
cd "$work" || exit 1
expect 0 "" "$QUAD" init --config config.json --prediction v_prediction --seed 1 -o m
expect 0 "" "$scenes" --task all --count 4 --seed 1 --schedule m -o calib.safetensors
expect 0 "" "$scenes" --task sketch --count 3 --seed 2 -o data.safetensors
expect 0 "" "$QUAD" train --base m --lora 2 --slots all --data data.safetensors --steps 2 --batch 2 --lr 0.05 --seed 1 -o a.safetensors
expect 0 "" "$QUAD" train --base m --lora 3 --slots attention --data data.safetensors --steps 2 --batch 2 --lr 0.05 --seed 2 -o b.safetensors
expect 0 "" "$QUAD" qss --base m --adapter a=a.safetensors --adapter b=b.safetensors --calib calib.safetensors -o profile.json

# The export: everything the manifest lists is there, and says what it is.
export_ab=("$QUAD" export --base m --profile profile.json --adapter a=a.safetensors --batch 2 --tokens 8)
expect 0 "update SQNR" "${export_ab[@]}" -o o/x
for file in model.onnx model.encodings.json adapters/a.safetensors adapters/a.onnx_adapter lora_weight_list.txt manifest.json \
	scheduler/scheduler_config.json; do
	[ -s "o/x/$file" ] || fault "no $file"
done
[ ! -e o/x/model.onnx.data ] || fault "external data below 2 GB"
refused "'o/x' already exists" "${export_ab[@]}" -o o/x
expect 0 "nothing written" "${export_ab[@]}" -o o/dry --dry-run
# Every pass that the help names can be looked behind.
passes=$("$QUAD" export --help | sed -n 's/^ *--dump-after=//p' | tr '|' ' ')
[ -n "$passes" ] || fault "the help of export names no passes"
for pass in $passes; do
	expect 0 "output %out" "${export_ab[@]}" -o o/dry --dry-run --dump-after "$pass"
done
expect 2 "--dump-after is 'dead-code', needs one of ${passes// /, }" "${export_ab[@]}" -o o/dry --dry-run --dump-after dead-code
[ ! -e o/dry ] || fault "a dry run writes"
expect 0 "" "${export_ab[@]}" -o o/ext --external-data --format both
for file in model.onnx.data model_float.onnx model_float.onnx.data adapters_float/a.safetensors; do
	[ -s "o/ext/$file" ] || fault "no $file"
done

# What a pipeline of Stable Diffusion 1 or 2 overrides in its schedule is in the export's: it samples as the model does.
cp -r m sd
sed -i 's/"_class_name": *"[^"]*"/"_class_name": "StableDiffusionPipeline"/' sd/model_index.json
cat >sd/scheduler/scheduler_config.json <<'JSON'
{ "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
  "prediction_type": "v_prediction", "clip_sample": true, "set_alpha_to_one": false, "mine": "kept" }
JSON
expect 0 "" "$QUAD" export --base sd --profile profile.json --adapter a=a.safetensors --batch 2 --tokens 8 -o o/sd
expect 0 "" "$QUAD" run --engine torch --base sd --adapter a.safetensors --profile profile.json --inputs data.safetensors --scheduler ddim --steps 2 --batch 2 -o o/of-model
expect 0 "" "$QUAD" run --base o/sd --adapter a --inputs data.safetensors --scheduler ddim --steps 2 -o o/of-export
cmp -s <(tensors o/of-model) <(tensors o/of-export) || fault "an export samples by another schedule than its pipeline"
grep -q '"mine": "kept"' o/sd/scheduler/scheduler_config.json || fault "fields of the schedule are lost"
cmp -s m/scheduler/scheduler_config.json o/x/scheduler/scheduler_config.json || fault "a schedule that nothing overrides is written anew"
rm sd/model_index.json
expect 0 "" "$QUAD" run --base sd/unet --adapter a.safetensors --profile profile.json --inputs data.safetensors --scheduler ddim --steps 2 --batch 2 -o o/other
cmp -s <(tensors o/of-model) <(tensors o/other) && fault "the overridden fields make no difference"

# Another adapter joins; the graph is not touched, the adapter is what a whole export would have made of it.
before=$(cat o/x/model.onnx o/x/model.encodings.json | cksum)
expect 0 "2 adapters" "$QUAD" export --adapter-only --base m --profile profile.json --adapter b=b.safetensors -o o/x
expect 0 "adapter     b " "$QUAD" inspect o/x
expect 0 '"kind": "export"' "$QUAD" inspect o/x --json
for file in "profile profile: profile.json" "export slots: o/x/manifest.json" "encodings version: o/x/model.encodings.json" \
	"onnx_adapter ONNX: o/x/adapters/a.onnx_adapter" "tensors an export's adapter,: o/x/adapters/a.safetensors" "tensors calibration: calib.safetensors" \
	"text lines: o/x/lora_weight_list.txt"; do
	expect 0 "\"kind\": \"${file%% *}\"" "$QUAD" inspect "${file##*: }" --json
	word=${file%%:*}
	expect 0 "${word#* }" "$QUAD" inspect "${file##*: }"
done
expect 0 "a.onnx_adapter: an adapter file of ONNX Runtime" "$QUAD" inspect o/x/adapters/a.onnx_adapter
"$QUAD" inspect o/x/adapters/a.onnx_adapter | tail -n +2 | sort >ours
"$QUAD" inspect o/x/adapters/a.safetensors | grep '\.lora_' | sort >theirs
cmp ours theirs || fault "an adapter's two files are told differently"
mkdir broken
sed 's/"rank": [0-9]*/"rank": "x"/' o/x/manifest.json >broken/manifest.json
refused "'broken/manifest.json': slots[0] has no number 'rank'" "$QUAD" inspect broken
echo '{"program": "quad"}' >broken/manifest.json
refused "'broken/manifest.json' is no manifest of an export: it has no text 'base'" "$QUAD" inspect broken
[ "$before" = "$(cat o/x/model.onnx o/x/model.encodings.json | cksum)" ] || fault "adding an adapter changes the graph"
expect 0 "" "$QUAD" export --base m --profile profile.json --adapter b=b.safetensors --batch 2 --tokens 8 -o o/y
cmp -s o/x/adapters/b.safetensors o/y/adapters/b.safetensors || fault "an added adapter differs from an exported one"
cmp -s o/x/model.onnx o/y/model.onnx || fault "the graph depends on the adapters"
refused "adapters/b.safetensors' already exists" "$QUAD" export --adapter-only --base m --profile profile.json --adapter b=b.safetensors -o o/x
expect 0 "" "$QUAD" qss --base m --adapter a=a.safetensors --calib calib.safetensors --align none -o other.json
refused "was made under profile" "$QUAD" export --adapter-only --base m --profile other.json --adapter a=a.safetensors -o o/x
# An adapter that needs more slots than were declared says how many, and what declares them.
expect 0 "" "$QUAD" qss --base m --adapter b=b.safetensors --calib calib.safetensors --act-bits 0 -o few.json
refused "adapter 'a': changes 50 of its 82 layers where there is no slot, the first is 'time_embedding.linear_1': quad qss --slots" "$QUAD" export --base m --profile few.json --adapter a=a.safetensors -o o/few
refused "'m' is an input, it cannot be the output too" "$QUAD" export --adapter-only --base m --profile profile.json --adapter a=a.safetensors -o m
mkdir none
refused "cannot read 'none/manifest.json'" "$QUAD" export --adapter-only --base m --profile profile.json --adapter a=a.safetensors -o none

refused "are none: quad export --adapter-only adds an adapter to an export" "$QUAD" run --base o/x --adapter a.safetensors \
	--inputs data.safetensors -o o/n

# Of each step that was held against a trace the root of the mean square is within 2e-4 of the output's range.
steps_agree()
{
	grep -q "root mean square" "$work/out" || fault "no step was compared: $1"
	grep -o "root mean square [^)]*" "$work/out" | awk '!($4 <= 2e-4) { bad = 1 } END { exit bad }' || fault "$1
$(cat "$work/out")"
}

# Every adapter: the model simulated by libtorch's operators and the exported file give the same bits; what the engine computes, with
# exact sums, differs from both by codes that fall to the other side of a middle.
common=(--inputs data.safetensors --steps 2 --seed 3)
ort=yes
if ! "$QUAD" run --base o/x --engine ort "${common[@]}" -o o/ort.safetensors >/dev/null 2>err; then
	ort=no
	grep -q "no ONNX Runtime found" err || fault "$(cat err)"
	skip "no ONNX Runtime found"
fi
for name in a b; do
	expect 0 "3 samples" "$QUAD" run --base m --adapter $name=$name.safetensors "${common[@]}" --batch 2 -o o/float.safetensors --force
	simulate=("$QUAD" run --base m --adapter $name=$name.safetensors --profile profile.json "${common[@]}" --batch 2 --force)
	expect 0 "" "${simulate[@]}" --engine torch --trace o/reference -o o/sim.safetensors
	expect 0 "" "$QUAD" run --base o/x --adapter $name "${common[@]}" -o o/file.safetensors --force
	cmp -s <(tensors o/sim.safetensors) <(tensors o/file.safetensors) || fault "adapter $name: the exported file samples something else"
	expect 0 "largest difference 0.000e+00" "$QUAD" run --base o/ext --adapter $name=o/x/adapters/$name.safetensors "${common[@]}" --check-trace o/reference
	expect 0 "" "${simulate[@]}" --trace o/trace -o o/sim.safetensors
	expect 0 "allowed 0.001" "$QUAD" run --base o/ext --adapter $name=o/x/adapters/$name.safetensors "${common[@]}" --check-trace o/trace
	steps_agree "adapter $name: the engine simulates something else than the exported file computes"
	expect 1 "of the output's range, allowed 0" "$QUAD" run --base o/x "${common[@]}" --check-trace o/trace --check 0
	# what the output's encoding covers is the same at every step
	[ "$(grep -o 'of the range .*' "$work/out" | sort -u | wc -l)" -eq 1 ] || fault "steps are held against several ranges"
	if [ $ort = yes ]; then
		expect 0 "" "$QUAD" run --base o/x --adapter $name --engine ort "${common[@]}" -o o/ort.safetensors --force
		expect 0 "" "$QUAD" run --base o/x --adapter $name --engine ort "${common[@]}" --check-trace o/trace --check 1e-3
	fi
	expect 0 "| $name" "$QUAD" report --pack 2 --task $name --input data.safetensors --reference o/float.safetensors \
		--column "simulated=o/sim.safetensors" --column "exported=o/file.safetensors" --sheet o/sheet.png --force
	[ -s o/sheet.png ] || fault "no contact sheet"
done

# What is not as it was exported: a check of all says it, and so does a run of what it reads.
expect 0 "  verified    " "$QUAD" inspect o/x --verify
expect 0 '"kind": "export"' "$QUAD" inspect o/ext --verify --json
refused "'m' is no export: --verify checks the files that a manifest.json lists" "$QUAD" inspect m --verify
damaged() # FILE COMMAND...: another byte at its end, said by the check and by the command, which may be none
{
	local file=$1
	shift
	rm -rf bad
	cp -r o/ext bad
	printf x | dd of="bad/$file" bs=1 seek=$(($(stat -c %s "bad/$file") - 1)) conv=notrunc 2>/dev/null
	expect 1 "'bad/$file' is not the file that was exported: its hash is xxh3-128:" "$QUAD" inspect bad --verify
	[ $# -eq 0 ] || refused "'bad/$file' is not the file that was exported: its hash is xxh3-128:" "$@"
}
damaged model.onnx.data "$QUAD" run --base bad "${common[@]}" -o o/n
damaged adapters/a.safetensors "$QUAD" run --base bad --adapter a "${common[@]}" -o o/n
damaged adapters/a.onnx_adapter "$QUAD" run --base bad --adapter a "${common[@]}" -o o/n
damaged scheduler/scheduler_config.json "$QUAD" eval --base bad --inputs calib.safetensors -o o/n
damaged model.encodings.json
rm bad/adapters/a.onnx_adapter
expect 1 "'bad/adapters/a.onnx_adapter' is missing, 'bad/manifest.json' lists it; and 1 more" "$QUAD" inspect bad --verify
refused "'bad/adapters/a.onnx_adapter' is missing, 'bad/manifest.json' lists it" "$QUAD" run --base bad --adapter a "${common[@]}" -o o/n
cp o/x/adapters/b.* bad/adapters
refused "'bad/adapters/b.safetensors' is not among the files that 'bad/manifest.json' lists" "$QUAD" run --base bad --adapter b "${common[@]}" -o o/n
# both as the manifest says, but not of one adapter
rm -rf bad
cp -r o/x bad
cp bad/adapters/b.onnx_adapter bad/adapters/a.onnx_adapter
swap() # PATH: its entry in the manifest, on three lines, becomes that of the file
{
	local hash
	hash=$(sed -n "\\|\"path\": \"adapters/b.onnx_adapter\"|,/hash/p" bad/manifest.json | sed -n 's/.*"hash": "\(.*\)".*/\1/p')
	sed -i "\\|\"path\": \"$1\"|,/hash/s/\"hash\": \"[^\"]*\"/\"hash\": \"$hash\"/" bad/manifest.json
}
swap adapters/a.onnx_adapter
expect 1 "'bad/adapters/a.safetensors' and 'bad/adapters/a.onnx_adapter' differ in tensor '" "$QUAD" inspect bad --verify
refused "'bad/adapters/a.safetensors' and 'bad/adapters/a.onnx_adapter' differ in tensor '" "$QUAD" run --base bad --adapter a "${common[@]}" -o o/n

# What does not fit says so in one line.
refused "'o/x' is an export, which carries its encodings: it takes no profile" "$QUAD" run --base o/x --profile profile.json "${common[@]}" -o o/n
refused "ONNX Runtime executes exports" "$QUAD" run --base m --engine ort "${common[@]}" -o o/n
refused "'c' is no file and no adapter of 'o/x', which has a, b" "$QUAD" run --base o/x --adapter c "${common[@]}" -o o/n
refused "has no tensor 'encoder_hidden_states'" "$QUAD" run --base m --inputs a.safetensors -o o/n
expect 2 "one sample has one adapter, 2 given" "$QUAD" run --base m --adapter a=a.safetensors --adapter b=b.safetensors "${common[@]}" -o o/n
refused "no tensor 'negative_hidden_states'" "$QUAD" run --base m "${common[@]}" --guidance 3 -o o/n
truncate -s 1000 o/x/adapters/b.safetensors
refused "o/x/adapters/b.safetensors" "$QUAD" run --base o/x --adapter b "${common[@]}" -o o/n
truncate -s 10000 o/x/model.onnx
refused "'o/x/model.onnx': is not an ONNX file" "$QUAD" run --base o/x "${common[@]}" -o o/n
finish
