#!/bin/bash
# quad eval: golden models, the check and its exit codes, written outputs, exported graphs.
. "$(dirname "$0")/check.bash"
needs_scenes
g=$QUAD_GOLDEN o=$work/o
mkdir "$o"

# A model of our own: what is written is a file of inputs again, which the same run meets exactly and an adapter does not.
small_config "$work/config.json"
expect 0 "" "$QUAD" init --config "$work/config.json" --prediction v_prediction --seed 1 -o "$work/m"
expect 0 "" "$scenes" --task all --count 2 --seed 1 --schedule "$work/m" -o "$work/in.safetensors"
expect 0 "" "$scenes" --task sketch --count 2 --seed 2 -o "$work/data.safetensors"
expect 0 "" "$QUAD" train --base "$work/m" --lora 2 --slots all --data "$work/data.safetensors" --steps 1 --batch 2 --lr 0.05 --seed 1 -o "$work/a.safetensors"
own=("$QUAD" eval --base "$work/m" --inputs)
expect 3 "has no tensor 'out' to check against" "${own[@]}" "$work/in.safetensors" --check 1
expect 0 "" "${own[@]}" "$work/in.safetensors" -o "$o/own.safetensors"
expect 0 "largest difference 0" "${own[@]}" "$o/own.safetensors" --check 0
expect 0 "largest difference 0" "${own[@]}" "$o/own.safetensors" --check 0 --threads 1
expect 0 "largest difference" "${own[@]}" "$o/own.safetensors" --check 2e-5 --engine torch
expect 1 "output 'out' differs by up to" "${own[@]}" "$o/own.safetensors" --adapter "$work/a.safetensors" --check 1e-4
expect 1 '"within": false' "${own[@]}" "$o/own.safetensors" --adapter "$work/a.safetensors" --check 0 --json
refused "'$o/own.safetensors' exists, needs --force" "${own[@]}" "$work/in.safetensors" -o "$o/own.safetensors"

# Simulated: near the float model, not it; the engine and libtorch within flips of codes.
expect 0 "" "$QUAD" qss --base "$work/m" --adapter "a=$work/a.safetensors" --calib "$work/in.safetensors" -o "$work/profile.json"
simulated=("${own[@]}" "$work/in.safetensors" --profile "$work/profile.json" --adapter "a=$work/a.safetensors")
expect 0 "" "${simulated[@]}" -o "$o/simulated.safetensors"
expect 0 "largest difference 0" "${own[@]}" "$o/simulated.safetensors" --profile "$work/profile.json" --adapter "a=$work/a.safetensors" --check 0
expect 0 "largest difference" "${own[@]}" "$o/simulated.safetensors" --profile "$work/profile.json" --adapter "a=$work/a.safetensors" --engine torch --check 0.01
expect 1 "differs by up to" "${own[@]}" "$o/simulated.safetensors" --adapter "a=$work/a.safetensors" --check 0
golden tiny15 || finish
rm -f "$o"/*

expect 0 "largest difference" "$QUAD" eval --base "$g/tiny15" --inputs "$g/expected/tiny15.safetensors" --check 2e-5
expect 0 "" "$QUAD" eval --base "$g/tiny15/unet" --inputs "$g/expected/tiny15.safetensors" --check 2e-5
expect 0 "" "$QUAD" eval --base "$g/tiny15" --adapter k="$g/adapters/kohya.safetensors" --inputs "$g/expected/tiny15+kohya.safetensors" --check 2e-5
expect 1 "output 'out' differs by up to" "$QUAD" eval --base "$g/tiny15" --inputs "$g/expected/tiny15+kohya.safetensors" --check 2e-5
grep -q "largest difference" "$work/out" || fault "a failed check hides the result"
expect 0 '"within": true' "$QUAD" eval --base "$g/tinyxl" --inputs "$g/expected/tinyxl.safetensors" --check 2e-5 --json
expect 1 '"within": false' "$QUAD" eval --base "$g/tinyxl" --inputs "$g/expected/tinyxl.safetensors" --check 0 --json

# What is written is a file of inputs again; an adapter at strength 0 is the base model, bit for bit.
expect 0 "" "$QUAD" eval --base "$g/tiny15" --inputs "$g/expected/tiny15.safetensors" -o "$o/out.safetensors"
expect 0 "largest difference 0" "$QUAD" eval --base "$g/tiny15" --inputs "$o/out.safetensors" --check 0
expect 0 "largest difference 0" "$QUAD" eval --base "$g/tiny15" --adapter "$g/adapters/kohya.safetensors@0" --inputs "$o/out.safetensors" --check 0
refused "'$o/out.safetensors' exists, needs --force" "$QUAD" eval --base "$g/tiny15" --inputs "$g/expected/tiny15.safetensors" -o "$o/out.safetensors"
expect 0 "" "$QUAD" eval --base "$g/tiny15" --inputs "$g/expected/tiny15.safetensors" -o "$o/out.safetensors" --force

# Exported files: diffusers' own export of the same weights.
expect 0 "" "$QUAD" eval --base "$g/onnx/nano15_legacy.onnx" --inputs "$g/onnx/nano15_8x8.safetensors" --check 2e-5
refused "carries its encodings, --profile does not apply" "$QUAD" eval --base "$g/onnx/small_typed.onnx" --inputs "$g/onnx/small_typed.safetensors" --profile x
for inputs in 8x8 12x10; do
	expect 0 "" "$QUAD" eval --base "$g/onnx/nano15_legacy_dynamic.onnx" --inputs "$g/onnx/nano15_$inputs.safetensors" --check 2e-5
done
expect 3 "has no tensor 'out' to check against" "$QUAD" eval --base "$g/tiny15" --inputs "$g/qss/tiny15_calib.safetensors" --check 1
finish
