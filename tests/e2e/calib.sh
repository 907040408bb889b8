#!/bin/bash
# quad calib: images with captions through a pipeline of random weights, arrays, trajectories; what it makes feeds quad qss; a killed run
# goes on to the same bytes; everything that is wrong with a folder is said in one line.
. "$(dirname "$0")/check.bash"
png=$root/tests/fuzz/corpus/png
cd "$work" || exit 1
mkdir o

# ---- a pipeline ----
unet='"_class_name": "UNet2DConditionModel", "sample_size": 8, "out_channels": 4, "block_out_channels": [16, 16],
  "layers_per_block": 1, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
  "attention_head_dim": 2, "cross_attention_dim": 12, "norm_num_groups": 4'
echo "{ $unet, \"in_channels\": 4 }" >unet.json
echo "{ $unet, \"in_channels\": 9 }" >inpaint.json
cat >vae.json <<'JSON'
{ "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": [8, 8, 8],
  "layers_per_block": 1, "norm_num_groups": 4,
  "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
  "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"] }
JSON
cat >text.json <<'JSON'
{ "architectures": ["CLIPTextModel"], "hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
  "max_position_embeddings": 16, "vocab_size": 514, "eos_token_id": 2 }
JSON
pipeline() # NAME UNET.json
{
	expect 0 "" "$QUAD" init --config "$2" --seed 1 -o "$1"
	expect 0 "" "$QUAD" init --config vae.json --seed 2 -o "$1/vae"
	expect 0 "" "$QUAD" init --config text.json --seed 3 -o "$1/text_encoder"
	byte_tokenizer "$1/tokenizer" 16
}
pipeline m unet.json
pipeline inpaint inpaint.json
expect 0 "" "$QUAD" init --config unet.json --lora 2 --seed 4 -o a.safetensors
expect 0 "" "$QUAD" init --config unet.json --lora 4 --seed 5 -o b.safetensors

# ---- images of every kind ----
mkdir images
cp "$png/rgb" images/rgb.png
cp "$png/rgba" images/rgba.png
cp "$png/grey16_alpha" images/grey16.png
cp "$png/palette" images/palette.png
cp "$png/interlaced" images/interlaced.png
for f in rgb rgba grey16 palette interlaced; do
	echo "{\"file_name\": \"$f.png\", \"text\": \"a ${f%%[0-9]*}\", \"mask_file_name\": \"rgb.png\"}"
done >images/metadata.jsonl
calib=("$QUAD" calib --model m --data images)

expect 0 "would make 5 samples of 5 rows, latents 8 x 8, 16 tokens" "${calib[@]}" -o o/dry.safetensors --dry-run
[ -z "$(ls o)" ] || fault "a dry run leaves $(ls o)"
expect 0 "5 samples of 5 rows" "${calib[@]}" -o o/a.safetensors
loads no "${calib[@]}" -o o/a.safetensors --force
expect 0 '"samples": 5' "${calib[@]}" -o o/b.safetensors --json
cmp o/a.safetensors o/b.safetensors || fault "the same command gives other bytes"
expect 0 "" "${calib[@]}" -o o/b.safetensors --force --seed 1
cmp -s o/a.safetensors o/b.safetensors && fault "another seed gives the same bytes"
expect 0 "latents 8 x 16" "${calib[@]}" -o o/wide.safetensors --count 7 --size 64x32 --mode --dtype f16
expect 0 "F16   [7,4,8,16]" "$QUAD" inspect o/wide.safetensors
expect 0 "5 samples" "$QUAD" calib --model inpaint --data images -o o/inpaint.safetensors
expect 0 "[5,5,8,8]" "$QUAD" inspect o/inpaint.safetensors
expect 0 "[5,9,8,8]" "$QUAD" inspect o/inpaint.safetensors

# ---- what it is for ----
expect 0 "adapter   rank slots" "$QUAD" qss --base m --adapter a.safetensors --adapter b.safetensors --calib o/a.safetensors --calib o/b.safetensors
expect 0 "12 samples of 5 rows" "${calib[@]}" --trajectory euler:4 --count 12 --guidance 3 --adapter a.safetensors --adapter b.safetensors -o o/walk.safetensors
expect 0 "adapter   rank slots" "$QUAD" qss --base m --adapter a.safetensors --adapter b.safetensors --calib o/walk.safetensors
# few samples of long trajectories are of everything
expect 0 "5 prompts, 2 of 2 adapters, 6 timesteps from " "${calib[@]}" --trajectory ddim:50 --count 6 --adapter a.safetensors --adapter b.safetensors -o o/few.safetensors
expect 0 '"adapters": 2' "${calib[@]}" --trajectory ddim:50 --count 6 --adapter a.safetensors --adapter b.safetensors -o o/few.safetensors --force --json
expect 0 "prompts, 5 timesteps from " "$QUAD" calib --model m --data o/few.safetensors --count 5 -o o/fewer.safetensors
expect 0 "3 prompts, 3 timesteps from " "${calib[@]}" --count 3 --dry-run -o o/x.safetensors

# ---- samples as images ----
samples=("$QUAD" run --base m --inputs o/a.safetensors --steps 2)
expect 0 "5 samples" "${samples[@]}" --images o/png -o o/samples.safetensors
[ "$(ls o/png | tr '\n' ' ')" = "000000.png 000001.png 000002.png 000003.png 000004.png " ] || fault "images are $(ls o/png)"
expect 0 "width       32" "$QUAD" inspect o/png/000004.png
cmp -s o/png/000000.png o/png/000001.png && fault "two samples are one image"
refused "'o/png' already exists" "${samples[@]}" --images o/png -o o/x.safetensors
expect 0 "" "${samples[@]}" --adapter b.safetensors --images o/other --decode m/vae -o o/adapted.safetensors
refused "'m/unet' has no decoder, which images need: give --decode with a pipeline that has" "$QUAD" run --base m/unet --inputs o/a.safetensors --steps 2 --images o/y -o o/x.safetensors
refused "'m/text_encoder' is" "$QUAD" run --base m --inputs o/a.safetensors --steps 2 --images o/y --decode m/text_encoder -o o/x.safetensors
refused "the output 'm/png' lies in the input 'm'" "${samples[@]}" --images m/png -o o/x.safetensors
# latents are compared as they are, their images where there is a decoder; a picture of pixels is neither
compared=("$QUAD" report --task t --reference o/samples.safetensors --column b=o/adapted.safetensors)
expect 0 "| SQNR of latents against float, dB |" "${compared[@]}"
expect 0 '"sqnr_db"' "${compared[@]}" --json
refused "latents are no images, which a sheet shows" "${compared[@]}" --sheet o/sheet.png
expect 0 "| PSNR against float, dB |" "${compared[@]}" --decode m --sheet o/sheet.png
expect 0 '"psnr_db"' "${compared[@]}" --decode m --json

damage() # FILE: other bits in its last byte
{
	printf "\\$(printf %03o $((255 - $(tail -c 1 "$1" | od -An -tu1))))" | dd of="$1" bs=1 seek=$(($(stat -c %s "$1") - 1)) conv=notrunc 2>/dev/null
}

# ---- stopped by a broken picture, mended and gone on ----
cp -r images late
head -c 60 images/interlaced.png >late/interlaced.png
late=("$QUAD" calib --model m --data late)
expect 3 "late/interlaced.png' is not a readable PNG" "${late[@]}" --seed 3 -o o/late.safetensors --dry-run
expect 3 "interlaced.png' is not a readable PNG" "${late[@]}" --seed 3 -o o/late.safetensors
echo "#version: 0.3" >m/tokenizer/merges.txt
refused "('tokenizer' is another)" "${late[@]}" --seed 3 -o o/late.safetensors
echo "#version: 0.2" >m/tokenizer/merges.txt
cp m/vae/config.json vae.was
sed -i 's/"scaling_factor": [0-9.e-]*/"scaling_factor": 0.25/; t; s/^{/{ "scaling_factor": 0.25,/' m/vae/config.json
refused "('vae' is another)" "${late[@]}" --seed 3 -o o/late.safetensors
mv vae.was m/vae/config.json
damage o/late.safetensors.partial/image-000001.safetensors
damage o/late.safetensors.partial/text-000002.safetensors
cp images/interlaced.png late/interlaced.png
cp images/rgba.png late/grey16.png
expect 0 "" "$QUAD" calib --model m --data late --seed 3 -o o/fresh.safetensors
expect 0 '"kept": 6' "${late[@]}" --seed 3 -o o/late.safetensors --json
[ "$(grep -c "is damaged: its hash is not that of its bytes; it is made anew" err)" -eq 2 ] || fault "damaged parts are not said"
[ "$(grep -c "image-000002.safetensors' was made from something else than what is there now; it is made anew" err)" -eq 1 ] || fault "another picture is not said"
cmp o/fresh.safetensors o/late.safetensors || fault "a mended run gives other bytes"

# ---- killed and gone on ----
long=("${calib[@]}" --trajectory ddim:60 --count 240)
expect 0 "" "${long[@]}" -o o/whole.safetensors
"${long[@]}" -o o/killed.safetensors 2>/dev/null &
pid=$!
for _ in $(seq 600); do
	[ "$(ls o/killed.safetensors.partial 2>/dev/null | grep -c walk)" -ge 1 ] && break
	kill -0 $pid 2>/dev/null || break
	sleep 0.05
done
kill -KILL $pid 2>/dev/null
wait $pid 2>/dev/null
if [ -e o/killed.safetensors ]; then
	skip "the run ended before it could be killed"
else
	refused "holds parts of a run with other data or options ('seed' is another)" "${calib[@]}" --trajectory ddim:60 --count 240 --seed 9 -o o/killed.safetensors
	# --force drops the parts, and nothing that lies beside them
	expect 0 "parts of an unfinished quad calib" "$QUAD" inspect o/killed.safetensors.partial
	cp -r o/killed.safetensors.partial o/forced.safetensors.partial
	touch o/forced.safetensors.partial/mine.safetensors o/forced.safetensors.partial/walk-000001-mine.safetensors
	expect 0 "5 samples" "${calib[@]}" --trajectory ddim:5 --count 5 -o o/forced.safetensors --force
	[ "$(ls -A o/forced.safetensors.partial | tr '\n' ' ')" = "mine.safetensors walk-000001-mine.safetensors " ] ||
		fault "--force leaves of the parts and what is not one of them: $(ls -A o/forced.safetensors.partial)"
	refused "'o/forced.safetensors.partial' is in the way: it holds no parts of a run" "${calib[@]}" --trajectory ddim:5 --count 5 -o o/forced.safetensors --force
	cp m/scheduler/scheduler_config.json schedule
	sed -i 's/^{/{ "beta_end": 0.013,/; /"beta_end": 0.012/d' m/scheduler/scheduler_config.json
	refused "('schedule' is another)" "${long[@]}" -o o/killed.safetensors
	mv schedule m/scheduler/scheduler_config.json
	damage o/killed.safetensors.partial/walk-000000.safetensors
	# killed while it wrote a part, which happens by chance
	: >o/killed.safetensors.partial/.walk-000001.safetensors.quad-abc123
	expect 0 '"samples": 240' "${long[@]}" -o o/killed.safetensors --json
	grep -q "walk-000000.safetensors' is damaged: its hash is not that of its bytes; it is made anew" err || fault "a flipped bit is not said"
	grep -q '"kept": 0,\?$' out && fault "nothing of the killed run was used"
	cmp o/whole.safetensors o/killed.safetensors || fault "a resumed run gives other bytes"
fi
[ ! -e o/killed.safetensors.partial ] || fault "parts are left behind"

# ---- arrays ----
expect 0 "5 samples of 5 rows" "$QUAD" calib --model m --data o/a.safetensors -o o/c.safetensors
expect 0 "9 samples of 5 rows" "$QUAD" calib --model m --data o/a.safetensors --count 9 -o o/d.safetensors
refused "13 samples of 12 noisy ones" "$QUAD" calib --model m --data o/walk.safetensors --count 13 -o o/x.safetensors
refused "their size is what it is" "$QUAD" calib --model m --data o/a.safetensors --size 8 -o o/x.safetensors
refused "guidance needs a folder of images" "$QUAD" calib --model m --data o/a.safetensors --guidance 2 -o o/x.safetensors
refused "has samples of [4,8,8], the model takes [9,?,?]" "$QUAD" calib --model inpaint --data o/walk.safetensors -o o/x.safetensors

# ---- what is wrong with a folder ----
bad() # TEXT METADATA: a folder of good images and this metadata
{
	rm -rf bad
	cp -r images bad
	printf '%s\n' "$2" >bad/metadata.jsonl
	refused "$1" "$QUAD" calib --model "${3:-m}" --data bad -o o/x.safetensors
	rm -rf o/x.safetensors.partial
}
bad "metadata.jsonl' line 2: " '{"file_name": "rgb.png"}
{"file_name": rgb.png}'
bad "line 1: has no 'file_name'" '{"text": "x"}'
bad "'file_name' is 'none.png', and there is no such file" '{"file_name": "none.png"}'
bad "line 2: 'file_name' is 'rgb.png', as in line 1" '{"file_name": "rgb.png"}
{"file_name": "rgb.png"}'
bad "has no 'mask_file_name', which the model's 5 further channels are made of" '{"file_name": "rgb.png"}' inpaint
mkdir nothing
refused "'nothing' holds neither metadata.jsonl, metadata.csv nor images" "$QUAD" calib --model m --data nothing -o o/x.safetensors
refused "none" "$QUAD" calib --model m --data none -o o/x.safetensors
head -c 60 images/rgb.png >images/cut.png
rm images/metadata.jsonl
expect 3 "cut.png' is not a readable PNG" "${calib[@]}" -o o/x.safetensors
[ "$(grep -vc '^quad: warning: ' err)" -eq 1 ] || fault "a broken image takes more than one line"
[ -d o/x.safetensors.partial ] || fault "what was done before the broken image is not kept"
rm -r images/cut.png o/x.safetensors.partial
refused "images of 33x33 pixels, the VAE needs multiples of 4" "${calib[@]}" --size 33 -o o/x.safetensors
mv m/text_encoder away
refused "has no folder 'text_encoder'" "${calib[@]}" -o o/x.safetensors
mv away m/text_encoder
mv m/vae away
refused "vae/config.json" "${calib[@]}" -o o/x.safetensors
mv away m/vae
refused "'o/a.safetensors' already exists" "${calib[@]}" -o o/a.safetensors
expect 2 "quad calib: needs --model" "$QUAD" calib
expect 2 "quad calib: needs --data FOLDER|FILE, -o PATH" "$QUAD" calib --base m
expect 2 "--size is '0', needs a whole number" "${calib[@]}" --size 0
expect 2 "--trajectory is 'heun', needs one of" "${calib[@]}" --trajectory heun:3

# ---- SDXL: both encoders, sizes and crops; captions give what diffusers computes from them ----
if golden text; then
	mkdir xl
	cp -r "$QUAD_GOLDEN/tinyxl/unet" "$QUAD_GOLDEN/tinyxl/model_index.json" xl
	cp -r "$QUAD_GOLDEN/text/te1" xl/text_encoder
	cp -r "$QUAD_GOLDEN/text/te2" xl/text_encoder_2
	cp -r "$QUAD_GOLDEN/text/tokenizer_tiny" xl/tokenizer
	cp -r "$QUAD_GOLDEN/text/tokenizer_tiny_2" xl/tokenizer_2
	cp -r m/vae xl/vae
	expect 0 "would make" "$QUAD" calib --model xl --data images --size 32 -o o/x.safetensors --dry-run
	expect 0 "5 samples of 5 rows" "$QUAD" calib --model xl --data images --size 32 -o o/xl.safetensors
	expect 0 "time_ids               F32   [5,6]" "$QUAD" inspect o/xl.safetensors
	expect 0 "[5,24]" "$QUAD" inspect o/xl.safetensors
	expect 0 "" "$QUAD" eval --base xl --inputs o/xl.safetensors
fi
finish
