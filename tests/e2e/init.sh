#!/bin/bash
# quad init: layout, repeatability, replacing, dry runs, a given configuration.
. "$(dirname "$0")/check.bash"
o=$work/o
mkdir "$o"

expect 0 "1466500 parameters in 324 tensors, 0.006 GB as F32" "$QUAD" init --arch tiny -o "$o/a"
for file in model_index.json unet/config.json unet/diffusion_pytorch_model.safetensors scheduler/scheduler_config.json; do
	[ -s "$o/a/$file" ] || fault "no $file"
done
expect 0 "" "$QUAD" init --arch tiny -o "$o/b" --seed 0
diff -r "$o/a" "$o/b" >/dev/null || fault "the same seed gives another model"
expect 0 "" env OMP_NUM_THREADS=1 "$QUAD" init --arch tiny -o "$o/b" --force
diff -r "$o/a" "$o/b" >/dev/null || fault "the number of threads changes the model"
expect 0 "" "$QUAD" init --arch tiny -o "$o/b" --force --seed 1
diff -r "$o/a" "$o/b" >/dev/null && fault "another seed gives the same model"

refused "'$o/a' already exists" "$QUAD" init --arch tiny -o "$o/a"
refused "already exists" "$QUAD" init --arch tiny -o "$o/a" --dry-run
expect 0 "would write $o/c: 2567463684 parameters in 1680 tensors, 10.270 GB as F32" "$QUAD" init --arch sdxl -o "$o/c" --dry-run
expect 0 "859520964 parameters in 686 tensors, 1.719 GB as F16" "$QUAD" init --arch sd15 --dtype f16 -o "$o/c" --dry-run
[ ! -e "$o/c" ] || fault "a dry run writes"

# A model of the configuration that another was written with is the same model.
expect 0 "" "$QUAD" init --config "$o/a/unet/config.json" -o "$o/c"
diff -r "$o/a" "$o/c" >/dev/null || fault "a configuration that was written reads back as another"
expect 0 '"bytes": 2933000' "$QUAD" init --arch tiny --dtype bf16 -o "$o/d" --json
expect 0 "" "$QUAD" inspect "$o/d" --json
grep -q '"dtypes": "BF16"' "$work/out" || fault "the type is lost"

expect 0 "" "$QUAD" init --arch tiny --prediction v_prediction -o "$o/e"
grep -q '"prediction_type": "v_prediction"' "$o/e/scheduler/scheduler_config.json" || fault "the prediction is lost"

echo '{"act_fn": "tanh"}' >"$work/bad.json"
refused "field 'act_fn' is \"tanh\"" "$QUAD" init --config "$work/bad.json" -o "$o/f"
refused "cannot" "$QUAD" init --arch tiny -o "$o/missing/f"

# A signal in the middle leaves nothing behind.
mkdir "$work/g"
"$QUAD" init --arch sdxl -q -o "$work/g/model" >/dev/null 2>&1 &
victim=$!
while [ -z "$(ls -A "$work/g")" ] && kill -0 $victim 2>/dev/null; do :; done
kill -TERM $victim
wait $victim
[ $? -eq 143 ] || fault "does not die of SIGTERM"
[ -z "$(ls -A "$work/g")" ] || fault "a signal leaves '$(ls -A "$work/g")' behind"
finish
