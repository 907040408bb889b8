#!/bin/bash
# What a killed program leaves: nothing half-done, nothing that the next run trips over, nothing for good.
. "$(dirname "$0")/check.bash"
o=$work/o
scenes=$(dirname "$QUAD")/scenes
export OMP_WAIT_POLICY=passive
mkdir "$o"
[ -x "$scenes" ] || { echo "'$scenes' is not built"; exit 77; }
cd "$work" || exit 1

# Kills the program at its K-th rename, K from the environment.
cat >killer.c <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static void count(void)
{
	static int n;
	const char *at = getenv("KILL_AT_RENAME");
	if (at != NULL && ++n == atoi(at))
		kill(getpid(), SIGKILL);
}
int rename(const char *from, const char *to)
{
	count();
	return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(from, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
	count();
	return ((int (*)(int, const char *, int, const char *, unsigned))dlsym(RTLD_NEXT, "renameat2"))(a, from, b, to, flags);
}
C
"${CC:-cc}" -shared -fPIC -o killer.so killer.c -ldl 2>err || { echo "no compiler for what kills: $(cat err)"; exit 77; }

# kill_at K COMMAND...: true when the command was killed, false when it came to its end
kill_at()
{
	local k=$1 status
	shift
	KILL_AT_RENAME=$k LD_PRELOAD=$work/killer.so "$@" >out 2>err
	status=$?
	[ $status -eq 137 ] && return 0
	[ $status -eq 0 ] || fault "exit $status: $*
$(cat err)"
	return 1
}

# every file with its content, hidden ones too
content()
{
	(cd "$1" && find . -type f -print0 | sort -z | xargs -0 cksum)
}

cat >config.json <<'JSON'
{ "_class_name": "UNet2DConditionModel", "sample_size": 32, "in_channels": 25, "out_channels": 12, "block_out_channels": [16, 16],
  "layers_per_block": 1, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
  "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 2, "cross_attention_dim": 48, "norm_num_groups": 4 }
JSON
expect 0 "" "$QUAD" init --config config.json --seed 1 -o m
expect 0 "" "$QUAD" init --config config.json --lora 2 --seed 1 -o a.safetensors
expect 0 "" "$QUAD" init --config config.json --lora 2 --seed 2 -o b.safetensors
expect 0 "" "$scenes" --task all --count 2 --seed 1 --schedule m -o calib.safetensors
expect 0 "" "$QUAD" qss --base m --adapter a=a.safetensors --adapter b=b.safetensors --calib calib.safetensors -o profile.json
expect 0 "" "$QUAD" export --base m --profile profile.json --adapter a=a.safetensors --tokens 8 --format both -o first

# Adapters join an export, or replace those in it, all together or not at all: the next command finds the one or the other.
add=("$QUAD" export --adapter-only --base m --profile profile.json)
for how in "--adapter b=b.safetensors" "--adapter a=b.safetensors --adapter c=a.safetensors --force"; do
	cp -r first whole
	expect 0 "" "${add[@]}" $how -o whole
	content whole >whole.sums
	content first >first.sums
	rm -r whole
	k=0
	while k=$((k + 1)) && rm -rf export && cp -r first export && kill_at $k "${add[@]}" $how -o export; do
		expect 0 "adapter" "$QUAD" inspect export
		content export | grep -v "/\.\.quad-update\.[^/]*/" >sums
		if cmp -s sums first.sums; then
			cp out before
		elif cmp -s sums whole.sums; then
			touch after
		else
			fault "killed at rename $k of '$how' the export has something of both: $(diff sums whole.sums)"
		fi
		expect 0 "" "${add[@]}" $how -o export --force
		content export | grep -v "/\.\.quad-update\.[^/]*/" | cmp -s - whole.sums || fault "killed at rename $k of '$how' the same command gives something else"
	done
	[ $k -gt 6 ] && [ -e before ] && [ -e after ] || fault "$k renames, none of them matters"
	rm -rf before after
done
finish
