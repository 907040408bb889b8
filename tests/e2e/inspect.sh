#!/bin/bash
# quad inspect: models, adapters with and without their base, any tensors.
. "$(dirname "$0")/check.bash"

expect 0 "" "$QUAD" init --arch tiny -o "$work/model"
expect 0 "parameters  1,466,500 in 324 tensors, F32, 0.006 GB" "$QUAD" inspect "$work/model"
expect 0 "132 that a LoRA can adapt: 56 in attention, 84 in transformers" "$QUAD" inspect "$work/model/unet"
expect 0 '"kind": "model"' "$QUAD" inspect "$work/model" --json
expect 0 "324 tensors, 5.866 MB" "$QUAD" inspect "$work/model/unet/diffusion_pytorch_model.safetensors"
grep -q '^conv_norm_out.bias  *F32  *\[32\]  *0 to 0$' "$work/out" || fault "the list of tensors lacks one"
expect 0 '"kind": "tensors"' "$QUAD" inspect "$work/model/unet/diffusion_pytorch_model.safetensors" --json
expect 3 "has no model, needs unet/config.json or config.json" "$QUAD" inspect "$work"
expect 3 "No such file" "$QUAD" inspect "$work/nothing"

# Two adapters of other ranks in one graph, and the same adapter against another model.
expect 0 "" "$QUAD" init --arch tiny --lora 3 -o "$work/three.safetensors"
expect 0 "" "$QUAD" init --arch tiny --lora 2 --seed 4 -o "$work/two.safetensors"
expect 0 "slots       84 of 132 modules: 56 of 56 in attention, 84 of 84 in transformers" \
	"$QUAD" inspect "$work/model" --adapter "$work/three.safetensors" --adapter "b=$work/two.safetensors@0.5"
grep -q '^  rank        3$' "$work/out" || fault "the rank of slots is not the larger one"
grep -q '^  b  *diffusers  *2  *84' "$work/out" || fault "the second adapter is not listed"
expect 0 '"kind": "joint"' "$QUAD" inspect "$work/model" --adapter "$work/three.safetensors" --json
printf '{"block_out_channels": [64, 64], "layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": 4,
"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}' >"$work/other.json"
expect 0 "" "$QUAD" init --config "$work/other.json" -o "$work/other"
refused "layers fit the model" "$QUAD" inspect "$work/three.safetensors" --base "$work/other"
expect 3 "layers fit; it looks made for no known model" "$QUAD" inspect "$work/three.safetensors" --base "$work/other" -v
grep -q '^  differs  down_blocks.0.attentions.0.*needs \[R,64\]$' "$work/out" || fault "no layer differs"
grep -q '^  unknown  ' "$work/out" || fault "no layer is unknown"
expect 3 '"kind": "misfit"' "$QUAD" inspect "$work/three.safetensors" --base "$work/other" --json

# Everything that is read or written is called what it is, in text and in JSON.
# is KIND TEXT PATH [OPTION...]
is()
{
	local kind=$1 text=$2
	shift 2
	expect 0 "$text" "$QUAD" inspect "$@"
	expect 0 "\"kind\": \"$kind\"" "$QUAD" inspect "$@" --json
}
mkdir "$work/lora"
cp "$work/three.safetensors" "$work/lora/pytorch_lora_weights.safetensors"
is adapter "LoRA in diffusers format" "$work/lora" --base "$work/model"
is adapter "rank        5" "both=$work/three.safetensors@0.5+$work/two.safetensors" --base "$work/model"
refused "none.safetensors" "$QUAD" inspect "$work/none.safetensors" --base "$work/model"
expect 3 "fits no known model, needs --base" "$QUAD" inspect "$work/lora"
is config "class       UNet2DConditionModel" "$work/model/unet/config.json"
is index "entries     " "$work/model/.quad-files.json"
is config "class       StableDiffusionPipeline" "$work/model/model_index.json"
is config "class       " "$work/model/scheduler"
npy()
{
	printf '\x93NUMPY\1\0\x46\0%-69s\n' "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }"
	printf '\0\0\0\0\0\0\x80\x3f'
}
mkdir "$work/arrays"
npy >"$work/arrays/latents.npy"
is tensors "latents.npy: sampled latents, 1 tensors, 0.000 MB" "$work/arrays/latents.npy"
grep -q '"name": "latents"' "$work/out" || fault "the array has another name"
is tensors "latents  F32" "$work/arrays"
if command -v zip >/dev/null; then
	(cd "$work/arrays" && zip -q "$work/all.npz" latents.npy)
	is tensors "all.npz: sampled latents" "$work/all.npz"
fi
mkdir "$work/images"
printf '\x89PNG\r\n\x1a\n' >"$work/cut.png"
refused "cut.png" "$QUAD" inspect "$work/cut.png"
cp "$root/scripts/demo.png" "$work/images/1.png"
echo '{"file_name": "1.png", "text": "a table"}' >"$work/images/metadata.jsonl"
is picture "width       " "$work/images/1.png"
is images "captions    1" "$work/images"
is text "lines       1" "$work/images/metadata.jsonl"
echo "down_blocks.0.attentions.0" >"$work/slots"
is text "lines       1" "$work/slots"
echo '{"a": 1}' >"$work/a.json"
is json "says nothing to quad" "$work/a.json"
cp "$work/a.json" "$work/a.safetensors"
refused "not a safetensors file: it is JSON text" "$QUAD" inspect "$work/a.safetensors"
[ -d "$QUAD_GOLDEN/tiny15" ] || finish

g=$QUAD_GOLDEN
expect 0 "LoRA in kohya format" "$QUAD" inspect "$g/adapters/kohya.safetensors" --base "$g/tiny15"
grep -q 'slots       192 of 282 modules: 128 of 128 in attention, 192 of 192 in transformers' "$work/out" || fault "coverage of kohya's adapter"
grep -q 'rank        4$' "$work/out" || fault "rank of kohya's adapter"
grep -q 'scale       0.5$' "$work/out" || fault "scale of kohya's adapter (alpha 2, rank 4)"
expect 0 "LoRA in peft format" "$QUAD" inspect "$g/adapters/peft" --base "$g/tiny15"
expect 0 '"kind": "adapter"' "$QUAD" inspect "$g/adapters/diffusers_saved.safetensors" --base "$g/tiny15" --json
expect 0 "looks like an adapter but fits no known model" "$QUAD" inspect "$g/adapters/kohya.safetensors"
expect 0 "6 tensors" "$QUAD" inspect "$g/expected/tinyxl.safetensors"
refused "30 of 224 layers fit the model; tensor" "$QUAD" inspect "$g/adapters/diffusers_xl.safetensors" --base "$g/tiny15"
[ -d "$g/../adapters" ] || finish
expect 0 "for SD1.x" "$QUAD" inspect "$g/../adapters/weapons.safetensors"
expect 0 "rank        1" "$QUAD" inspect "$g/../adapters/disney.safetensors"
finish
