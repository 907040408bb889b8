#!/bin/bash
# quad distill: better than the start, exactly on the profile's grid, repeatable, resumable after a kill, bad input.
. "$(dirname "$0")/check.bash"
o=$work/o
mkdir "$o"
needs_scenes

cat >"$work/config.json" <<'END'
{ "in_channels": 25, "out_channels": 12, "sample_size": 32, "block_out_channels": [8, 16], "layers_per_block": 1, "cross_attention_dim": 48,
  "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
  "attention_head_dim": 2, "norm_num_groups": 4 }
END
cd "$work" || exit 1
expect 0 "" "$QUAD" init --config config.json --prediction v_prediction --seed 1 -o m
expect 0 "" "$QUAD" init --config config.json --prediction v_prediction --seed 2 -o other
expect 0 "" "$scenes" --task all --count 8 --seed 1 --schedule m -o calib.safetensors
expect 0 "" "$scenes" --task sketch --count 8 --seed 2 -o data.safetensors
expect 0 "" "$QUAD" train --base m --lora 2 --slots all --data data.safetensors --steps 6 --batch 2 --lr 0.02 --seed 1 -o a.safetensors
expect 0 "" "$QUAD" train --base m --lora 4 --slots attention --data data.safetensors --steps 6 --batch 2 --lr 0.02 --seed 2 -o b.safetensors
expect 0 "" "$QUAD" qss --base m --adapter a=a.safetensors --adapter b=b.safetensors --calib calib.safetensors --align none --method anchor \
	--anchor b --slots all --act-bits 0 -o p.json
distill=("$QUAD" distill --base m --profile p.json --adapter a=a.safetensors --batch 4 --threads 1)

# number KEY: the last value of a key in the document that was printed.
number()
{
	sed -n "s/.*\"$1\": \([-+.e0-9]*\).*/\1/p" out | tail -n 1
}

expect 0 '"schema": 1' "${distill[@]}" --data data.safetensors --steps 8 --lr 0.2 --json -o o/d.safetensors
awk -v before="$(sed -n 's/.*"error": //p' out | head -n 1)" -v after="$(number error)" 'BEGIN { exit !(after + 0 < before + 0) }' ||
	fault "the error did not fall: $(cat out)"
expect 0 "-> " "${distill[@]}" --data data.safetensors --steps 8 --lr 0.2 -o o/e.safetensors
cmp -s o/d.safetensors o/e.safetensors || fault "the same seed gives another adapter"
expect 0 "" "${distill[@]}" --data data.safetensors --steps 8 --lr 0.2 --seed 1 -o o/e.safetensors --force
cmp -s o/d.safetensors o/e.safetensors && fault "another seed gives the same adapter"
expect 0 "LoRA in diffusers format" "$QUAD" inspect o/d.safetensors --base m

# Whatever makes the gradients, the same seed gives the same bytes, as good as those of the others: within 0.3 dB.
expect 0 "" "${distill[@]}" --data data.safetensors --steps 8 --lr 0.2 --json -o o/e.safetensors --force
error=$(number error)
for student in "--engine builtin --grad f32" "--engine torch"; do
	read -ra how <<<"$student"
	expect 0 "" "${distill[@]}" "${how[@]}" --data data.safetensors --steps 8 --lr 0.2 -o o/f.safetensors --force
	expect 0 "" "${distill[@]}" "${how[@]}" --data data.safetensors --steps 8 --lr 0.2 --json -o o/e.safetensors --force
	cmp -s o/e.safetensors o/f.safetensors || fault "$student: the same seed gives another adapter"
	awk -v a="$(number error)" -v b="$error" 'BEGIN { d = 10 * log(a / b) / log(10); exit !(d < 0.3 && d > -0.3) }' ||
		fault "$student: the error is $(number error), else $error"
done
expect 2 "--grad is 'f16', needs one of bf16, f32" "${distill[@]}" --grad f16 --data data.safetensors -o o/x.safetensors

# What was distilled lies on the grid: taken once more, without a step, it comes back as it is.
expect 2 "one adapter is distilled at a time, 2 given" "${distill[@]}" --adapter a=o/d.safetensors --data data.safetensors -o o/x.safetensors
again=("$QUAD" distill --base m --profile p.json --adapter a=o/d.safetensors --batch 4 --threads 1 --data data.safetensors --steps 0)
expect 0 "best after step 0 of 0" "${again[@]}" -o o/same.safetensors
cmp -s o/d.safetensors o/same.safetensors || fault "a distilled adapter changes when it is fitted again"
rm o/same.safetensors

# In another profile's export it is warned of, taken as it is, and fitted anew on request alone.
expect 0 "" "$QUAD" qss --base m --adapter a.safetensors --calib calib.safetensors -o other.json
exported=("$QUAD" export --base m --adapter d=o/d.safetensors --dry-run -o o/x)
expect 0 "update exact" "${exported[@]}" --profile p.json
[ ! -s err ] || fault "an adapter on the profile's own grid is warned of: $(cat err)"
expect 0 "taken as it is; --refit fits it anew" "${exported[@]}" --profile other.json
[ "$(grep -cE "^quad: warning: adapter 'd' was distilled for the grid xxh3-128:[0-9a-f]{32} of another profile, this one's is xxh3-128:[0-9a-f]{32}: " err)" -eq 1 ] ||
	fault "another profile is not told in one line: $(cat err)"
as_is=$(sed -n 's/.*update SQNR \(.*\) dB/\1/p' out)
expect 0 "update SQNR" "${exported[@]}" --profile other.json --refit
[ ! -s err ] || fault "what was asked for is warned of: $(cat err)"
[ "$as_is" != "$(sed -n 's/.*update SQNR \(.*\) dB/\1/p' out)" ] || fault "--refit changes nothing"
expect 0 "--refit fits it anew" "$QUAD" run --base m --profile other.json --adapter d=o/d.safetensors --inputs data.safetensors --steps 1 -o o/e.safetensors --force

expect 0 "" "${distill[@]}" --calib calib.safetensors --steps 2 -o o/e.safetensors --force
expect 0 "" "${distill[@]}" --data data.safetensors --steps 2 --trajectory euler:4 --pool 16 --task-weight 0.001 -o o/e.safetensors --force

# --pool says how many draws are learned from, whole batches of them; others judge.
expect 0 '"draws": 12' "${distill[@]}" --data data.safetensors --steps 1 --pool 9 --json -o o/e.safetensors --force
expect 0 "on 4 held-out draws, learned from 12" "${distill[@]}" --data data.safetensors --steps 1 --pool 12 -o o/e.safetensors --force

# A run that is killed once its first checkpoint is there goes on and ends in the same bytes.
mkdir o/k
long=("${distill[@]}" --data data.safetensors --steps 12 --lr 1 --checkpoint-every 4)
for student in "--engine torch" "--grad f32" "--grad bf16"; do
	read -ra how <<<"$student"
	expect 0 "" "${long[@]}" "${how[@]}" -o o/whole.safetensors --force
	"${long[@]}" "${how[@]}" -o o/k/killed.safetensors >/dev/null 2>&1 &
	victim=$!
	while [ ! -e o/k/killed.safetensors.ckpt ] && kill -0 $victim 2>/dev/null; do sleep 0.01; done
	kill -KILL $victim 2>/dev/null
	wait $victim 2>/dev/null
	if [ -e o/k/killed.safetensors.ckpt ]; then
		cp o/k/killed.safetensors.ckpt state
		expect 0 "resuming from 'o/k/killed.safetensors.ckpt' at step" "${long[@]}" "${how[@]}" -v -o o/k/killed.safetensors
	else
		rm -f state
		skip "$student: the run ended before it could be killed"
	fi
	cmp -s o/whole.safetensors o/k/killed.safetensors || fault "$student: a resumed run ends elsewhere"
	[ "$(ls -A o/k)" = killed.safetensors ] || fault "$student: leaves '$(ls -A o/k)' behind"
	rm -f o/k/killed.safetensors
done

# A state is of the gradients and of the noise schedule that it came about with.
if [ -e state ]; then
	cp state o/other.safetensors.ckpt
	for student in "--grad f32" "--engine torch"; do
		read -ra how <<<"$student"
		refused "'o/other.safetensors.ckpt' is of a run with other options" "${long[@]}" "${how[@]}" -o o/other.safetensors
	done
	cp m/scheduler/scheduler_config.json schedule.json
	sed -i 's/"beta_end": [0-9.]*/"beta_end": 0.013/' m/scheduler/scheduler_config.json
	refused "'o/other.safetensors.ckpt' is of a run with other options" "${long[@]}" -o o/other.safetensors
	cp schedule.json m/scheduler/scheduler_config.json
	expect 0 "resuming from" "${long[@]}" -v -o o/other.safetensors
fi

expect 2 "quad distill: needs --data FILE" "${distill[@]}" -o o/x.safetensors
expect 2 "quad distill: needs -o PATH" "${distill[@]}" --calib data.safetensors
expect 2 "is longer than" "${distill[@]}" --data data.safetensors --steps 2 --warmup 3 -o o/x.safetensors
refused "already exists" "${distill[@]}" --data data.safetensors -o o/d.safetensors
refused "the profile was made for xxh3-128:" "$QUAD" distill --base other --profile p.json --adapter a=a.safetensors --data data.safetensors -o o/x.safetensors
refused "'none.json'" "$QUAD" distill --base m --profile none.json --adapter a=a.safetensors --data data.safetensors -o o/x.safetensors
expect 2 "--trajectory is 'lcm', needs one of ddim, euler" "${distill[@]}" --data data.safetensors --trajectory lcm:4 -o o/x.safetensors
finish
