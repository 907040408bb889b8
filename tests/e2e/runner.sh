#!/bin/bash
# One way to open and run: quad eval and quad run take the same paths and the same adapters and say the same of what does not fit;
# numbers that are not finite fail every check; ONNX Runtime is looked for where the program is, never where it was started.
. "$(dirname "$0")/check.bash"
o=$work/o
QUAD=$(realpath "$QUAD") scenes=$(dirname "$QUAD")/scenes
# Threads that spin while they wait cost more than they win here.
export OMP_WAIT_POLICY=passive
mkdir "$o"
[ -x "$scenes" ] || { echo "'$scenes' is not built"; exit 77; }

# header FILE: the bytes of a safetensors file's header.
header()
{
	od -An -tu8 -N8 "$1" | tr -d ' '
}

# poison FILE TENSOR: the first number of a float tensor becomes NaN (of a float16 one, the second).
poison()
{
	local n start
	n=$(header "$1")
	start=$(head -c $((8 + n)) "$1" | grep -aoE "\"${2//./\\.}\":\{[^}]*\}" | sed 's/.*"data_offsets":\[\([0-9]*\),.*/\1/')
	[ -n "$start" ] || fault "'$1' has no tensor '$2'"
	printf '\0\0\300\177' | dd of="$1" bs=1 seek=$((8 + n + start)) conv=notrunc 2>/dev/null
}

# A model conditioned like the example, an adapter, a profile and the export of both.
small_config "$work/config.json"
cd "$work" || exit 1
expect 0 "" "$QUAD" init --config config.json --prediction v_prediction --seed 1 -o m
expect 0 "" "$scenes" --task all --count 4 --seed 1 --schedule m -o calib.safetensors
expect 0 "" "$scenes" --task sketch --count 2 --seed 2 -o data.safetensors
expect 0 "" "$QUAD" train --base m --lora 2 --slots all --data data.safetensors --steps 2 --batch 2 --lr 0.05 --seed 1 -o a.safetensors
expect 0 "" "$QUAD" train --base m --lora 2 --slots attention --data data.safetensors --steps 2 --batch 2 --lr 0.05 --seed 2 -o b.safetensors
expect 0 "" "$QUAD" qss --base m --adapter a.safetensors --adapter b.safetensors --calib calib.safetensors -o profile.json
expect 0 "" "$QUAD" export --base m --profile profile.json --adapter a.safetensors --adapter b.safetensors --batch 4 --tokens 8 -o x
mkdir alone
cp x/model.onnx alone/graph.onnx
cp -r x/scheduler alone
cp -r x few
rm few/adapters/b.*
calib=(--inputs calib.safetensors)
data=(--inputs data.safetensors --steps 2 --seed 3 --batch 4) # as many at once as the export

# eval NAME ARG..., run NAME ARG...: the outputs of both commands go to NAME.eval and NAME.run.
both()
{
	local name=$1
	shift
	expect 0 "" "$QUAD" eval "$@" "${calib[@]}" -o "$name.eval" --force
	expect 0 "" "$QUAD" run "$@" "${data[@]}" -o "$name.run" --force
}

# same NAME ARG...: both commands give what NAME has.
same()
{
	local name=$1
	shift
	both o/y "$@"
	cmp -s "$name.eval" o/y.eval || fault "eval $* gives something else than '$name'"
	cmp -s <(tensors "$name.run") <(tensors o/y.run) || fault "run $* gives something else than '$name'"
}

# neither TEXT ARG...: both commands refuse, and say TEXT.
neither()
{
	local text=$1
	shift
	refused "$text" "$QUAD" eval "$@" "${calib[@]}" -o o/n
	refused "$text" "$QUAD" run "$@" "${data[@]}" -o o/n
}

# ---- the same paths and the same adapters, in both commands ----
# By the operators that execute the exported file too: the same bits.
simulated=(--base m --profile profile.json --engine torch)
both sim "${simulated[@]}" --adapter a.safetensors
both other "${simulated[@]}" --adapter b.safetensors
both base "${simulated[@]}"
cmp -s <(tensors sim.run) <(tensors other.run) && fault "the adapters make no difference"
cmp -s <(tensors sim.run) <(tensors base.run) && fault "the adapter makes no difference"
for path in x x/model.onnx "$work/x/"; do
	same sim --base "$path" --adapter a
done
same base --base x
same sim --base x --adapter few/adapters/a.safetensors
same sim --base x --adapter any=few/adapters/a.safetensors
same sim --base alone/graph.onnx --adapter x/adapters/a.safetensors
same base --base alone/graph.onnx
same sim "${simulated[@]}" --adapter any=a.safetensors@1
# A path that exists wins over a name.
cp x/adapters/b.safetensors a
same other --base x --adapter a
same sim --base x --adapter x/adapters/a.safetensors
rm a
expect 0 "" "$QUAD" olss --base x --adapter x/adapters/a.safetensors --inputs data.safetensors --steps 1 --reference-steps 2 -o one
expect 0 "" "$QUAD" olss --base x/model.onnx --adapter a --inputs data.safetensors --steps 1 --reference-steps 2 -o two
expect 0 "" "$QUAD" run --base x --adapter a --scheduler olss:one --inputs data.safetensors -o o/one
expect 0 "" "$QUAD" run --base x --adapter a --scheduler olss:two --inputs data.safetensors -o o/two
cmp -s <(tensors o/one) <(tensors o/two) || fault "a sampler depends on how its model was called"

# ---- what does not fit is said alike ----
neither "'c' is no file and no adapter of 'x', which has a, b" --base x --adapter c
neither "'b' is no file and no adapter of 'few', which has a" --base few --adapter b
neither "'a' is no file and no adapter of 'alone', which has none" --base alone/graph.onnx --adapter a
neither "'no/such' is no file and no adapter of 'x', which has a, b" --base x --adapter no/such
neither "cannot read 'no/such'" --base x --adapter a=no/such
neither "'x' is an export, which carries its encodings: it takes no profile" --base x --profile profile.json
neither "'alone/graph.onnx' carries its encodings, --profile does not apply" --base alone/graph.onnx --profile profile.json
neither "'a.safetensors': tensor 'unet." --base x --adapter a.safetensors
grep -q "is no LoRA input of 'x'" "$work/err" || fault "does not say what an adapter's file holds: $(cat "$work/err")"

# A tensor that is missing, one too many, a gain that is no number.
printf '\10\0\0\0\0\0\0\0{}      ' >none.safetensors
neither "'none.safetensors' has no tensor 'time_embedding.linear_1.lora_down'" --base x --adapter none.safetensors
sed 's/conv_in\.lora_gain/conv_in.lora_gaim/' x/adapters/a.safetensors >more.safetensors
neither "'more.safetensors': tensor 'conv_in.lora_gaim' is no LoRA input of 'x'" --base x --adapter more.safetensors
cp x/adapters/a.safetensors bad.safetensors
poison bad.safetensors conv_in.lora_gain
neither "'bad.safetensors': tensor 'conv_in.lora_gain' is infinite or not a number at element 0" --base x --adapter bad.safetensors
neither "times strength 1e+39, needs a finite number" --base m --adapter a.safetensors@1e39
cp calib.safetensors bad.safetensors
poison bad.safetensors sample
refused "'bad.safetensors': tensor 'sample' is infinite or not a number" "$QUAD" eval --base x --inputs bad.safetensors

# What is no denoiser does not sample.
cat >vae.json <<'JSON'
{ "_class_name": "AutoencoderKL", "block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1,
  "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"] }
JSON
expect 0 "" "$QUAD" init --config vae.json -o vae
refused "'vae' is AutoencoderKL, needs a UNet" "$QUAD" run --base vae "${data[@]}" -o o/n

# ---- numbers that are not finite fail every check ----
cp -r m broken
poison broken/unet/diffusion_pytorch_model.safetensors conv_out.bias
expect 0 "" "$QUAD" eval --base m "${calib[@]}" -o good
expect 0 "" "$QUAD" eval --base m --inputs good --check 0
expect 1 "output 'out' has values that are not finite" "$QUAD" eval --base broken --inputs good --check inf
expect 1 '"within": false' "$QUAD" eval --base broken --inputs good --check 1 --json
cp good bad
poison bad out
expect 1 "output 'out' cannot equal tensor 'out' of 'bad', which has values that are not finite" "$QUAD" eval --base m --inputs bad --check inf
expect 1 '"within": false' "$QUAD" eval --base m --inputs bad --check 1 --json
expect 0 "largest difference nan" "$QUAD" eval --base m --inputs bad

expect 0 "" "$QUAD" run --base m "${data[@]}" --trace trace -o o/t
expect 0 "largest difference 0.000e+00" "$QUAD" run --base m "${data[@]}" --check-trace trace --check 0
expect 1 "step 0: the output has values that are not finite" "$QUAD" run --base broken "${data[@]}" --check-trace trace --check 1e9
expect 1 '"largest": null' "$QUAD" run --base broken "${data[@]}" --check-trace trace --json
refused "step 0: element 0 of the model's output is not finite" "$QUAD" run --base broken "${data[@]}" -o o/n
refused "adapter 'a': the model's output is not finite for samples 0 to 3" "$QUAD" qss --base broken --adapter a.safetensors "${calib[@]/--inputs/--calib}" -o o/n
for what in out:output sample:input; do
	cp trace bad
	poison bad "step.001.${what%:*}"
	expect 1 "step 1: the stored ${what#*:} has values that are not finite" "$QUAD" run --base m "${data[@]}" --check-trace bad --check 1e9
done
# A trace that lacks a tensor is no trace, however few it has.
for tensor in step.000.out step.001.timestep; do
	sed "s/$tensor/${tensor%?}_/" trace >bad
	refused "'bad' has no tensor '$tensor'" "$QUAD" run --base m "${data[@]}" --check-trace bad
done

# ---- ONNX Runtime ----
# Any library stands for it: what is loaded says that it is none. Nothing is where the system looks, or that is what is found.
unset QUAD_ORT_LIB
ort=(run --base x --adapter a --engine ort "${data[@]}")
library=$(ldd "$QUAD" | awk '$1 ~ /^libz\.so/ { print $3 }')
none="the library loaded as ONNX Runtime has no OrtGetApiBase"
mkdir -p here/build/ort here/ort there/bin there/ort there/lib/quad
if [ ! -e "$library" ] || ldconfig -p 2>/dev/null | grep -q libonnxruntime; then
	echo "# SKIP where ONNX Runtime is looked for: this system has one"
else
	cp "$library" here/build/ort/libonnxruntime.so.1
	cp "$library" here/ort/libonnxruntime.so.1
	cp "$library" here/libonnxruntime.so.1
	cp "$QUAD" there/bin/quad
	refused "no ONNX Runtime found" env -C here ../there/bin/quad "${ort[@]/x/../x}" --inputs ../data.safetensors -o ../o/n
	cp "$library" there/lib/quad/libonnxruntime.so.1
	refused "$none" there/bin/quad "${ort[@]}" -o o/n
	rm there/lib/quad/libonnxruntime.so.1
	mkdir there/bin/ort
	cp "$library" there/bin/ort/libonnxruntime.so.1
	refused "$none" there/bin/quad "${ort[@]}" -o o/n
	rm -r there/bin/ort
	refused "$none" env QUAD_ORT_LIB="$library" there/bin/quad "${ort[@]}" -o o/n
	refused "$none" there/bin/quad "${ort[@]}" --ort-lib "$library" -o o/n
	refused "cannot load ONNX Runtime: nowhere.so" there/bin/quad "${ort[@]}" --ort-lib nowhere.so -o o/n
fi
refused "'m' is a model: ONNX Runtime executes exports and other ONNX graphs" "$QUAD" run --base m --engine ort "${data[@]}" -o o/n
finish
