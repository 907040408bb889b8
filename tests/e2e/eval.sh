#!/bin/bash
# quad eval: golden models, the check and its exit codes, written outputs, exported graphs.
. "$(dirname "$0")/check.bash"
needs_golden
g=$QUAD_GOLDEN o=$work/o
mkdir "$o"

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
