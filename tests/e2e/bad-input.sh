#!/bin/bash
# Bad input: exit 3, one line that names file, tensor, found and needed, and nothing left behind.
. "$(dirname "$0")/check.bash"
o=$work/o
mkdir "$o"
"$QUAD" init --arch tiny -q -o "$work/model" >"$work/out" || exit 1
unet=$work/model/unet weights=diffusion_pytorch_model.safetensors

# tensors FILE NAME DIMS [NAME DIMS]...: a safetensors file of float32 zeros, DIMS like 1,4,8,8; BAD=1 ends it with a NaN.
tensors()
{
	local file=$1 header="{" offset=0 dims bytes
	shift
	while [ $# -gt 0 ]; do
		dims=$2
		bytes=$((4 * ${dims//,/*}))
		header="$header${header:1:1}"
		[ "$header" = "{" ] || header="${header%?},"
		header="$header\"$1\":{\"dtype\":\"F32\",\"shape\":[$dims],\"data_offsets\":[$offset,$((offset + bytes))]}"
		offset=$((offset + bytes))
		shift 2
	done
	header="$header}"
	while [ $((${#header} % 8)) -ne 0 ]; do header="$header "; done
	{
		printf '%b' "$(printf '\\x%02x\\x%02x\\0\\0\\0\\0\\0\\0' $((${#header} % 256)) $((${#header} / 256)))"
		printf '%s' "$header"
		if [ "${BAD:-0}" = 1 ]; then
			head -c $((offset - 4)) /dev/zero
			printf '\x00\x00\xc0\x7f'
		else
			head -c "$offset" /dev/zero
		fi
	} >"$file"
}

tensors "$work/good.safetensors" sample 1,4,8,8 timestep 1 encoder_hidden_states 1,5,32
eval_with()
{
	"$QUAD" eval --base "$1" --inputs "$2" -o "$o/out.safetensors" "${@:3}"
}
expect 0 "" eval_with "$work/model" "$work/good.safetensors"
rm "$o/out.safetensors"

# The model.
refused "'$work/none' is neither file nor folder" eval_with "$work/none" "$work/good.safetensors"
cp -r "$work/model" "$work/m"
head -c 1000000 "$unet/$weights" >"$work/m/unet/$weights"
refused "ends at 991504, but the file has 963336 bytes of data: it is cut short" eval_with "$work/m" "$work/good.safetensors"
head -c 4 "$unet/$weights" >"$work/m/unet/$weights"
refused "$weights': has 4 bytes, needs at least 8" eval_with "$work/m" "$work/good.safetensors"
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n' >"$work/m/unet/$weights"
refused "Git-LFS pointer" eval_with "$work/m" "$work/good.safetensors"
rm "$work/m/unet/$weights"
refused "has no weights, needs '$weights'" eval_with "$work/m" "$work/good.safetensors"
cp "$unet/$weights" "$work/m/unet/$weights"
sed -i 's/"cross_attention_dim": 32/"cross_attention_dim": 48/' "$work/m/unet/config.json"
refused "attn2.to_k.weight' is [32,32], needs [32,48]" eval_with "$work/m" "$work/good.safetensors"
printf '{' >"$work/m/unet/config.json"
refused "config.json': line 1" eval_with "$work/m" "$work/good.safetensors"

# The inputs.
refused "cannot read '$work/none.safetensors': No such file" eval_with "$work/model" "$work/none.safetensors"
refused "cannot read '$work/none.safetensors': No such file" eval_with "$work/model" "$work/good.safetensors" --adapter "$work/none.safetensors"
refused "cannot read '$work/none.json': No such file" eval_with "$work/model" "$work/good.safetensors" --profile "$work/none.json"
tensors "$work/in.safetensors" sample 1,4,8,8 timestep 1
refused "has no tensor 'encoder_hidden_states'" eval_with "$work/model" "$work/in.safetensors"
tensors "$work/in.safetensors" sample 4,8,8 timestep 1 encoder_hidden_states 1,5,32
refused "tensor 'sample' has 3 dimensions, needs 4" eval_with "$work/model" "$work/in.safetensors"
tensors "$work/in.safetensors" sample 1,9,8,8 timestep 1 encoder_hidden_states 1,5,32
refused "input 'sample' is [1,9,8,8], needs [1,4,8,8]" eval_with "$work/model" "$work/in.safetensors"
tensors "$work/in.safetensors" sample 1,4,8,8 timestep 1 encoder_hidden_states 1,5,48
refused "input 'encoder_hidden_states' is [1,5,48], needs [1,5,32]" eval_with "$work/model" "$work/in.safetensors"
BAD=1 tensors "$work/in.safetensors" sample 1,4,8,8 timestep 1 encoder_hidden_states 1,5,32
refused "tensor 'encoder_hidden_states' is infinite or not a number at element 159" eval_with "$work/model" "$work/in.safetensors"
tensors "$work/in.safetensors" sample 1,4,8,8 timestep 1 encoder_hidden_states 1,5,32 out 1,4,8,9
refused "tensor 'out' is [1,4,8,9], needs [1,4,8,8]" eval_with "$work/model" "$work/in.safetensors"
head -c 100 "$work/good.safetensors" >"$work/in.safetensors"
refused "in.safetensors': header of 224 bytes, but the file has 100: it is cut short" eval_with "$work/model" "$work/in.safetensors"

# The output.
refused "cannot create '$work/none/out.safetensors': No such file" "$QUAD" eval --base "$work/model" --inputs "$work/good.safetensors" -o "$work/none/out.safetensors"
finish
