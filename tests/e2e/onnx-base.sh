#!/bin/bash
# An ONNX file as the base model of every command: the same results as from the folder it was exported from, and what is refused.
. "$(dirname "$0")/check.bash"
needs_scenes
g=$QUAD_GOLDEN/onnx dir=$QUAD_GOLDEN/nano15 o=$work/o
# Threads that spin while they wait cost more than they win here.
export OMP_WAIT_POLICY=passive
mkdir "$o"

# A file of our own: the float graph of an export is the model it was made from, with the same layers to adapt.
small_config "$work/config.json"
expect 0 "" "$QUAD" init --config "$work/config.json" --prediction v_prediction --seed 1 -o "$work/m"
expect 0 "" "$scenes" --task all --count 2 --seed 1 --schedule "$work/m" -o "$work/in.safetensors"
expect 0 "" "$scenes" --task sketch --count 2 --seed 2 -o "$work/learn.safetensors"
expect 0 "" "$QUAD" train --base "$work/m" --lora 2 --slots attention --data "$work/learn.safetensors" --steps 1 --batch 2 --lr 0.05 --seed 1 -o "$work/a.safetensors"
expect 0 "" "$QUAD" qss --base "$work/m" --adapter "a=$work/a.safetensors" --calib "$work/in.safetensors" -o "$work/profile.json"
expect 0 "" "$QUAD" export --base "$work/m" --profile "$work/profile.json" --adapter "a=$work/a.safetensors" --batch 2 --tokens 8 --format float -o "$o/own"
expect 0 "" "$QUAD" eval --base "$work/m" --inputs "$work/in.safetensors" -o "$o/own.safetensors"
expect 0 "largest difference" "$QUAD" eval --base "$o/own/model_float.onnx" --inputs "$o/own.safetensors" --check 2e-5
golden onnx || finish
rm -rf "${o:?}"/*

# number N BYTES: little-endian.
number()
{
	local i n=$1
	for ((i = 0; i < $2; i++)); do
		printf "\\x$(printf %02x $((n & 255)))"
		n=$((n >> 8))
	done
}

# data FILE: two samples to train and calibrate on: context [2,7,24] and latents [2,4,8,8] out of an example's own numbers, timesteps 500 and 100.
data()
{
	local header='{"encoder_hidden_states":{"dtype":"F32","shape":[2,7,24],"data_offsets":[0,1344]},"latents":{"dtype":"F32","shape":[2,4,8,8],"data_offsets":[1344,3392]},"sample":{"dtype":"F32","shape":[2,4,8,8],"data_offsets":[3392,5440]},"timestep":{"dtype":"I64","shape":[2],"data_offsets":[5440,5456]}}'
	while (((8 + ${#header}) % 8)); do header+=' '; done
	{
		number ${#header} 8
		printf %s "$header"
		tail -c 1344 "$g/nano15_8x8.safetensors"
		tail -c 2048 "$g/nano15_8x8.safetensors"
		tail -c 2048 "$g/nano15_8x8.safetensors"
		number 500 8
		number 100 8
	} >"$1"
}

# both NAME ARG...: runs quad ARG... with --base FOLDER and with --base FILE, -o o/NAME and o/NAME.onnx, which must come out equal.
both()
{
	local name=$1
	shift
	expect 0 "" "$QUAD" "$@" --base "$dir" -o "$o/$name"
	expect 0 "" "$QUAD" "$@" --base "$file" -o "$o/$name.onnx"
	diff -r "$o/$name" "$o/$name.onnx" >/dev/null || fault "'$file' gives another $name than its folder"
}

data "$work/data.safetensors"
for file in "$g/nano15_legacy.onnx" "$g/nano15_legacy_dynamic.onnx"; do
	rm -rf "${o:?}"/*
	expect 0 "largest difference" "$QUAD" eval --base "$file" --inputs "$g/nano15_8x8.safetensors" --check 2e-5
	both out.safetensors eval --inputs "$g/nano15_8x8.safetensors"
	both a.safetensors train --data "$work/data.safetensors" --lora 2 --steps 3 --batch 2 --lr 0.05 --slots all --seed 1 --threads 1
	both b.safetensors train --data "$work/data.safetensors" --lora 3 --steps 2 --batch 2 --lr 0.05 --slots attention --seed 2 --threads 1
	both with.safetensors eval --adapter "$o/a.safetensors" --inputs "$g/nano15_8x8.safetensors"
	cmp -s "$o/out.safetensors" "$o/with.safetensors" && fault "the adapter changes nothing"
	ab=(--adapter a="$o/a.safetensors" --adapter b="$o/b.safetensors")
	both profile.json qss "${ab[@]}" --calib "$work/data.safetensors" --batch 2 --slots all
	both simulated.safetensors eval --adapter a="$o/a.safetensors" --profile "$o/profile.json" --inputs "$g/nano15_8x8.safetensors"
	both fitted.safetensors distill --profile "$o/profile.json" --adapter a="$o/a.safetensors" --data "$work/data.safetensors" --steps 2 --batch 2 --threads 1
	both sampled.safetensors run --adapter a="$o/a.safetensors" --inputs "$work/data.safetensors" --steps 2 --height 8 --width 8 --batch 2
	for base in "$dir" "$file"; do
		expect 0 "" "$QUAD" export --base "$base" --profile "$o/profile.json" "${ab[@]}" --batch 2 --height 8 --width 8 --tokens 7 -o "$o/export" --force
		expect 0 "" "$QUAD" eval --base "$o/export" --adapter a --inputs "$g/nano15_8x8.safetensors" -o "$o/exported.safetensors" --force
		sum=$(cat "$o/export/model.onnx" "$o/exported.safetensors" | cksum)
		[ "${first:=$sum}" = "$sum" ] || fault "'$base' gives another export"
	done
	first=
	expect 0 '"parameters": 359844' "$QUAD" inspect "$file" --json
	expect 0 "LoRA" "$QUAD" inspect "$o/a.safetensors" --base "$file"
done

# Open sizes take any, fixed ones their own.
expect 0 "largest difference" "$QUAD" eval --base "$g/nano15_legacy_dynamic.onnx" --inputs "$g/nano15_12x10.safetensors" --check 2e-5
# Sizes that neither the file nor the user says are those of the model class.
expect 0 "nothing written" "$QUAD" export --base "$g/nano15_legacy_dynamic.onnx" --profile "$o/profile.json" "${ab[@]}" --dry-run -o "$o/sizes"
refused "input 'sample' was exported as [2,4,8,8], asked for is [1,4,12,10]" "$QUAD" eval --base "$g/nano15_legacy.onnx" --inputs "$g/nano15_12x10.safetensors"
refused "input 'sample' was exported as [2,4,8,8], asked for is [1,4,8,8]" \
	"$QUAD" qss --base "$g/nano15_legacy.onnx" "${ab[@]}" --calib "$work/data.safetensors" --batch 1

# An exporter's pipeline folder: the graph in place of the weights.
mkdir -p "$work/pipe/unet"
cp "$dir/model_index.json" "$work/pipe"
cp "$dir/unet/config.json" "$work/pipe/unet"
cp "$g/nano15_legacy_dynamic.onnx" "$work/pipe/unet/model.onnx"
expect 0 "largest difference" "$QUAD" eval --base "$work/pipe" --inputs "$g/nano15_8x8.safetensors" --check 2e-5

# Other graphs run as they stand; adapters are for UNets and exports.
for name in small_external small_f16_storage small_typed; do
	expect 0 "largest difference" "$QUAD" eval --base "$g/$name.onnx" --inputs "$g/$name.safetensors" --check 1e-6
done
expect 0 "largest difference" "$QUAD" eval --base "$g/small_f16.onnx" --inputs "$g/small_f16.safetensors" --check 2e-3
refused "is no UNet and has no LoRA inputs, --adapter does not apply" \
	"$QUAD" eval --base "$g/small_typed.onnx" --adapter "$o/a.safetensors" --inputs "$g/small_typed.safetensors"
expect 0 "input       x F32 [3,8]" "$QUAD" inspect "$g/small_typed.onnx"
refused "has no input 'sample', needs those of a UNet" "$QUAD" qss --base "$g/small_typed.onnx" "${ab[@]}" --calib "$work/data.safetensors"
refused "has LoRA inputs: it is an export, not a base model" \
	"$QUAD" qss --base "$o/export/model.onnx" "${ab[@]}" --calib "$work/data.safetensors"

# What cannot be read is refused in one line, wherever it is given.
for bad in "$g"/refuse/*.onnx; do
	[ "${bad##*/}" != unsorted.onnx ] || continue # read all the same
	refused "${bad##*/}'" "$QUAD" eval --base "$bad" --inputs "$g/small_typed.safetensors"
	refused "${bad##*/}'" "$QUAD" inspect "$bad"
done
refused "node 'c': operator 'Hardmax' is not read" "$QUAD" eval --base "$g/refuse/unsupported_op.onnx" --inputs "$g/small_typed.safetensors"
finish
