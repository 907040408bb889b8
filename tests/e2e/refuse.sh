#!/bin/bash
# Adapters that must be refused: exit status 3, one line on stderr that names the file and what is wrong, nothing on stdout, and no
# output left behind.
set -u
golden=${QUAD_GOLDEN:-$QUAD_ROOT/../shared/golden}
base=$golden/tiny15
inputs=$golden/expected/tiny15.safetensors
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

wrong()
{
	echo "$1"
	sed 's/^/  | /' "$work/err"
	failed=1
}

# refuse FILE TEXT COMMAND...: the command must refuse FILE with a line that holds TEXT
refuse()
{
	local file=$1 text=$2
	shift 2
	"$QUAD" "$@" >"$work/out" 2>"$work/err"
	local status=$?
	[ $status -eq 3 ] || wrong "$*: exit status $status, needs 3"
	[ "$(wc -l <"$work/err")" -eq 1 ] || wrong "$*: $(wc -l <"$work/err") lines on stderr, needs 1"
	grep -qF -- "$file" "$work/err" || wrong "$*: the message does not name '$file'"
	grep -qF -- "$text" "$work/err" || wrong "$*: the message does not hold '$text'"
	[ ! -s "$work/out" ] || wrong "$*: $(wc -c <"$work/out") bytes on stdout, needs none"
	[ -z "$(find "$work" -name 'result*')" ] || wrong "$*: left $(find "$work" -name 'result*')"
}

adapter()
{
	refuse "$1" "$2" inspect --base "$base" "$1"
	refuse "$1" "$2" eval --base "$base" --adapter "name=$1" --inputs "$inputs" -o "$work/result.safetensors"
}

# Files of our own: an adapter of another model, half of one, and one that is not a number.
"$QUAD" init --arch tiny --seed 1 -o "$work/m" >/dev/null && "$QUAD" init --arch tiny --lora 2 --seed 1 -o "$work/own.safetensors" >/dev/null &&
	"$QUAD" init --arch sd15 --lora 1 --seed 1 -o "$work/other.safetensors" >/dev/null || { echo "quad init fails"; exit 1; }
size=$(wc -c <"$work/own.safetensors")
head -c $((size / 2)) "$work/own.safetensors" >"$work/half.safetensors"
head -c $((size - 4)) "$work/own.safetensors" >"$work/nan.safetensors"
printf '\377\377\377\377' >>"$work/nan.safetensors"
refuse "$work/other.safetensors" "fit" inspect --base "$work/m" "$work/other.safetensors"
refuse "$work/half.safetensors" "bytes" inspect --base "$work/m" "$work/half.safetensors"
refuse "$work/nan.safetensors" "infinite or not a number" inspect --base "$work/m" "$work/nan.safetensors"
[ -d "$golden/refuse" ] || { echo "# SKIP golden data 'refuse' is not there"; exit $failed; }

to_q=lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q
adapter "$golden/refuse/dora.safetensors" "DoRA adapter (key '$to_q.dora_scale') is not supported"
adapter "$golden/refuse/loha.safetensors" "LoHa adapter (key '$to_q.hada_w1_a') is not supported"
adapter "$golden/refuse/unknown_module.safetensors" "'lora_unet_no_such_block_7_to_q' is no layer of it"
adapter "$golden/refuse/up_without_down.safetensors" "layer '$to_q' has up (tensor '$to_q.lora_up.weight') but no down"
adapter "$golden/refuse/wrong_base.safetensors" "0 of 1 layers fit the model; tensor '$to_q.lora_down.weight' is [4,320]"

head -c 1000 "$golden/adapters/kohya.safetensors" >"$work/cut.safetensors"
refuse "$work/cut.safetensors" "" eval --base "$base" --adapter "$work/cut.safetensors" --inputs "$inputs"
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n' >"$work/lfs.safetensors"
refuse "$work/lfs.safetensors" "Git-LFS" eval --base "$base" --adapter "$work/lfs.safetensors" --inputs "$inputs"
refuse "$work/none.safetensors" "No such file" eval --base "$base" --adapter "$work/none.safetensors" --inputs "$inputs"
refuse "$golden/adapters/diffusers_xl.safetensors" "layers fit the model" \
	eval --base "$base" --adapter "$golden/adapters/diffusers_xl.safetensors" --inputs "$inputs"
exit $failed
