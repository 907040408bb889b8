#!/bin/bash
# Adapters with biases (PEFT's lora_bias) all the way: scored, exported, simulated, distilled, added to an export, refused where a
# graph has no input for them; and without any nothing speaks of them.
. "$(dirname "$0")/check.bash"
needs_scenes
export OMP_WAIT_POLICY=passive
cd "$work" || exit 1
mkdir o

# put FILE HEADER BYTES: a safetensors file whose data is all 0x2c, float16's 0.065.
put()
{
	local n=${#2}
	{
		printf "$(printf '\\x%02x\\x%02x\\0\\0\\0\\0\\0\\0' $((n % 256)) $((n / 256)))"
		printf %s "$2"
		head -c "$3" /dev/zero | tr '\0' '\54'
	} >"$1"
}

conv='"unet.conv_out.lora_A.weight":{"dtype":"F16","shape":[1,16,3,3],"data_offsets":[0,288]},"unet.conv_out.lora_B.weight":{"dtype":"F16","shape":[12,1,1,1],"data_offsets":[288,312]}'
bias=',"unet.conv_out.lora_B.bias":{"dtype":"F16","shape":[12],"data_offsets":[312,336]}'
path=unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0
linear=',"'$path'.lora_A.weight":{"dtype":"F16","shape":[2,16],"data_offsets":[336,400]},"'$path'.lora_B.weight":{"dtype":"F16","shape":[16,2],"data_offsets":[400,464]},"'$path'.lora_B.bias":{"dtype":"F16","shape":[16],"data_offsets":[464,496]}'
put biased.safetensors "{$conv$bias$linear}" 496
put plain.safetensors "{$conv}" 312

small_config config.json
expect 0 "" "$QUAD" init --config config.json --seed 1 -o m
expect 0 "" "$scenes" --task all --count 4 --seed 1 --schedule m -o calib.safetensors
common=(--base m --adapter a=biased.safetensors@0.5 --adapter b=plain.safetensors)

expect 0 "2 layers have a bias (lora_B.bias)" "$QUAD" inspect biased.safetensors --base m

# Float: the bias counts, with its strength.
for adapter in biased.safetensors biased.safetensors@0.5 plain.safetensors; do
	expect 0 "" "$QUAD" eval --base m --adapter "$adapter" --inputs calib.safetensors -o "$adapter.out"
done
cmp -s biased.safetensors.out biased.safetensors@0.5.out && fault "strength makes no difference"
cmp -s biased.safetensors.out plain.safetensors.out && fault "the bias makes no difference"

# One graph for both: an input for the bias, zeros for the adapter that has none.
expect 0 "" "$QUAD" qss "${common[@]}" --calib calib.safetensors -o profile.json
[ "$(grep -c '"bias": true' profile.json)" -eq 2 ] || fault "the profile does not say where there are biases"
expect 0 "" "$QUAD" export "${common[@]}" --profile profile.json --batch 4 --tokens 8 --format both -o o/x
for file in lora_weight_list.txt manifest.json model.encodings.json adapters/a.safetensors adapters/b.safetensors \
	adapters/b.onnx_adapter adapters_float/a.safetensors model.onnx; do
	grep -aq 'conv_out.lora_bias' "o/x/$file" || fault "'$file' has no bias"
done
for adapter in a b; do
	expect 0 "" "$QUAD" eval --engine torch --base m --profile profile.json --adapter "$(case $adapter in
		a) echo biased.safetensors@0.5 ;; b) echo plain.safetensors ;; esac)" --inputs calib.safetensors -o "$adapter.sim"
	expect 0 "" "$QUAD" eval --base o/x --adapter $adapter --inputs calib.safetensors -o $adapter.exported
	cmp -s $adapter.sim $adapter.exported || fault "the export is not what was simulated of '$adapter'"
done

# Distilled, the bias stays as it was, and fits into the export.
expect 0 "" "$scenes" --task sketch --count 2 --seed 2 -o data.safetensors
expect 0 "" "$QUAD" distill --base m --profile profile.json --adapter a=biased.safetensors@0.5 --data data.safetensors --steps 2 \
	--batch 2 -o distilled.safetensors
for text in '"unet.conv_out.lora_B.bias"' 'unet.lora_bias\": true'; do
	head -c 20000 distilled.safetensors | grep -aqF "$text" || fault "the distilled adapter has no $text"
done
expect 0 "" "$QUAD" export --adapter-only --base m --profile profile.json --adapter c=distilled.safetensors -o o/x
for adapter in a c; do
	"$QUAD" inspect "o/x/adapters/$adapter.safetensors" | grep 'lora_bias' >$adapter.biases
done
[ -s a.biases ] || fault "inspect shows no bias"
cmp -s a.biases c.biases || fault "distilling changes biases"

# A graph without an input for it takes no bias, and says nothing of one.
expect 0 "" "$QUAD" qss --base m --adapter b=plain.safetensors --calib calib.safetensors --slots all --rank 2 -o other.json
! grep -q '"bias"' other.json || fault "a profile without biases speaks of them"
expect 0 "" "$QUAD" export --base m --profile other.json --adapter b=plain.safetensors --batch 4 --tokens 8 -o o/y
! grep -aq 'lora_bias' -r o/y || fault "an export without biases speaks of them"
refused "slot 'mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0' has no input for a bias" "$QUAD" export --adapter-only --base m \
	--profile other.json --adapter a=biased.safetensors -o o/y

finish
