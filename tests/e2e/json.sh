#!/bin/bash
# What --json prints, and nothing else, is what 'quad help json' lists: every document of every command, field by field.
. "$(dirname "$0")/check.bash"
needs_scenes
cd "$work" || exit 1
mkdir o

# fields: of documents as they are printed, indented by two: "PATH TYPE" a line. Members of a list share a path, which ends in [].
fields()
{
	awk '
	function path_of(depth,  i, text) {
		text = ""
		for (i = 1; i <= depth; i++)
			text = text (names[i] == "[]" ? "[]" : (text == "" ? "" : ".") names[i])
		return text
	}
	{
		match($0, /^ */)
		depth = RLENGTH / 2
		text = substr($0, RLENGTH + 1)
		sub(/,$/, "", text)
		if (text ~ /^[]}]/)
			next
		names[depth] = "[]"
		if (match(text, /^"([^"\\]|\\.)*": /)) {
			names[depth] = substr(text, 2, RLENGTH - 4)
			text = substr(text, RLENGTH + 1)
		}
		type = text ~ /^"/ ? "text" : text ~ /^\{/ ? "object" : text ~ /^\[/ ? "list" : text ~ /^(true|false)$/ ? "boolean" : \
			text == "null" ? "null" : text ~ /[.e]/ ? "number" : "integer"
		if (depth > 0)
			print path_of(depth), type
	}' "$@"
}

# document NAME COMMAND...: the command prints a document of that name.
document()
{
	local name=$1
	shift
	expect "${status:-0}" '"schema": 1' "$@" --json
	fields out | sed "s/^/$name\t/" >>printed
}

small_config config.json
expect 0 "" "$QUAD" init --config config.json --prediction v_prediction -o m
document init "$QUAD" init --config config.json -o o/init
expect 0 "" "$scenes" --task all --count 4 --seed 1 --schedule m -o calib.safetensors
expect 0 "" "$scenes" --task sketch --count 3 --seed 2 -o data.safetensors
document train "$QUAD" train --base m --lora 2 --slots all --data data.safetensors --steps 2 --batch 2 --lr 0.05 -o a.safetensors
document train "$QUAD" train --base m --data data.safetensors --steps 1 --batch 2 -o o/trained
document qss "$QUAD" qss --base m --adapter a=a.safetensors --calib calib.safetensors -o profile.json
document qss "$QUAD" qss --base m --adapter a=a.safetensors --calib calib.safetensors --method unified --compare
document distill "$QUAD" distill --base m --profile profile.json --adapter a=a.safetensors --data data.safetensors --steps 1 \
	--batch 2 -o d.safetensors
document export "$QUAD" export --base m --profile profile.json --adapter a=a.safetensors --batch 2 --tokens 8 -o x
document run "$QUAD" run --base m --adapter a.safetensors --inputs data.safetensors --scheduler euler --steps 2 -o o/float.safetensors \
	--trace o/trace.safetensors
document run "$QUAD" run --base m --profile profile.json --adapter a=a.safetensors --inputs data.safetensors --scheduler euler \
	--steps 2 -o o/sim.safetensors
document "run --check-trace" "$QUAD" run --base m --adapter a.safetensors --inputs data.safetensors --check-trace o/trace.safetensors
document report "$QUAD" report --pack 2 --task sketch --input data.safetensors --reference o/float.safetensors \
	--column sim=o/sim.safetensors --truth o/float.safetensors
document report "$QUAD" report --task sketch --reference o/float.safetensors --column sim=o/sim.safetensors --truth o/sim.safetensors
document eval "$QUAD" eval --base m --inputs calib.safetensors -o o/eval.safetensors
document eval "$QUAD" eval --base m --inputs o/eval.safetensors --check 1
document olss "$QUAD" olss --base m --inputs data.safetensors --reference-steps 4 --steps 2 -o o/olss.safetensors
# What calib makes, and every kind of thing that inspect tells apart.
mkdir arrays images
cp data.safetensors arrays/
document calib "$QUAD" calib --base m --data data.safetensors --count 2 -o o/calib.safetensors
of()
{
	local kind=$1
	shift
	case $kind in
	sampler | state | onnx_adapter) document "inspect tensors" "$QUAD" inspect "$@" ;;
	*) document "inspect $kind" "$QUAD" inspect "$@" ;;
	esac
	grep -q "\"kind\": \"$kind\"" out || fault "is no $kind: $*"
}
of model m
of adapter a.safetensors --base m
of joint m --adapter a.safetensors
of export x
of tensors calib.safetensors
of tensors arrays/data.safetensors
of sampler o/olss.safetensors
of onnx_adapter x/adapters/a.onnx_adapter
of profile profile.json
of encodings x/model.encodings.json
of index m/.quad-files.json
of config m/model_index.json
echo '{"peft_type": "LORA"}' >adapter_config.json
of config adapter_config.json
of text x/lora_weight_list.txt
cp "$root/tests/fuzz/corpus/onnx/small" small.onnx
of onnx small.onnx
sed 's/"cross_attention_dim": 48/"cross_attention_dim": 32/' config.json >narrow.json
expect 0 "" "$QUAD" init --config narrow.json -o narrow
status=3 of misfit a.safetensors --base narrow
echo '{ "_class_name": "AutoencoderKL", "block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1,
  "latents_mean": [0.5, 0, 0, 0], "latents_std": [1, 2, 1, 1],
  "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"] }' >vae.json
echo '{ "architectures": ["CLIPTextModelWithProjection"], "model_type": "clip_text_model", "hidden_size": 16, "intermediate_size": 32,
  "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 8, "vocab_size": 100, "projection_dim": 6 }' >text.json
expect 0 "" "$QUAD" init --config vae.json -o m/vae
expect 0 "" "$QUAD" init --config text.json -o m/text_encoder
of component m --part vae
of component m --part text_encoder
of model m
cp "$root/scripts/demo.png" images/1.png
of picture images/1.png
echo '{"file_name": "1.png", "text": "a table"}' >images/metadata.jsonl
of images images
echo '{"a": 1}' >a.json
of json a.json
mkdir o/rest.partial
printf 'calib \n' >o/rest.partial/run
of parts o/rest.partial
byte_tokenizer tokenizer 16
of tokenizer tokenizer

# renamed FILE MORE SED: a safetensors file whose names sed changes, one a line, and a tensor more, of one zero.
renamed()
{
	local n header bytes
	n=$(od -An -tu4 -N4 "$1" | tr -d ' ') bytes=$(wc -c <"$1")
	bytes=$((bytes - n - 8))
	header=$(tail -c +9 "$1" | head -c "$n" | sed -E 's/([{,])"/\1\n"/g' | sed -E "$3" | tr -d '\n' | sed -E 's/\} *$//')
	header+=",\"$2\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[$bytes,$((bytes + 4))]}}"
	printf "$(printf '\\x%02x\\x%02x\\0\\0\\0\\0\\0\\0' $((${#header} % 256)) $((${#header} / 256)))"
	printf '%s' "$header"
	tail -c +$((n + 9)) "$1"
	printf '\0\0\0\0'
}
renamed a.safetensors text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight '' >text.safetensors
of adapter text.safetensors --base m
# The UNet as a checkpoint, in its original names, with a tensor of a text encoder.
renamed m/unet/diffusion_pytorch_model.safetensors cond_stage_model.transformer.text_model.final_layer_norm.bias '
	s/^"conv_in\./"input_blocks.0.0./; s/^"conv_norm_out\./"out.0./; s/^"conv_out\./"out.2./
	s/^"time_embedding\.linear_1\./"time_embed.0./; s/^"time_embedding\.linear_2\./"time_embed.2./
	s/^"down_blocks\.0\.resnets\.0\./"input_blocks.1.0./; s/^"down_blocks\.0\.downsamplers\.0\.conv\./"input_blocks.2.0.op./
	s/^"down_blocks\.1\.resnets\.0\./"input_blocks.3.0./; s/^"down_blocks\.1\.attentions\.0\./"input_blocks.3.1./
	s/^"mid_block\.resnets\.0\./"middle_block.0./; s/^"mid_block\.attentions\.0\./"middle_block.1./
	s/^"mid_block\.resnets\.1\./"middle_block.2./
	s/^"up_blocks\.0\.(resnets|attentions)\.([01])\./"output_blocks.\2.\1./
	s/^"up_blocks\.1\.resnets\.0\./"output_blocks.2.0./; s/^"up_blocks\.1\.resnets\.1\./"output_blocks.3.0./
	s/\.resnets\./.0./; s/\.attentions\./.1./
	s/^"up_blocks\.0\.upsamplers\.0\.conv\./"output_blocks.1.2.conv./
	/transformer_blocks/!{ s/\.norm1\./.in_layers.0./; s/\.norm2\./.out_layers.0./; }
	s/\.conv1\./.in_layers.2./; s/\.time_emb_proj\./.emb_layers.1./; s/\.conv2\./.out_layers.3./; s/\.conv_shortcut\./.skip_connection./
	s/^"(input_block|middle_block|output_block|out\.|time_embed)/"model.diffusion_model.\1/' >checkpoint.safetensors
cp config.json checkpoint.config.json
of model checkpoint.safetensors
# Each field that was printed has its row and its type, each row was printed. A row "PATH.*" stands for all that is below.
expect 0 "What --json prints" "$QUAD" help json
awk '
	/^quad / { name = substr($0, 6, index($0, ": ") - 6) }
	/^  / { print name "\t" $1 "\t" $2 }' out >rows
awk -F '\t' '
	NR == FNR { type[$1, $2] = "|" $3 "|"; if (sub(/\*$/, "", $2)) open[$1, $2] = 1; next }
	{
		split($2, part, " ")
		path = part[1]
		for (i = length(path); i > 0 && !(($1, path) in type); i--)
			if (substr(path, i, 1) == "." && ($1, substr(path, 1, i)) in open)
				path = substr(path, 1, i) "*"
		seen[$1, path] = 1
		if (!(($1, path) in type))
			print "no row: " $1 ": " $2
		else if (type[$1, path] != "|any|" && index(type[$1, path], "|" part[2] "|") == 0)
			print "has another type: " $1 ": " $2
	}
	END {
		for (row in type)
			if (!(row in seen)) {
				split(row, part, SUBSEP)
				print "never printed: " part[1] ": " part[2]
			}
	}' rows printed | sort -u >differences
[ -s differences ] && fault "$(cat differences)"
[ "$(wc -l <rows)" -gt 300 ] || fault "help json has few rows"
finish
