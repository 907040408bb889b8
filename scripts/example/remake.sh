#!/bin/sh
# Makes the committed example again, from nothing, with the program itself: a 2-million-parameter inpainting UNet trained on drawn scenes, then
# four adapters on the frozen model. About an hour and a half on two cores (a third of that where the CPU multiplies bfloat16).
#
#   scripts/example/remake.sh [FOLDER]      default build/example; copy FOLDER/model and FOLDER/adapters over scripts/example to commit them
#
# QUAD and SCENES name the programs (default build/quad, build/scenes). Finished parts are kept, so that a stopped run goes on where it was.
set -eu
cd "$(dirname "$0")/../.."
out=${1:-build/example}
quad=${QUAD:-build/quad}
scenes=${SCENES:-build/scenes}
mkdir -p "$out/adapters"

data() { # NAME TASK COUNT SEED
	[ -f "$out/$1.safetensors" ] || "$scenes" --task "$2" --count "$3" --seed "$4" -o "$out/$1.safetensors"
}

if [ ! -d "$out/model" ]; then
	[ -d "$out/start" ] || {
		"$quad" init --config scripts/example/unet.json --seed 1 -o "$out/start"
		cp scripts/example/scheduler_config.json "$out/start/scheduler/scheduler_config.json"
		sed -i 's/DDIMScheduler/EulerDiscreteScheduler/' "$out/start/model_index.json"
	}
	data base base 20000 1
	"$quad" train --base "$out/start" --data "$out/base.safetensors" --steps 4000 --batch 32 --lr 1.5e-3 --warmup 100 --schedule cosine \
		--ema 0.999 --precision bf16 --seed 1 --dtype f16 --checkpoint-every 250 -o "$out/model"
fi

adapter() { # TASK RANK ALPHA SLOTS STEPS LEARNING-RATE
	data "$1" "$1" 4096 2
	[ -f "$out/adapters/$1.safetensors" ] || "$quad" train --base "$out/model" --lora "$2" --alpha "$3" --slots "$4" --data "$out/$1.safetensors" \
		--steps "$5" --batch 32 --lr "$6" --warmup 50 --schedule cosine --precision bf16 --seed 2 --dtype f16 -o "$out/adapters/$1.safetensors"
}
# Ranks and scales differ on purpose: one shared profile for all of them is a real problem.
adapter removal 16 16 transformer 350 2e-3
adapter sketch 8 16 all 450 2e-3
adapter night 4 1 all 350 4e-3
adapter sticker 8 4 all 350 3e-3
