#!/bin/bash
# Text encoders and VAEs from outside: quad init, inspect and eval on their folders and as parts of a pipeline; what is refused.
. "$(dirname "$0")/check.bash"
o=$work/o
mkdir "$o"

# zeros FILE NAME DTYPE SHAPE BYTES: a safetensors file of one tensor of zeros.
zeros()
{
	local header="{\"$2\":{\"dtype\":\"$3\",\"shape\":[$4],\"data_offsets\":[0,$5]}}"
	printf "$(printf '\\x%02x\\0\\0\\0\\0\\0\\0\\0' ${#header})%s" "$header" >"$1"
	head -c "$5" /dev/zero >>"$1"
}

cat >"$work/vae.json" <<'END'
{"_class_name": "AutoencoderKL", "block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1,
 "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]}
END
cat >"$work/tiny.json" <<'END'
{"_class_name": "AutoencoderTiny"}
END
cat >"$work/text.json" <<'END'
{"architectures": ["CLIPTextModelWithProjection"], "model_type": "clip_text_model", "hidden_size": 16, "intermediate_size": 32,
 "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 8, "vocab_size": 100, "projection_dim": 6}
END
zeros "$work/z.safetensors" z F32 1,4,3,5 240
zeros "$work/x.safetensors" x F32 1,3,16,8 1536
zeros "$work/two.safetensors" x F32 1,2,16,8 1024
zeros "$work/ids.safetensors" input_ids I32 2,5 40
zeros "$work/long.safetensors" input_ids I64 1,9 72
zeros "$work/floats.safetensors" input_ids F32 1,5 20

# A pipeline folder of components made by quad init.
expect 0 "" "$QUAD" init --arch tiny -o "$o/p"
expect 0 "43711 parameters in 124 tensors" "$QUAD" init --config "$work/vae.json" -o "$o/p/vae"
expect 0 "2445063 parameters in 134 tensors" "$QUAD" init --config "$work/tiny.json" -o "$o/tiny" --dtype bf16
expect 0 "6304 parameters in 37 tensors" "$QUAD" init --config "$work/text.json" -o "$o/p/text_encoder" --dtype f16
expect 0 "" "$QUAD" init --config "$work/vae.json" -o "$o/again"
cmp -s "$o/p/vae/diffusion_pytorch_model.safetensors" "$o/again/diffusion_pytorch_model.safetensors" || fault "the same seed gives another VAE"

expect 0 "AutoencoderKL" "$QUAD" inspect "$o/p/vae"
grep -q '^  latents     4 channels, one for 2 x 2 pixels, scaling factor 0.18215$' "$work/out" || fault "the VAE's latents"
grep -q '^  inputs      x F32 \[1,3,128,128\]$' "$work/out" || fault "the encoder's input"
expect 0 "parameters  2,445,063 in 134 tensors, BF16" "$QUAD" inspect "$o/tiny"
expect 0 "CLIPTextModelWithProjection" "$QUAD" inspect "$o/p" --part text_encoder
grep -q '^              text_embeds F32 \[1,6\]$' "$work/out" || fault "the encoder's projection"
expect 0 '"class": "AutoencoderKL"' "$QUAD" inspect "$o/p" --part vae --json
expect 0 "UNet2DConditionModel" "$QUAD" inspect "$o/p"
grep -q '^  beside      vae: AutoencoderKL (--part vae)$' "$work/out" || fault "the pipeline's VAE"
grep -q '^  beside      text_encoder: CLIPTextModel (--part text_encoder)$' "$work/out" || fault "the pipeline's text encoder"
expect 0 '"part": "text_encoder"' "$QUAD" inspect "$o/p" --json
expect 0 "UNet2DConditionModel" "$QUAD" inspect "$o/p" --part unet

# What is written is a file of inputs again.
same()
{
	local inputs=$1
	shift
	expect 0 "" "$QUAD" eval "$@" --inputs "$inputs" -o "$o/out.safetensors" --force
	expect 0 "largest difference 0" "$QUAD" eval "$@" --inputs "$o/out.safetensors" --check 0
}
same "$work/z.safetensors" --base "$o/p" --part decoder
same "$work/x.safetensors" --base "$o/p/vae" --part encoder
same "$work/z.safetensors" --base "$o/tiny" --part decoder
same "$work/x.safetensors" --base "$o/tiny" --part encoder
same "$work/ids.safetensors" --base "$o/p" --part text_encoder
same "$work/ids.safetensors" --base "$o/p/text_encoder"
[ "$(grep -c 'largest difference 0' "$work/out")" -eq 5 ] || fault "not every output is compared"
expect 0 "out [1,3,6,10]" "$QUAD" eval --base "$o/p" --part decoder --inputs "$work/z.safetensors"
expect 0 "out [1,8,8,4]" "$QUAD" eval --base "$o/p" --part encoder --inputs "$work/x.safetensors"

eval_refused()
{
	local text=$1
	shift
	refused "$text" "$QUAD" eval "$@"
}
eval_refused "'$o/p/vae' is AutoencoderKL, needs --part encoder or decoder" --base "$o/p/vae" --inputs "$work/z.safetensors"
eval_refused "'$o/p/vae' is AutoencoderKL, needs --part encoder or decoder" --base "$o/p" --part vae --inputs "$work/z.safetensors"
eval_refused "'$o/p/text_encoder' is CLIPTextModel, which has no part 'decoder'" --base "$o/p/text_encoder" --part decoder --inputs "$work/z.safetensors"
eval_refused "'$o/p' has no config.json, needs it or 'text_encoder_2/config.json'" --base "$o/p" --part text_encoder_2 --inputs "$work/ids.safetensors"
eval_refused "has no tensor 'z'" --base "$o/p" --part decoder --inputs "$work/x.safetensors"
eval_refused "input 'x' is [1,2,16,8], needs [1,3,16,8]" --base "$o/p" --part encoder --inputs "$work/two.safetensors"
eval_refused "a prompt has 9 tokens, needs at most the 8 positions of the text encoder" --base "$o/p" --part text_encoder --inputs "$work/long.safetensors"
eval_refused "tensor 'input_ids' is F32, needs I64 or I32" --base "$o/p" --part text_encoder --inputs "$work/floats.safetensors"
eval_refused "is CLIPTextModel, --adapter and --profile apply to UNets" --base "$o/p" --part text_encoder --inputs "$work/ids.safetensors" --adapter a=b
expect 3 "has no tensor 'last_hidden_state' or of another output's name to check against" "$QUAD" eval --base "$o/p" --part text_encoder --inputs "$work/ids.safetensors" --check 1

# Golden text encoders: every output that the file holds, by name.
[ -d "$QUAD_GOLDEN/text/te15" ] || finish
g=$QUAD_GOLDEN/text
for encoder in te15 te15_flat te1 te2; do
	outputs=5
	[ $encoder = te2 ] && outputs=6
	file=$g/${encoder%_flat}/expected.safetensors
	expect 0 "pooler_output" "$QUAD" eval --base "$g/$encoder" --inputs "$file" --check 2e-5
	[ "$(grep -c 'largest difference' "$work/out")" -eq "$outputs" ] || fault "$encoder: not all outputs are compared"
done
# With use_attention_mask the file's mask is taken.
cp -r "$g/te15" "$o/masked"
sed -i 's/"attention_dropout"/"use_attention_mask": true, "attention_dropout"/' "$o/masked/config.json"
expect 1 "output 'last_hidden_state' differs by up to" "$QUAD" eval --base "$o/masked" --inputs "$g/te15/expected.safetensors" --check 2e-5
expect 3 "has no tensor 'attention_mask'" "$QUAD" eval --base "$o/masked" --inputs "$g/te1/expected.safetensors"
finish
