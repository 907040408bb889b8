#!/bin/bash
# quad train: all weights and an adapter, what it prints, a run that was killed, bad input.
. "$(dirname "$0")/check.bash"
o=$work/o
mkdir "$o"
needs_scenes

# A small model of the example's channels, and its data.
cat >"$work/config.json" <<'END'
{ "in_channels": 25, "out_channels": 12, "sample_size": 32, "block_out_channels": [8, 16], "layers_per_block": 1, "cross_attention_dim": 48,
  "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
  "attention_head_dim": 2, "norm_num_groups": 4 }
END
expect 0 "" "$QUAD" init --config "$work/config.json" --prediction v_prediction -o "$work/base"
expect 0 "" "$scenes" --task removal --count 8 --seed 1 -o "$work/data"
train=("$QUAD" train --base "$work/base" --data "$work/data" --batch 2 --lr 2e-3 --threads 1)

expect 0 "parameters, 3 steps" "${train[@]}" --steps 3 -o "$o/model"
expect 0 "" "$QUAD" inspect "$o/model"
expect 0 '"steps": 3' "${train[@]}" --steps 3 -o "$o/again" --json --val "$work/data"
grep -q '"validation": 0\.' "$work/out" || fault "no validation loss"
diff -r "$o/model" "$o/again" >/dev/null || fault "the same seed gives another model"
expect 0 "" "${train[@]}" --steps 3 -o "$o/half" --dtype f16 --ema 0.9 --snr-gamma 5 --prompt-dropout 0.1 --schedule linear --warmup 1
expect 0 "F16" "$QUAD" inspect "$o/half"
expect 0 "" "${train[@]}" --steps 2 --lora 2 --alpha 1 --slots attention -o "$o/lora.safetensors"
expect 0 "LoRA in diffusers format" "$QUAD" inspect "$o/lora.safetensors" --base "$work/base"
expect 0 "" "${train[@]}" --steps 1 --init-adapter "$o/lora.safetensors" -o "$o/further.safetensors"

# Two threads on one processor cost no more of its time than one does.
processor=$(taskset -cp $$ 2>/dev/null | sed 's/.*: *\([0-9]*\).*/\1/')
processor_seconds()
{
	local TIMEFORMAT='%U %S'
	{ time taskset -c "$processor" env -u OMP_WAIT_POLICY "${train[@]}" -q --lora 2 --steps 20 --threads "$1" -o "$o/threads" --force \
		>"$work/out" 2>"$work/err"; } 2>&1 | awk '{ print $1 + $2 }'
}
if [ -n "$processor" ]; then
	one=$(processor_seconds 1) two=$(processor_seconds 2)
	awk -v one="$one" -v two="$two" 'BEGIN { exit !(one > 0 && two < 2 * one + 1) }' ||
		fault "two threads take $two s of a processor, one takes $one: $(cat "$work/err")"
fi

# A run that is killed once its first checkpoint is there goes on and ends in the same bytes; nothing but the checkpoint was left.
long=("${train[@]}" --steps 12 --ema 0.9 --checkpoint-every 4)
expect 0 "" "${long[@]}" -o "$o/whole"
mkdir "$o/k"
"${long[@]}" -o "$o/k/killed" >/dev/null 2>&1 &
victim=$!
while [ ! -e "$o/k/killed.ckpt" ] && kill -0 $victim 2>/dev/null; do sleep 0.01; done
kill -KILL $victim 2>/dev/null
wait $victim 2>/dev/null
if [ -e "$o/k/killed.ckpt" ]; then
	[ -e "$o/k/killed" ] && fault "there is a result before the end"
	expect 0 "state of a training run" "$QUAD" inspect "$o/k/killed.ckpt"
	expect 0 '"kind": "state"' "$QUAD" inspect "$o/k/killed.ckpt" --json
	expect 0 "resuming from '$o/k/killed.ckpt' at step" "${long[@]}" -v -o "$o/k/killed"
else
	skip "the run ended before it could be killed"
fi
diff -r "$o/whole" "$o/k/killed" >/dev/null || fault "a resumed run ends elsewhere"
[ "$(ls -A "$o/k")" = killed ] || fault "leaves '$(ls -A "$o/k")' behind"

# A signal leaves nothing but the checkpoint.
mkdir "$o/s"
"${long[@]}" --steps 100000 -o "$o/s/model" >/dev/null 2>&1 &
victim=$!
while [ ! -e "$o/s/model.ckpt" ] && kill -0 $victim 2>/dev/null; do sleep 0.01; done
kill -INT $victim
kill -TERM $victim
wait $victim
[ "$(ls -A "$o/s")" = model.ckpt ] || fault "a signal leaves '$(ls -A "$o/s")' behind"
refused "'$o/s/model.ckpt' is of a run with other options" "${long[@]}" -o "$o/s/model"
cp "$work/base/scheduler/scheduler_config.json" "$work/schedule.json"
sed -i 's/"beta_end": [0-9.]*/"beta_end": 0.013/' "$work/base/scheduler/scheduler_config.json"
refused "'$o/s/model.ckpt' is of a run with other options" "${long[@]}" --steps 100000 -o "$o/s/model"
cp "$work/schedule.json" "$work/base/scheduler/scheduler_config.json"

expect 2 "quad train: needs --data FILE" "$QUAD" train --base "$work/base" -o "$o/x"
expect 2 "exclude each other" "${train[@]}" --lora 2 --init-adapter "$o/lora.safetensors" -o "$o/x"
expect 2 "--alpha needs --lora" "${train[@]}" --alpha 2 -o "$o/x"
expect 2 "is longer than" "${train[@]}" --steps 2 --warmup 3 -o "$o/x"
refused "'$o/model' already exists" "${train[@]}" -o "$o/model"
refused "'$work/none'" "${train[@]}" --data "$work/none" -o "$o/x"
expect 0 "" "$QUAD" init --arch tiny -o "$work/tiny"
refused "tensor 'latents' has samples of [12,32,32], the model takes [4,?,?]" "$QUAD" train --base "$work/tiny" --data "$work/data" -o "$o/x"
: >"$work/none.txt"
refused "selects no layer" "${train[@]}" --lora 2 --slots "$work/none.txt" -o "$o/x.safetensors"
expect 2 "quad train: needs -o PATH" "${train[@]}"
finish
